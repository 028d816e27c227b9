"""Looks for structures in an image: windows, logits, and masks on the image's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volseg.data.modality import Modality
from volseg.geometry import Grid
from volseg.inferers.half import half_is_fast
from volseg.inferers.text_query.settings import SearchSettings
from volseg.inferers.text_query.volume import LINEAR, midline_of, network_grid, to_network
from volseg.inferers.windows import SlidingWindows, WindowSettings
from volseg.networks.text_query.channels import make_channels, pad_value
from volseg.networks.text_query.network import TextQueryNetwork, WindowFeatures
from volseg.progress import Part, ProgressCallback, report
from volseg.transforms.midline import Midline
from volseg.transforms.resample import ResampleWithPromptsd
from volseg.transforms.windows import IntensityWindow

if TYPE_CHECKING:
    from monai.data import MetaTensor

LOGIT_LIMIT = 8.0
"""Logits are kept in 8 bits from minus this to this; the surface at 0 moves by a few hundredths of a voxel."""

MARGIN = 2
"""Voxels of the network's grid kept around everything above the threshold, so that it can be interpolated."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was found of one structure.

    Attributes:
        presence: probability that it is in the image.
        logits: [A, B, C] int8 on the network's grid, around the structure; 0 is the surface.
        start_ijk: the first voxel of ``logits`` in that grid.
        grid: the network's.
    """

    presence: float
    logits: NDArray[np.int8]
    start_ijk: tuple[int, int, int]
    grid: Grid

    def on(self, grid: Grid) -> tuple[NDArray[np.bool_], tuple[int, int, int]]:
        """The mask on an image's grid: bool [I, J, K] of a block, and the block's first voxel."""
        if self.logits.size == 0:
            return np.zeros((0, 0, 0), dtype=bool), (0, 0, 0)
        source = self.grid.cropped(self.start_ijk, self.logits.shape)
        turned = grid.reoriented("RAS")
        corners = turned.to_ijk(source.to_ras_mm(source.corners_ijk()))
        low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, np.array(turned.shape))
        high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, np.array(turned.shape))
        if (high <= low).any():
            return np.zeros((0, 0, 0), dtype=bool), (0, 0, 0)
        target = turned.cropped(low.tolist(), (high - low).tolist())
        values = torch.from_numpy(self.logits.astype(np.float32))[None]
        mask = (ResampleWithPromptsd.carry(values, source, target, LINEAR)[0] > 0).numpy()
        # Back to the order of the file: the block's corners in it, and its axes.
        matrix = grid.reorientation("RAS")
        ends = np.array([low, high - 1]) @ matrix[:3, :3].T + matrix[:3, 3]
        order = [int(np.flatnonzero(matrix[axis, :3])[0]) for axis in range(3)]
        block = mask.transpose(order)
        flips = [axis for axis in range(3) if matrix[axis, order[axis]] < 0]
        start = ends.min(axis=0).round().astype(int)
        return np.ascontiguousarray(np.flip(block, tuple(flips))), (int(start[0]), int(start[1]), int(start[2]))


class ImageSearch:
    """One image, and what was found in it so far.

    Args:
        image: [1, I, J, K] on its own grid; not changed.
        network: with its weights, on its device.
        settings: how structures are looked for.
        modality: of the image.
        window: the intensities that matter.
    """

    def __init__(
        self,
        image: MetaTensor,
        network: TextQueryNetwork,
        settings: SearchSettings,
        modality: Modality,
        window: IntensityWindow,
    ) -> None:
        self.grid = Grid.of(image)
        self.modality = modality
        self.window = window
        self._image = image
        self._network = network
        self._settings = settings
        self._volumes: dict[float, Tensor] = {}
        self._found: dict[str, Found] = {}
        self.midline_if_known: Midline | None = None

    @property
    def midline(self) -> Midline:
        """Where left and right part, as far as the image says so."""
        if self.midline_if_known is None:
            self.midline_if_known = midline_of(self._image, self.window)
        return self.midline_if_known

    def find(self, concepts: tuple[str, ...], progress: ProgressCallback | None = None) -> dict[str, Found]:
        """Looks for structures; those found before are remembered.

        Args:
            concepts: ids that the settings know.
            progress: told the part done; may cancel.
        """
        whole_of = {concept: self._settings.whole[concept] for concept in concepts if concept in self._settings.whole}
        first = [*(concept for concept in concepts if concept not in whole_of), *whole_of.values()]
        share = 0.5 if whole_of else 1.0
        self._look_for(first, Part(progress, 0.0, share))
        there = [part for part, whole in whole_of.items() if self._found[whole].presence >= self._settings.presence]
        self._look_for(there, Part(progress, share, 1.0 - share))
        for part, whole in whole_of.items():
            if part not in self._found:
                # Where the whole is not, the finer windows would be in vain.
                self._found[part] = replace(self._found[whole], logits=np.zeros((0, 0, 0), np.int8))
        return {concept: self._found[concept] for concept in concepts}

    def _look_for(self, concepts: Sequence[str], progress: ProgressCallback) -> None:
        """Finds those that were not looked for yet."""
        missing = tuple(dict.fromkeys(concept for concept in concepts if concept not in self._found))
        groups = self._settings.by_spacing(missing)
        for number, (spacing, together) in enumerate(groups.items()):

            def part(fraction: float, text: str, number: int = number) -> bool:
                report(progress, (number + fraction) / len(groups), text)
                return True

            self._found |= self._look(spacing, together, part)

    def close(self) -> None:
        """Frees what was computed."""
        self._volumes.clear()
        self._found.clear()

    def _look(self, spacing: float, concepts: tuple[str, ...], progress: ProgressCallback) -> dict[str, Found]:
        grid = network_grid(self.grid, spacing)
        if spacing not in self._volumes:
            values = to_network(self._image, self.grid, grid, self.window)
            self._volumes[spacing] = make_channels(values[None])[0]
        divisor = self._network.spec.divisor
        # Two voxels are left at the coarsest level: one alone has no spread that it could be normalised by.
        least = self._settings.least.get(spacing, (2 * divisor,) * 3)
        sides = [
            min(side, max(low, -(-n // divisor) * divisor))
            for side, low, n in zip(self._settings.window[spacing], least, grid.shape, strict=True)
        ]
        windows = SlidingWindows(
            WindowSettings((sides[0], sides[1], sides[2]), self._settings.overlap),
            device=self._network.device,
            pad_values=make_channels(torch.full((1, 1, 1), pad_value(self.modality)))[0, :, 0].tolist(),
        )
        predictor = NetworkPredictor(
            self._network,
            [self._settings.queries_of(concept) for concept in concepts],
            self.modality,
            spacing,
            [self._settings.bias.get(concept, 0.0) for concept in concepts],
        )
        kept = _Blocks(len(concepts), grid)
        windows.run(self._volumes[spacing], predictor, kept, progress=progress)
        presence = predictor.presence.sigmoid().tolist()
        for row, concept in enumerate(concepts):
            whole = self._settings.whole.get(concept)
            if whole is not None:
                # Whether it is in the image at all is asked of the whole; where in it, the drawing says.
                presence[row] = self._found[whole].presence if kept.any(row) else 0.0
        return {concept: kept.found(row, presence[row], self._settings) for row, concept in enumerate(concepts)}


class NetworkPredictor:
    """The network with its queries, as ``SlidingWindows`` asks it.

    Args:
        network: with its weights.
        structures: for each structure the ids of its query embeddings; where there are several, it is their union.
        modality: of the image.
        spacing_mm: of the windows.
        bias: added to each structure's mask logits.

    Attributes:
        presence: [Q] the highest presence logits of all windows so far.
    """

    def __init__(
        self,
        network: TextQueryNetwork,
        structures: Sequence[tuple[str, ...]],
        modality: Modality,
        spacing_mm: float,
        bias: Sequence[float] = (),
    ) -> None:
        self.queries = len(structures)
        self.presence = torch.full((len(structures),), -20.0)
        self._network = network
        self._embeddings = network.embeddings([one for ids in structures for one in ids])
        ends = np.cumsum([len(ids) for ids in structures]).tolist()
        self._rows = [(end - len(ids), end) for ids, end in zip(structures, ends, strict=True)]
        self._bias = tuple(bias) or (0.0,) * len(structures)
        self._modality = modality
        self._spacing_mm = spacing_mm

    def encode(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Mask features and the queries' mask embeddings."""
        with torch.autocast(windows.device.type, dtype=torch.bfloat16, enabled=half_is_fast(windows.device)):
            features: WindowFeatures = self._network.encode(windows, self._spacing_mm)
        full = features.float()
        drawn, presence = self._network.answers(full, self._embeddings, self._modality, self._spacing_mm)
        surest = presence.amax(dim=0).float().cpu()
        joined = torch.stack([surest[first:last].amax() for first, last in self._rows])
        self.presence = torch.maximum(self.presence, joined)
        return full.masks, drawn

    def decode(self, features: tuple[Tensor, Tensor], first: int, last: int) -> Tensor:
        """See ``QueryPredictor.decode``."""
        masks, drawn = features
        rows = self._rows[first:last]
        logits = self._network.draw(masks, drawn[:, rows[0][0] : rows[-1][1]])
        if any(stop - start > 1 for start, stop in rows):
            begin = rows[0][0]
            logits = torch.stack([logits[:, a - begin : b - begin].amax(dim=1) for a, b in rows], dim=1)
        if any(self._bias[first:last]):
            logits += torch.tensor(self._bias[first:last], device=logits.device)[:, None, None, None]
        return logits


