"""From a draft mask and what was said about the object to a better mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volseg.data.object_mask import ObjectMask
from volseg.inferers.half import half_is_fast
from volseg.inferers.refine.answer import believe, carried
from volseg.inferers.refine.channels import prompt_channels, show_image, show_mask
from volseg.inferers.refine.lattice import Lattice, choose_lattice
from volseg.inferers.refine.longer import TIMES, is_longer, prolonged
from volseg.inferers.refine.settings import RefineSettings
from volseg.inferers.refine.tight import lowered_for_box, reach_for_box
from volseg.prompts import Point, Prompt

if TYPE_CHECKING:
    from volseg.networks.refine.network import RefineNetwork
    from volseg.transforms.windows import IntensityWindow

SURE = 0.5
"""Logit at a click, at least, with the sign that was said."""
NEAR = 4.0
"""Twice the variance of the bump by which logits are pushed there, in samples."""
MAX_PUSHES = 8
"""Between samples a bump is lower than at its middle, so that one push may not be enough."""
GLANCE = 24
"""Sides, in samples, of the cube that a correction looks at first. A slab of 8 samples, as wide as the block, takes as
long but agrees less with the whole look: it is one layer at the network's coarsest level, with nothing beside it.
"""


class Refiner:
    """Looks at the block around an object once more, in 3D.

    Args:
        network: with its weights, on its device.
        settings: how the block is sampled.
    """

    def __init__(self, network: RefineNetwork, settings: RefineSettings | None = None) -> None:
        self.network = network
        self.settings = settings or RefineSettings()

    def refine(
        self,
        image: Tensor,
        window: IntensityWindow,
        draft: ObjectMask,
        prompts: Sequence[Prompt],
        *,
        correcting: bool = False,
        partial: Callable[[ObjectMask], None] | None = None,
    ) -> ObjectMask:
        """Improves a mask.

        The block is chosen around the draft and what was said, and grows while the answer touches its border. Clicked
        places always are what was said of them. An answer to a single box reaches for its sides (see `tight`), and one
        that is long and ends abruptly is looked at again, made longer. A correction does what its newest prompt asks
        for and no more: one on the object only adds voxels, one beside it only takes some away.

        Args:
            image: [I, J, K] in the file's units, on the draft's grid; only read.
            window: what becomes 0 and 1.
            draft: may be empty.
            prompts: all that was said about the object so far, in voxel indices, the newest last.
            correcting: whether the draft is an earlier answer that the newest prompt corrects.
            partial: given, before the whole look of a correction, the draft with what a glance around the newest prompt
                changes; not where a glance would take most of the time of the whole look.

        Returns:
            The better mask, with the draft's presence. The draft itself where nothing says where the object is.
        """
        if not _is_somewhere(draft, prompts):
            return draft
        if correcting:
            return self._corrected(image, window, draft, prompts, partial)
        answer, _ = self._whole(image, window, draft, prompts, None)
        for _ in range(TIMES):
            longer = prolonged(answer, prompts)
            again = None if longer is None else self._whole(image, window, longer, prompts, None)[0]
            if again is None or not is_longer(again, answer):
                break
            answer = again
        return reach_for_box(answer, prompts)

    def _corrected(
        self,
        image: Tensor,
        window: IntensityWindow,
        draft: ObjectMask,
        prompts: Sequence[Prompt],
        partial: Callable[[ObjectMask], None] | None,
    ) -> ObjectMask:
        adds = prompts[-1].positive
        if partial is not None:
            lattice = choose_lattice(draft.grid, *_known(draft, prompts), self.settings, self.network.spec.multiple)
            near = _around(lattice, prompts[-1], self.network.spec.multiple)
            if 2 * prod(near.counts) <= prod(lattice.counts):
                glance = self._look(near, image, window, draft, prompts, adds)
                partial(_with_correction(draft, near, glance, adding=adds))
        answer, seen = self._whole(image, window, draft, prompts, adds)
        return _with_correction(draft, seen, answer, adding=adds)

    def _whole(
        self, image: Tensor, window: IntensityWindow, draft: ObjectMask, prompts: Sequence[Prompt], adds: bool | None
    ) -> tuple[ObjectMask, Lattice]:
        """An answer about a block that it does not leave, and that block."""
        first, last = _known(draft, prompts)
        for widening in range(self.settings.max_widenings + 1):
            lattice = choose_lattice(draft.grid, first, last, self.settings, self.network.spec.multiple)
            answer = self._look(lattice, image, window, draft, prompts, adds)
            if widening == self.settings.max_widenings or not _touches(lattice, answer):
                break
            first = np.minimum(first, answer.start_ijk)
            last = np.maximum(last, np.add(answer.start_ijk, answer.shape) - 1)
        return answer, lattice

    def _look(
        self,
        lattice: Lattice,
        image: Tensor,
        window: IntensityWindow,
        draft: ObjectMask,
        prompts: Sequence[Prompt],
        adds: bool | None,
    ) -> ObjectMask:
        inside, start = lattice.above_zero(self._logits(lattice, image, window, draft, prompts, adds))
        return ObjectMask.of(draft.object_id, draft.grid, inside, draft.presence, start)

    @torch.inference_mode()
    def _logits(
        self,
        lattice: Lattice,
        image: Tensor,
        window: IntensityWindow,
        draft: ObjectMask,
        prompts: Sequence[Prompt],
        adds: bool | None,
    ) -> Tensor:
        device = next(self.network.parameters()).device
        said, shown = prompt_channels(lattice, prompts), show_mask(lattice, draft)
        seen, half = show_image(lattice, image, window), half_is_fast(device)
        belief = believe(self.network, seen, shown, said, self.settings, adds, half=half)
        logits = carried(belief, seen, said, self.settings, correcting=adds is not None).cpu()
        if adds is None:
            logits = lowered_for_box(logits, lattice, prompts)
        return _as_clicked(logits, lattice, prompts)


def _is_somewhere(draft: ObjectMask, prompts: Sequence[Prompt]) -> bool:
    return draft.voxels > 0 or any(one.positive and len(one.voxels_ijk(draft.grid)) for one in prompts)


def _known(draft: ObjectMask, prompts: Sequence[Prompt]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lowest and highest voxel of what is known of an object that is somewhere."""
    places = [prompt.voxels_ijk(draft.grid) for prompt in prompts if prompt.positive]
    ends = [(one.min(axis=0), one.max(axis=0)) for one in places if len(one)]
    if draft.voxels:
        start = np.array(draft.start_ijk)
        ends.append((start, start + draft.shape - 1))
    return np.min([low for low, _ in ends], axis=0), np.max([high for _, high in ends], axis=0)


