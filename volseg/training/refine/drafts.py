"""First answers of a model to simulated prompts, which the refining network learns to improve."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volseg.data.atomic import atomic_path
from volseg.data.object_mask import ObjectMask
from volseg.errors import TrainingError
from volseg.geometry import Frame, Grid
from volseg.models.base import Model
from volseg.models.options import EncodeOptions
from volseg.prompts import Box, MaskPrompt, Point, Prompt, PromptSet, Scribble
from volseg.training.cases import TrainingCase
from volseg.training.volume import MIN_VOXELS, read_arrays

logger = logging.getLogger(__name__)

KINDS = {"box": 0.3, "box3d": 0.33, "click": 0.22, "mask": 0.08, "scribble": 0.07}
"""What a person says first, and how often."""
KEY_SLICES = (0.2, 0.8)
"""Part of the occupied slices, from the first, that the prompted one is drawn from."""
LEFT = 0.2
"""Part of the 3D boxes whose sides are those of one slice, as people draw them: the object may leave them elsewhere."""
ACQUISITION_PLANE = 0.8
"""Part of the prompts that are given on slices as acquired; the others in any plane."""
JITTER = 0.06
"""Standard deviation of the sides of boxes, as a part of the side; half of the boxes are exact."""


@dataclass(frozen=True, eq=False)
class Draft:
    """One answer.

    Attributes:
        ids: label ids of the object that was asked for.
        prompts: what was said, in voxel indices.
        mask: the answer.
    """

    ids: tuple[int, ...]
    prompts: tuple[Prompt, ...]
    mask: ObjectMask


def first_prompt(rng: np.random.Generator, truth: ObjectMask) -> Prompt:
    """What a person might say first about an object that is not empty: exact or a little off."""
    kind = str(rng.choice(list(KINDS), p=np.array(list(KINDS.values()))))
    grid, full = truth.grid, truth.block
    start = np.array(truth.start_ijk)
    exact = kind == "box3d" and rng.random() >= LEFT
    if exact:
        return _box(rng, start, start + full.shape - 1, grid, None)
    axis = grid.axis_of(grid.acquisition_plane())
    if rng.random() > ACQUISITION_PLANE:
        axis = int(rng.integers(3))
    occupied = np.flatnonzero(full.any(axis=tuple(a for a in range(3) if a != axis)))
    place = int(occupied[int(rng.uniform(*KEY_SLICES) * len(occupied))])
    on_slice = np.take(full, [place], axis=axis)
    offset = start.copy()
    offset[axis] += place
    voxels = np.argwhere(on_slice) + offset
    if kind == "box3d":
        first, last = voxels.min(axis=0), voxels.max(axis=0)
        first[axis], last[axis] = start[axis], start[axis] + full.shape[axis] - 1
        return _box(rng, first, last, grid, None)
    if kind == "box" and len(voxels) > 1:
        return _box(rng, voxels.min(axis=0), voxels.max(axis=0), grid, axis)
    if kind == "mask":
        whole = np.zeros(grid.shape, dtype=bool)
        whole[tuple(voxels.T)] = True
        return MaskPrompt(whole, grid)
    first = _deep(rng, on_slice, grid, axis) + offset
    if kind == "scribble":
        second = _deep(rng, on_slice, grid, axis, sharpness=0.5) + offset
        along = first + np.linspace(0, 1, 12)[:, None] * (second - first)
        inside = full[tuple((np.round(along).astype(int) - start).T)]
        if inside.all() and (first != second).any():
            return Scribble((_position(first), _position(second)), Frame.IJK)
    return Point(_position(first), Frame.IJK)


def make_drafts(
    model: Model,
    case: TrainingCase,
    count: int,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
) -> list[Draft]:
    """Asks a model about a case.

    Args:
        model: answers.
        case: labelled.
        count: answers in all; the case's objects take turns.
        seed: of what is said.
        stop: asked before each answer; True ends early.

    Raises:
        TrainingError: see ``read_arrays``.
    """
    from monai.data import MetaTensor

    image, labels, grid = read_arrays(case)
    present = [int(one) for one in np.unique(labels) if one and int(one) not in case.source.exclude]
    objects = list((case.source.objects or {str(one): (one,) for one in present}).values())
    rng = np.random.default_rng([seed, int.from_bytes(case.name.encode()[-8:], "little")])
    tensor = MetaTensor(torch.from_numpy(np.ascontiguousarray(image))[None], affine=grid.affine_ras)
    drafts: list[Draft] = []
    order = rng.permutation(len(objects))
    with model.encode(tensor, EncodeOptions(modality=case.source.modality)) as encoding:
        for number in range(count):
            if stop():
                break
            ids = objects[order[number % len(objects)]]
            full = np.isin(labels, ids)
            if full.sum() < MIN_VOXELS:
                continue
            truth = ObjectMask.of(1, grid, full)
            prompt = first_prompt(rng, truth)
            answer = model.segment(encoding, PromptSet.of(grid, [prompt])).masks[0]
            drafts.append(Draft(tuple(ids), (prompt,), answer))
    return drafts


def save_drafts(path: Path, drafts: Sequence[Draft], grid: Grid) -> None:
    """Writes drafts about one image as an archive without pickles."""
    arrays: dict[str, Any] = {
        "drafts": json.dumps(
            [
                {
                    "ids": list(draft.ids),
                    "prompts": PromptSet.of(grid, draft.prompts).to_json(),
                    "start": list(draft.mask.start_ijk),
                    "shape": list(draft.mask.shape),
                }
                for draft in drafts
            ]
        )
    }
    arrays |= {f"mask{number}": np.packbits(draft.mask.block) for number, draft in enumerate(drafts)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_drafts(path: Path, grid: Grid) -> list[Draft]:
    """Reads what ``save_drafts`` wrote.

    Args:
        path: the archive.
        grid: of the image.

    Raises:
        TrainingError: it is damaged or about another image.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            listed = json.loads(str(archive["drafts"]))
            packed = [archive[f"mask{number}"] for number in range(len(listed))]
        drafts = []
        for entry, bits in zip(listed, packed, strict=True):
            block = np.unpackbits(bits, count=int(np.prod(entry["shape"]))).reshape(entry["shape"]).astype(bool)
            mask = ObjectMask(1, grid, tuple(entry["start"]), block)
            said = PromptSet.from_json(entry["prompts"], grid).objects[0].prompts
            drafts.append(Draft(tuple(entry["ids"]), said, mask))
        return drafts
    except (OSError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} holds no drafts about its image: {error}; delete it") from error