class _Blocks:
    """Keeps each query's logits only where they are above the threshold, and a little around."""

    def __init__(self, queries: int, grid: Grid) -> None:
        self._grid = grid
        self._parts: list[list[tuple[tuple[int, int, int], NDArray[np.int8]]]] = [[] for _ in range(queries)]

    def take(self, logits: Tensor, start: tuple[int, int, int]) -> None:
        """See ``Sink.take``."""
        scaled = (logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT) * (127 / LOGIT_LIMIT)).round().to(torch.int8).cpu()
        for row in torch.nonzero((scaled > -127).flatten(1).any(dim=1))[:, 0].tolist():
            self._parts[row].append((start, scaled[row].numpy()))

    def any(self, row: int) -> bool:
        """Whether anything of a query is above 0."""
        return any(bool((part > 0).any()) for _, part in self._parts[row])

    def found(self, row: int, presence: float, settings: SearchSettings) -> Found:
        """One query's logits around everything above 0; none where it is not present."""
        nothing = Found(presence, np.zeros((0, 0, 0), np.int8), (0, 0, 0), self._grid)
        above = [(np.array(start), part) for start, part in self._parts[row] if (part > 0).any()]
        if presence < settings.presence or not above:
            return nothing
        lows, highs = [], []
        for start, part in above:
            where = np.argwhere(part > 0)
            lows.append(start + where.min(axis=0))
            highs.append(start + where.max(axis=0) + 1)
        low = np.maximum(np.min(lows, axis=0) - MARGIN, 0)
        high = np.minimum(np.max(highs, axis=0) + MARGIN, self._grid.shape)
        block = np.full(high - low, -127, dtype=np.int8)
        for corner, part in self._parts[row]:
            first, last = np.maximum(corner, low), np.minimum(np.array(corner) + part.shape, high)
            if (last > first).all():
                inner = tuple(slice(a, b) for a, b in zip(first - corner, last - corner, strict=True))
                block[tuple(slice(a, b) for a, b in zip(first - low, last - low, strict=True))] = part[inner]
        self._parts[row] = []
        if settings.least_part > 0:
            _leave_out_specks(block, settings.least_part)
        return Found(presence, block, (int(low[0]), int(low[1]), int(low[2])), self._grid)


def _leave_out_specks(logits: NDArray[np.int8], least_part: float) -> None:
    """Lowers, in place, the pieces above 0 that are smaller than a part of the largest one."""
    from scipy.ndimage import label

    pieces, count = label(logits > 0, np.ones((3, 3, 3), dtype=bool))
    sizes = np.bincount(pieces.ravel())
    small = sizes < least_part * sizes[1:].max(initial=0)
    small[0] = False
    if count > 1 and small.any():
        logits[small[pieces]] = -127
