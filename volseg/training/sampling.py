"""Draws slices and clips of volumes, cut and resized exactly as an inferer cuts and resizes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from volseg.data.modality import Modality
from volseg.errors import TrainingError
from volseg.geometry import Plane
from volseg.inferers.slices.crop import Crop
from volseg.networks.sam2.carry import reach_of
from volseg.training.config import SamplingConfig
from volseg.training.volume import PlaneSlices, TrainingVolume, VolumeObject

MAX_TRIES = 20
MIN_CROP_PIXELS = 8
MIN_SHOWN = 0.1
"""The first frame of a clip shows at least this part of a pixel of its object."""
BEYOND_END = 0.35
"""Part of the clips that are made to run past the last slice; with those that do so by chance, a quarter of all frames
lie there."""
TOLD_END = 0.25
"""Part of the clips in which the network is told where the object ends, as by a 3D box."""
STARTED_BEFORE = 0.5
"""Part of the clips that go on with tracking that began on an earlier slice: clips are too short to show how far from
its prompt a long object goes on."""
DOUBLE_STEP = 0.2
"""Part of the clips that show every other slice."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Neighbouring slices of one object, in the order of tracking; a single image is a clip of one frame.

    Attributes:
        frames: [T, 3, S, S] float32 from 0 to 1, not yet normalised: the slice before, the slice, the slice after.
        targets: [T, S, S] float32, the part of each pixel that is the object.
        step_pixels: distance between the frames, in their pixels.
        start: frames that were tracked before the first one; 0 if that is the prompted one.
        reach: frames from the prompted one to where its object is expected to end; NaN leaves that to
            `networks.sam2.carry.expected_reach` of the first frame's answer.
    """

    frames: NDArray[np.float32]
    targets: NDArray[np.float32]
    step_pixels: float
    start: float = 0.0
    reach: float = math.nan


def cut_clip(
    slices: PlaneSlices,
    item: VolumeObject,
    indices: Sequence[int],
    crop: Crop,
    window: tuple[float, float],
    size: int,
) -> Clip:
    """Windows, crops and resizes slices and their labels (see `inferers.slices.frames.make_frames`).

    Args:
        slices: a plane of a volume.
        item: the object.
        indices: the slices, in order.
        crop: the part that is shown; beyond the slice it is black.
        window: low and high end, in units of the volume's default window.
        size: side of the frames in pixels.
    """
    import torch
    from torch.nn.functional import interpolate

    count = len(slices.voxels)
    wanted = sorted({near for i in indices for near in (max(0, i - 1), i, min(count - 1, i + 1))})
    source_rows, source_columns, rows, columns = crop.inside((slices.voxels.shape[1], slices.voxels.shape[2]))
    stack = np.zeros((len(wanted) + len(indices), crop.rows, crop.columns), dtype=np.float32)
    low, high = window
    for place, index in enumerate(wanted):
        grey = slices.voxels[index, source_rows, source_columns].astype(np.float32, order="C")
        grey -= low
        grey /= high - low
        stack[place, rows, columns] = np.clip(grey, 0, 1, out=grey)
    for place, index in enumerate(indices, len(wanted)):
        stack[place, rows, columns] = item.mask(slices.labels[index, source_rows, source_columns])
    resized = interpolate(
        torch.from_numpy(stack)[:, None], (size, size), mode="bilinear", align_corners=False, antialias=True
    )[:, 0].numpy()
    place_of = {index: place for place, index in enumerate(wanted)}
    order = [[place_of[max(0, i - 1)], place_of[i], place_of[min(count - 1, i + 1)]] for i in indices]
    apart = abs(indices[1] - indices[0]) if len(indices) > 1 else 1
    step_pixels = apart * crop.step_pixels(slices.spacing_mm, size)
    return Clip(resized[np.array(order)], resized[len(wanted) :], step_pixels)


class ClipSampler:
    """Draws clips from volumes.

    Args:
        volumes: real ones.
        sampling: how often what is drawn.
        size: side of the frames in pixels.
    """

    def __init__(self, volumes: Sequence[TrainingVolume], sampling: SamplingConfig, size: int) -> None:
        self._sampling = sampling
        self._size = size
        self._by_group: dict[str, list[TrainingVolume]] = {}
        for volume in volumes:
            self._by_group.setdefault(volume.group, []).append(volume)

    def draw(self, rng: np.random.Generator, frames: int, generated: Sequence[TrainingVolume] = ()) -> Clip:
        """Draws a clip.

        Args:
            rng: the only source of chance.
            frames: how many; at least one shows the object, the first.
            generated: synthetic volumes, the group ``synthetic``.

        Raises:
            TrainingError: no object has a slice in so many neighbouring slices of its volume.
        """
        groups: dict[str, Sequence[TrainingVolume]] = dict(self._by_group)
        if len(generated):
            groups["synthetic"] = generated
        wanted = self._sampling.weights or dict.fromkeys(groups, 1.0)
        names = [name for name in groups if wanted.get(name, 0) > 0]
        weights = np.array([wanted[name] for name in names])
        for _ in range(MAX_TRIES):
            among = groups[names[rng.choice(len(names), p=weights / weights.sum())]]
            volume = among[int(rng.integers(len(among)))]
            item = volume.objects[int(rng.integers(len(volume.objects)))]
            plane = self._plane(rng, volume)
            indices = self._indices(rng, item, plane, len(volume.planes[plane].voxels), frames)
            if indices is None:
                continue
            slices, where = volume.planes[plane], item.planes[plane]
            crop = self._crop(rng, where.boxes_rc[np.searchsorted(where.indices, indices[0])], slices)
            clip = cut_clip(slices, item, indices, crop, draw_window(rng, volume.modality), self._size)
            # Rounding and stretching may push an object of a pixel or two out of the crop.
            if clip.targets[0].max() >= MIN_SHOWN:
                return self._started(rng, clip, item, slices, indices, where.indices, crop) if frames > 1 else clip
        raise TrainingError(f"no object in {MAX_TRIES} draws lies in {frames} neighbouring slices")

    def _started(
        self,
        rng: np.random.Generator,
        clip: Clip,
        item: VolumeObject,
        slices: PlaneSlices,
        indices: Sequence[int],
        occupied: NDArray[np.int32],
        crop: Crop,
    ) -> Clip:
        """The clip with where its tracking began and where it is expected to end."""
        step = indices[1] - indices[0]
        told, before = rng.random() < TOLD_END, rng.random() < STARTED_BEFORE
        behind = occupied[(occupied - indices[0]) * step <= 0]
        origin = int(rng.choice(behind)) if before else indices[0]
        start = abs(indices[0] - origin) / abs(step)
        if told:
            end = int(occupied[-1] if step > 0 else occupied[0])
            return replace(clip, start=start, reach=abs(end - origin) / abs(step) + 0.5)
        if origin == indices[0]:
            return clip
        area = np.count_nonzero(item.mask(slices.labels[origin])) * self._size**2 / (crop.rows * crop.columns)
        return replace(clip, start=start, reach=reach_of(area, clip.step_pixels))

    def _plane(self, rng: np.random.Generator, volume: TrainingVolume) -> Plane:
        others = [plane for plane in volume.planes if plane is not volume.acquired]
        if not others or rng.random() < self._sampling.acquisition_plane:
            return volume.acquired
        return others[rng.integers(len(others))]

    def _indices(
        self, rng: np.random.Generator, item: VolumeObject, plane: Plane, count: int, frames: int
    ) -> list[int] | None:
        occupied = item.planes[plane].indices
        step = int(rng.choice([-1, 1])) * (2 if frames > 1 and rng.random() < DOUBLE_STEP else 1)
        start = int(rng.choice(occupied))
        if frames > 1 and rng.random() < BEYOND_END:
            end = int(occupied[-1] if step > 0 else occupied[0])
            wanted = end - step * int(rng.integers(frames - 1))
            start = int(occupied[np.abs(occupied - wanted).argmin()])
        indices = [start + step * place for place in range(frames)]
        return indices if min(indices) >= 0 and max(indices) < count else None

    def _crop(self, rng: np.random.Generator, box_rc: NDArray[np.int32], slices: PlaneSlices) -> Crop:
        sampling = self._sampling
        spacing = np.array(slices.pixel_spacing_mm)
        extent_mm = np.array(slices.voxels.shape[1:]) * spacing
        box = box_rc.astype(np.float64)
        longer_mm = float(((box[2:] - box[:2] + 1) * spacing).max())
        lowest, highest = sampling.box_fill
        if rng.random() < sampling.small:
            lowest, highest = sampling.small_fill, lowest
        fill = float(np.exp(rng.uniform(np.log(lowest), np.log(highest))))
        side_mm = max(longer_mm / fill, MIN_CROP_PIXELS * float(spacing.min()))
        centre = (box[:2] + box[2:]) / 2
        if side_mm >= extent_mm.max():
            side_mm = float(extent_mm.max())
            centre = (np.array(slices.voxels.shape[1:]) - 1) / 2
        else:
            room = max(0.0, side_mm - longer_mm) / 2 / spacing
            spread = 0.9 if rng.random() < 0.4 else 0.15
            centre = centre + rng.uniform(-spread, spread, 2) * room
        stretch = np.exp(rng.normal(0, 0.07)) if rng.random() < 0.3 else 1.0
        size = np.maximum(2, np.round(side_mm * np.array([stretch, 1 / stretch]) / spacing)).astype(int)
        first = np.round(centre - (size - 1) / 2).astype(int)
        return Crop(int(first[0]), int(first[1]), int(size[0]), int(size[1]))


CT_WINDOWS = ((-160.0, 240.0), (-150.0, 250.0), (-125.0, 225.0), (-1350.0, 150.0), (-500.0, 1300.0), (-100.0, 500.0))
"""Hounsfield units of soft tissue, abdomen, mediastinum, lung, bone and vessels."""


def draw_window(rng: np.random.Generator, modality: Modality) -> tuple[float, float]:
    """A window in units of the default one: mostly that one, else another preset or a varied one."""
    chance = rng.random()
    low, high = 0.0, 1.0
    if modality is Modality.CT and 0.45 < chance < 0.7:
        level, top = CT_WINDOWS[rng.integers(len(CT_WINDOWS))]
        low, high = (level + 160) / 400, (top + 160) / 400
    if chance > 0.45:
        width = (high - low) * float(np.exp(rng.normal(0, 0.25)))
        middle = (low + high) / 2 + (high - low) * rng.normal(0, 0.08)
        low, high = middle - width / 2, middle + width / 2
    return float(low), float(high)
