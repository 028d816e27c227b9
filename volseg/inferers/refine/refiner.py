"""From a draft mask and what was said about the object to a better mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volseg.data.object_mask import ObjectMask
from volseg.inferers.refine.channels import add_bump, all_channels, prompt_channels, show_image, show_mask
from volseg.inferers.refine.lattice import Lattice, choose_lattice
from volseg.inferers.refine.settings import RefineSettings
from volseg.prompts import Point, Prompt

if TYPE_CHECKING:
    from volseg.networks.refine.network import RefineNetwork
    from volseg.transforms.windows import IntensityWindow

SURE = 1.0
"""Logit that a clicked sample has at least, with the sign that was said."""


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
        self, image: Tensor, window: IntensityWindow, draft: ObjectMask, prompts: Sequence[Prompt]
    ) -> ObjectMask:
        """Improves a mask.

        The block is chosen around the draft and what was said, and grows while the answer touches its border. Clicked
        places always are what was said of them.

        Args:
            image: [I, J, K] in the file's units, on the draft's grid; only read.
            window: what becomes 0 and 1.
            draft: may be empty.
            prompts: all that was said about the object so far, in voxel indices.

        Returns:
            The better mask, with the draft's presence. The draft itself where nothing says where the object is.
        """
        grid = draft.grid
        known = _corners(draft, prompts)
        if known is None:
            return draft
        first, last = known
        for widening in range(self.settings.max_widenings + 1):
            lattice = choose_lattice(grid, first, last, self.settings, self.network.spec.multiple)
            inside = lattice.above_zero(self._logits(lattice, image, window, draft, prompts))
            start = np.array([one.start for one in lattice.block])
            if widening == self.settings.max_widenings or not _touches(lattice, inside):
                break
            places = np.argwhere(inside) + start
            first, last = np.minimum(first, places.min(axis=0)), np.maximum(last, places.max(axis=0))
        return ObjectMask.of(
            draft.object_id, grid, inside, draft.presence, (int(start[0]), int(start[1]), int(start[2])), owned=True
        )

    @torch.inference_mode()
    def _logits(
        self, lattice: Lattice, image: Tensor, window: IntensityWindow, draft: ObjectMask, prompts: Sequence[Prompt]
    ) -> Tensor:
        device = next(self.network.parameters()).device
        said = prompt_channels(lattice, prompts)
        channels = all_channels(show_image(lattice, image, window), show_mask(lattice, draft), said)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = self.network(channels.to(device))
        return _as_clicked(logits[0, 0].float().cpu(), lattice, prompts)


def _corners(draft: ObjectMask, prompts: Sequence[Prompt]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Lowest and highest voxel of what is known of the object, or None."""
    places = [prompt.voxels_ijk(draft.grid) for prompt in prompts if prompt.positive]
    ends = [(one.min(axis=0), one.max(axis=0)) for one in places if len(one)]
    if draft.voxels:
        start = np.array(draft.start_ijk)
        ends.append((start, start + draft.block.shape - 1))
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
    for prompt in prompts:
        if not isinstance(prompt, Point):
            continue
        place = lattice.positions(np.array([prompt.position]))
        nearest = np.round(place[0]).astype(int)
        if (nearest < 0).any() or (nearest >= logits.shape).any():
            continue
        sign = 1.0 if prompt.positive else -1.0
        lacking = SURE - sign * float(logits[tuple(nearest)])
        if lacking > SURE:
            bump = torch.zeros_like(logits)
            add_bump(bump, nearest[None].astype(np.float64))
            logits = logits + sign * lacking * bump
    return logits