def _around(lattice: Lattice, prompt: Prompt, multiple: int) -> Lattice:
    """The cube of a lattice around a prompt, or as much of it as there is; its sides are multiples of ``multiple``."""
    voxels = prompt.voxels_ijk(lattice.grid)
    middle = (voxels.min(axis=0) + voxels.max(axis=0)) / 2
    counts = np.minimum(max(1, GLANCE // multiple) * multiple, lattice.counts)
    first = np.round((middle - lattice.low) / lattice.steps - counts / 2).clip(0, lattice.counts - counts)
    a, b, c = (lattice.low + first * lattice.steps).tolist()
    d, e, f = (lattice.low + (first + counts) * lattice.steps).tolist()
    i, j, k = counts.tolist()
    return Lattice(lattice.grid, (a, b, c), (d, e, f), (i, j, k))


def _with_correction(draft: ObjectMask, lattice: Lattice, answer: ObjectMask, *, adding: bool) -> ObjectMask:
    """The draft with what an answer adds to it, or takes away from it, in the lattice's block."""
    if adding:
        return draft.union(answer)
    left = draft.region(draft.slices)
    low = np.maximum(draft.start_ijk, [one.start for one in lattice.block])
    high = np.minimum(np.add(draft.start_ijk, draft.shape), [one.stop for one in lattice.block])
    if (low < high).all():
        i, j, k = (slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
        here = tuple(slice(a, b) for a, b in zip(low - draft.start_ijk, high - draft.start_ijk, strict=True))
        left[here] &= answer.region((i, j, k))
    return ObjectMask.of(draft.object_id, draft.grid, left, draft.presence, draft.start_ijk)


def _touches(lattice: Lattice, answer: ObjectMask) -> bool:
    """Whether an answer reaches a border of the block that is not the image's."""
    if answer.size == 0:
        return False
    ends = zip(lattice.block, answer.slices, lattice.grid.shape, strict=True)
    return any(
        (block.start > 0 and mask.start == block.start) or (block.stop < size and mask.stop == block.stop)
        for block, mask, size in ends
    )


def _as_clicked(logits: Tensor, lattice: Lattice, prompts: Sequence[Prompt]) -> Tensor:
    """Raises or lowers logits around clicks that the network did not follow."""
    axes = [torch.arange(n, dtype=torch.float32) for n in logits.shape]
    for prompt in prompts:
        if not isinstance(prompt, Point):
            continue
        place = lattice.positions(np.array([prompt.position]))[0]
        if (place < -0.5).any() or (place > np.array(logits.shape) - 0.5).any():
            continue
        sign = 1.0 if prompt.positive else -1.0
        a, b, c = (torch.exp(-(axis - float(x)).square() / NEAR) for axis, x in zip(axes, place, strict=True))
        bump = a[:, None, None] * b[None, :, None] * c[None, None, :]
        bump /= bump.max()
        for _ in range(MAX_PUSHES):
            lacking = SURE - sign * _between(logits, place)
            if lacking <= 0:
                break
            logits = logits + sign * lacking * bump
    return logits


def _between(values: Tensor, place: NDArray[np.float64]) -> float:
    """Values [A, B, C] at a place between samples, by linear interpolation."""
    result = values
    for position in place:
        low = int(np.clip(np.floor(position), 0, len(result) - 1))
        high = min(low + 1, len(result) - 1)
        part = float(np.clip(position - low, 0, 1))
        result = (1 - part) * result[low] + part * result[high]
    return float(result)