def _box(
    rng: np.random.Generator, first: NDArray[np.int64], last: NDArray[np.int64], grid: Grid, flat_axis: int | None
) -> Box:
    """A box around voxels, exact or with its sides a little off, within the image."""
    free = np.arange(3) != (-1 if flat_axis is None else flat_axis)
    low, high = first.astype(np.float64), last.astype(np.float64)
    if rng.random() < 0.5:
        sides = np.maximum(high - low, 1.0)
        low = low + free * rng.normal(-0.02, JITTER, 3) * sides
        high = high + free * rng.normal(0.02, JITTER, 3) * sides
    low, high = np.minimum(low, high), np.maximum(low, high)
    thin = free & (high - low < 0.5)
    middle = (low + high) / 2
    low, high = np.where(thin, middle - 0.4, low), np.where(thin, middle + 0.4, high)
    limit = np.array(grid.shape) - 0.6
    low = np.where(free, np.clip(low, -0.4, limit - 0.5), low)
    high = np.where(free, np.clip(high, low + 0.4, limit), high)
    return Box(_position(low), _position(high), Frame.IJK)


def _deep(
    rng: np.random.Generator, mask: NDArray[np.bool_], grid: Grid, axis: int, sharpness: float | None = None
) -> NDArray[np.int64]:
    """A voxel of a mask that is one slice thick, drawn with probability depth ** sharpness."""
    from scipy.ndimage import distance_transform_edt

    flat = mask.any(axis=axis)
    spacing = [one for a, one in enumerate(grid.spacing_mm) if a != axis]
    depth = distance_transform_edt(np.pad(flat, 1), sampling=spacing)[1:-1, 1:-1]
    power = float(rng.choice([1.0, 4.0, 20.0])) if sharpness is None else sharpness
    weight = (depth / depth.max()) ** power
    place = rng.choice(weight.size, p=weight.ravel() / weight.sum())
    voxel = np.array(np.unravel_index(place, flat.shape))
    return np.insert(voxel, axis, 0)


def _position(voxel: NDArray[Any]) -> tuple[float, float, float]:
    return float(voxel[0]), float(voxel[1]), float(voxel[2])
