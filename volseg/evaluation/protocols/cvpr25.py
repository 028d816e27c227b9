"""The interactive track of the CVPR 2025 challenge "Foundation models for interactive 3D biomedical segmentation"."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from volseg.data.labelmap import Label, LabelMap
from volseg.data.object_mask import ObjectMask
from volseg.evaluation.placement import NEIGHBOURS_26, box_between
from volseg.evaluation.protocols.base import CLICKS, Answer, Curve, Dialogue, Need, Protocol
from volseg.evaluation.reference import Reference, ReferenceObject
from volseg.geometry import Frame, Grid
from volseg.prompts import Box, Point, Prompt, PromptKind

if TYPE_CHECKING:
    from volseg.evaluation.rows import Row
    from volseg.evaluation.trial import Trial

ARRAY_AXCODES = "SPL"
"""Order of the challenge's arrays, z, y, x: SimpleITK's, of LPS images."""

CLICK_SEED = 42
BOX_SEED = 2025
BOX_SHIFT = 5
"""Boxes are enlarged by up to so many pixels of a picture of ``BOX_SHIFT_SIDE``."""
BOX_SHIFT_SIDE = 256
PADDING = 0.25
"""The crop around an error is padded by this part of its sides, by one voxel at least."""
MAX_VOXELS = 60_000_000
"""A larger padded crop is halved before distances are computed."""
LIMIT_S = 90.0
"""Seconds a class and case, over all steps; more scores 0."""
LEAST_DICE = 0.2
"""NSD counts as 0 where the mean Dice is no higher."""

BOX_STEP = "box"
CLICK_STEPS = tuple(f"click {number}" for number in range(1, CLICKS + 1))


class Cvpr25Interactive(Protocol):
    """All objects of a case together: a box each, then five times a click each where the answer is most wrong.

    The middle slice of a box is number n // 2 of the n occupied ones. Of several answers that claim a voxel the last
    keeps it, as the challenge's answers are label maps. An archive without boxes starts with clicks, its first step
    scores 0; tables and folders have no boxes of their own and get the generated ones.
    """

    name: ClassVar[str] = "cvpr25-interactive"
    version: ClassVar[int] = 1
    parts: ClassVar[dict[str, frozenset[Need]]] = {
        "interactive": frozenset({(PromptKind.BOX_3D, True), (PromptKind.POINT, True), (PromptKind.POINT, False)})
    }
    curves: ClassVar[tuple[Curve, ...]] = (Curve("clicks", (BOX_STEP, *CLICK_STEPS), CLICK_STEPS),)

    def dialogues(self, reference: Reference, parts: tuple[str, ...], seed: int) -> tuple[Dialogue, ...]:
        """See ``Protocol.dialogues``; the challenge's own seeds are used whatever ``seed`` is."""
        return (Dialogue(reference.objects, (BOX_STEP, *CLICK_STEPS), partial(_dialogue, reference)),)

    def settled(self, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        """0 for everything where the case took too long; NSD 0 where the mean Dice is low."""
        classes = len({row.object for row in rows})
        seconds = sum(row.seconds for row in rows)
        if seconds > LIMIT_S * classes:
            late = f"the case took {seconds:.0f} s, more than {LIMIT_S:g} s a class"
            return tuple(replace(row, dice=0.0, nsd=0.0, dice_in_extent=0.0, error=row.error or late) for row in rows)
        steps: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            steps[row.step].append(row.dice)
        low = {step for step, scores in steps.items() if np.mean(scores) <= LEAST_DICE}
        return tuple(replace(row, nsd=0.0) if row.step in low else row for row in rows)


def _dialogue(reference: Reference, trial: Trial) -> Iterator[Answer]:
    grid, objects = reference.grid, reference.objects
    said: dict[ReferenceObject, tuple[Prompt, ...]] = {item: () for item in objects}
    answers: tuple[Answer, ...] = ()
    if reference.has_boxes:
        said = {item: (challenge_box(item, grid),) for item in objects}
        answers = _label_map(trial.ask_all(BOX_STEP, said), grid)
    else:
        answers = tuple(trial.nothing(item, BOX_STEP) for item in objects)
    yield from answers
    for step in CLICK_STEPS:
        clicks = {one.item: challenge_click(one.mask, one.item.truth) for one in answers}
        said = {
            item: prompts if (click := clicks[item]) is None else (*prompts, click) for item, prompts in said.items()
        }
        answers = tuple(trial.repeat(one, step) for one in answers) if not any(clicks.values()) else _label_map(
            trial.ask_all(step, said), grid)  # fmt: skip
        yield from answers


def _label_map(answers: tuple[Answer, ...], grid: Grid) -> tuple[Answer, ...]:
    """The answers as one label map has them."""
    labels = [Label(one.item.object_id, one.item.name, (0, 0, 0)) for one in answers]
    labelmap = LabelMap.from_masks(grid, [one.mask for one in answers], labels)
    return tuple(
        replace(one, mask=ObjectMask.of(one.item.object_id, grid, labelmap.mask(one.item.object_id))) for one in answers
    )


def challenge_box(item: ReferenceObject, grid: Grid) -> Box:
    """The archive's box of an object, or one made as the challenge made them.

    In z from the first to the last occupied slice; in the plane the box of the middle occupied slice, enlarged by one
    draw for x and y.
    """
    if item.box_ijk is not None:
        return box_between(item.box_ijk[0], item.box_ijk[1])
    array = _Zyx(grid)
    truth = array.view(item.truth.full())
    occupied = np.flatnonzero(truth.any(axis=(1, 2)))
    middle = np.argwhere(truth[occupied[len(occupied) // 2]])
    shift = int(np.random.RandomState(BOX_SEED).randint(0, BOX_SHIFT + 1))
    size = np.array(truth.shape[1:])
    by = (shift * size / BOX_SHIFT_SIDE).astype(int)
    low, high = np.maximum(0, middle.min(axis=0) - by), np.minimum(size - 1, middle.max(axis=0) + by)
    corners = array.stored(np.array([[occupied[0], *low], [occupied[-1], *high]], dtype=np.float64))
    return box_between(corners.min(axis=0), corners.max(axis=0))


def challenge_click(answer: ObjectMask, truth: ObjectMask) -> Point | None:
    """The challenge's next click for one object; None where the answer is right."""
    array = _Zyx(truth.grid)
    wanted = array.view(truth.full())
    voxel = click_zyx(array.view(answer.full()), wanted)
    if voxel is None:
        return None
    i, j, k = array.stored(voxel.astype(np.float64))
    return Point((float(i), float(j), float(k)), Frame.IJK, bool(wanted[tuple(voxel)]))


def click_zyx(answer: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Where the challenge clicks, (z, y, x); None where nothing is wrong.

    The largest 26-connected part of the error; the Euclidean distance in voxels to its border on its padded crop; one
    of the voxels of maximal distance, drawn with the generator reset to seed 42.

    Args:
        answer: bool [D, H, W].
        wanted: bool [D, H, W].
    """
    from scipy.ndimage import find_objects, label

    error = answer != wanted
    if not error.any():
        return None
    parts, _ = label(error, NEIGHBOURS_26)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest = int(sizes.argmax())
    where = find_objects(parts)[largest - 1]
    crop = parts[where] == largest
    padding = [max(1, int(PADDING * size)) for size in crop.shape]
    depth = _depth(np.pad(crop, [(one, one) for one in padding]))
    deepest = np.argwhere(depth == depth.max())
    drawn = np.random.RandomState(CLICK_SEED).choice(len(deepest))
    at = deepest[drawn] - padding + [one.start for one in where]
    if not crop[tuple(deepest[drawn] - padding)]:  # halving may have spread the maximum over a voxel beside the error
        inside = np.argwhere(crop) + [one.start for one in where]
        at = inside[((inside - at) ** 2).sum(axis=1).argmin()]
    result: NDArray[np.int64] = at.astype(np.int64)
    return result


def _depth(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    from scipy.ndimage import distance_transform_edt

    if mask.size <= MAX_VOXELS:
        exact: NDArray[np.float64] = distance_transform_edt(mask)
        return exact
    from skimage.measure import block_reduce

    depth = distance_transform_edt(block_reduce(mask, (2, 2, 2), np.max))
    for axis in range(3):
        depth = np.repeat(depth, 2, axis=axis)
    doubled: NDArray[np.float64] = depth[tuple(slice(0, size) for size in mask.shape)]
    return doubled


class _Zyx:
    """A grid's voxels in the order of the challenge's arrays."""

    def __init__(self, grid: Grid) -> None:
        self._matrix = grid.reorientation(ARRAY_AXCODES)

    def view(self, volume: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[D, H, W]; nothing is copied."""
        order = np.abs(self._matrix[:3, :3]).argmax(axis=0)
        flips = tuple(axis for axis in range(3) if self._matrix[order[axis], axis] < 0)
        return np.flip(volume.transpose(*order), flips)

    def stored(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Positions [..., 3] of the array as voxel indices of the file."""
        moved: NDArray[np.float64] = positions @ self._matrix[:3, :3].T + self._matrix[:3, 3]
        return moved
