"""An annotator that errs and varies like the one nnInteractive was trained with; its exact jitter is not published."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from volseg.evaluation.placement import NEIGHBOURS_26, Canonical, box_between
from volseg.evaluation.protocols.base import CLICKS, Answer, Curve, Dialogue, Need, Protocol
from volseg.evaluation.protocols.scribbles import scribble_positions
from volseg.evaluation.reference import Reference, ReferenceObject
from volseg.geometry import Frame, Grid
from volseg.prompts import Point, Prompt, PromptKind, Scribble

if TYPE_CHECKING:
    from volseg.evaluation.trial import Trial

ALPHAS = (8.0, 1.0)
"""A point is drawn with probability depth ** alpha: near the middle, or anywhere inside; equally likely."""

BOX_JITTER = 0.05
"""Sides of a box move by up to this part of its size, outward or inward."""

FIRST, NEXT = "first", tuple(f"correction {number}" for number in range(1, CLICKS + 1))
SIGNED = frozenset((kind, sign) for kind in (PromptKind.POINT, PromptKind.SCRIBBLE) for sign in (True, False))


class NnInteractiveLike(Protocol):
    """Of every object: a point, a jittered 2D box or a scribble, drawn; then five corrections, points or scribbles.

    A correction speaks of a 26-connected part of the error, drawn in proportion to its size. 2D prompts lie on a slice
    of any of the three planes, drawn in proportion to what it shows of that part. Scribbles are a line, a centre line
    or a contour, equally likely.
    """

    name: ClassVar[str] = "nninteractive-like"
    version: ClassVar[int] = 1
    parts: ClassVar[dict[str, frozenset[Need]]] = {"annotator": SIGNED | {(PromptKind.BOX_2D, True)}}
    curves: ClassVar[tuple[Curve, ...]] = (Curve("corrections", (FIRST, *NEXT), NEXT),)

    def dialogues(self, reference: Reference, parts: tuple[str, ...], seed: int) -> tuple[Dialogue, ...]:
        """See ``Protocol.dialogues``."""
        return tuple(
            Dialogue((item,), (FIRST, *NEXT), partial(_dialogue, item, reference.grid, seed))
            for item in reference.objects
        )


def _dialogue(item: ReferenceObject, grid: Grid, seed: int, trial: Trial) -> Iterator[Answer]:
    rng = np.random.default_rng([seed, item.object_id])
    canonical = Canonical(grid)
    truth = canonical.view(item.truth.full())
    kind = (PromptKind.POINT, PromptKind.BOX_2D, PromptKind.SCRIBBLE)[rng.integers(3)]
    answer = trial.ask(item, FIRST, (_prompt(rng, kind, truth, canonical, positive=True),))
    yield answer
    for step in NEXT:
        error = truth != canonical.view(answer.mask.full())
        if not error.any():
            answer = trial.repeat(answer, step)
        else:
            part = drawn_part(rng, error)
            kind = (PromptKind.POINT, PromptKind.SCRIBBLE)[rng.integers(2)]
            # A part may hold voxels that are missing and, touching them, voxels that are too many: the commoner counts.
            missing = np.count_nonzero(part & truth) * 2 >= np.count_nonzero(part)
            said = _prompt(rng, kind, part & (truth == missing), canonical, positive=bool(missing))
            answer = trial.ask(item, step, (*answer.prompts, said))
        yield answer


def drawn_part(rng: np.random.Generator, error: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A 26-connected part of a mask that is not empty, drawn in proportion to its size."""
    from scipy.ndimage import label

    parts, _ = label(error, NEIGHBOURS_26)
    voxels = np.flatnonzero(parts)
    chosen = parts.ravel()[voxels[rng.integers(len(voxels))]]
    drawn: NDArray[np.bool_] = parts == chosen
    return drawn


def drawn_point(
    rng: np.random.Generator, mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float], alpha: float
) -> NDArray[np.int64]:
    """A voxel of a mask that is not empty, [3], drawn with probability (depth in mm) ** alpha."""
    from scipy.ndimage import distance_transform_edt

    voxels = np.argwhere(mask)
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    block = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    depth = distance_transform_edt(np.pad(block, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1][tuple((voxels - low).T)]
    weights = (depth / depth.max()) ** alpha
    drawn: NDArray[np.int64] = voxels[rng.choice(len(voxels), p=weights / weights.sum())]
    return drawn


def drawn_slice(rng: np.random.Generator, mask: NDArray[np.bool_]) -> tuple[int, int]:
    """An axis, and an index along it drawn in proportion to the voxels of the mask there."""
    axis = int(rng.integers(3))
    counts = np.count_nonzero(mask, axis=tuple(one for one in range(3) if one != axis))
    return axis, int(rng.choice(len(counts), p=counts / counts.sum()))


def _prompt(
    rng: np.random.Generator, kind: PromptKind, mask: NDArray[np.bool_], canonical: Canonical, *, positive: bool
) -> Prompt:
    """A prompt of that kind about a part of the view."""
    if kind is PromptKind.POINT:
        alpha = ALPHAS[rng.integers(len(ALPHAS))]
        return _click(canonical, drawn_point(rng, mask, canonical.spacing_mm, alpha), positive)
    axis, index = drawn_slice(rng, mask)
    cut = np.take(mask, index, axis=axis)
    if kind is PromptKind.BOX_2D:
        voxels = np.argwhere(cut)
        low, high = voxels.min(axis=0), voxels.max(axis=0)
        reach = BOX_JITTER * (high - low + 1)
        low = np.clip(np.round(low + rng.uniform(-reach, reach)), 0, np.array(cut.shape) - 1)
        high = np.clip(np.round(high + rng.uniform(-reach, reach)), low, np.array(cut.shape) - 1)
        corners = [canonical.stored(np.insert(one, axis, index)) for one in (low, high)]
        first, last = np.min(corners, axis=0), np.max(corners, axis=0)
        return box_between(first, last, flat_axis=_stored_axis(canonical, axis))
    line = scribble_positions(rng, cut)
    places = [np.insert(np.asarray(one, dtype=np.float64), axis, index) for one in line]
    if len(places) < 2:
        return _click(canonical, places[0], positive)
    return Scribble(tuple(canonical.stored(place) for place in places), Frame.IJK, positive)


def _click(canonical: Canonical, place: Any, positive: bool) -> Point:
    return Point(canonical.stored(place), Frame.IJK, positive)


def _stored_axis(canonical: Canonical, axis: int) -> int:
    return next(stored for stored in range(3) if canonical.axis(stored) == axis)
