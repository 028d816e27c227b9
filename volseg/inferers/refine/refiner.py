"""From a draft mask and what was said about the object to a better mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volseg.data.object_mask import ObjectMask
from volseg.inferers.half import half_is_fast
from volseg.inferers.refine.channels import all_channels, kept_logits, prompt_channels, show_image, show_mask
from volseg.inferers.refine.lattice import Lattice, choose_lattice
from volseg.inferers.refine.settings import RefineSettings
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
    ) -> ObjectMask:
        """Improves a mask.

        The block is chosen around the draft and what was said, and grows while the answer touches its border. Clicked
        places always are what was said of them. A correction does what its newest prompt asks for and no more: one on
        the object only adds voxels, one beside it only takes some away.

        Args:
            image: [I, J, K] in the file's units, on the draft's grid; only read.
            window: what becomes 0 and 1.
            draft: may be empty.
            prompts: all that was said about the object so far, in voxel indices, the newest last.
            correcting: whether the draft is an earlier answer that the newest prompt corrects.

        Returns:
            The better mask, with the draft's presence. The draft itself where nothing says where the object is.
        """
        grid = draft.grid
        known = _corners(draft, prompts)
        if known is None:
            return draft
        first, last = known
        trust = self.settings.settled if correcting else self.settings.trust
        for widening in range(self.settings.max_widenings + 1):
            lattice = choose_lattice(grid, first, last, self.settings, self.network.spec.multiple)
            inside = lattice.above_zero(self._logits(lattice, image, window, draft, prompts, trust))
            i, j, k = (one.start for one in lattice.block)
            answer = ObjectMask.of(draft.object_id, grid, inside, draft.presence, (i, j, k))
            if widening == self.settings.max_widenings or not _touches(lattice, inside):
                break
            first = np.minimum(first, answer.start_ijk)
            last = np.maximum(last, np.add(answer.start_ijk, answer.shape) - 1)
        if not correcting:
            return answer
        return draft.union(answer) if prompts[-1].positive else draft.intersection(answer)

    @torch.inference_mode()
    def _logits(
        self,
        lattice: Lattice,
        image: Tensor,
        window: IntensityWindow,
        draft: ObjectMask,
        prompts: Sequence[Prompt],
        trust: float,
    ) -> Tensor:
        device = next(self.network.parameters()).device
        said, shown = prompt_channels(lattice, prompts), show_mask(lattice, draft)
        channels = all_channels(show_image(lattice, image, window), shown, said)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half_is_fast(device)):
            logits = self.network(channels.to(device))
        kept = kept_logits(trust, shown, said)
        return _as_clicked(logits[0, 0].float().cpu() + kept, lattice, prompts)


def _corners(draft: ObjectMask, prompts: Sequence[Prompt]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Lowest and highest voxel of what is known of the object, or None."""
    places = [prompt.voxels_ijk(draft.grid) for prompt in prompts if prompt.positive]
    ends = [(one.min(axis=0), one.max(axis=0)) for one in places if len(one)]
    if draft.voxels:
        start = np.array(draft.start_ijk)
        ends.append((start, start + draft.shape - 1))
    if not ends:
        return None
    return np.min([low for low, _ in ends], axis=0), np.max([high for _, high in ends], axis=0)


def _touches(lattice: Lattice, inside: NDArray[np.bool_]) -> bool:
    """Whether an answer reaches a border of the block that is not the image's."""
    for axis, (one, size) in enumerate(zip(lattice.block, lattice.grid.shape, strict=True)):
        if one.start > 0 and inside.take(0, axis=axis).any():
            return True
        if one.stop < size and inside.take(-1, axis=axis).any():
            return True
    return False


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
