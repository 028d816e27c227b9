"""Generated volumes: random shapes and tubes, and label maps of real volumes deformed and painted anew.

The idea is SynthSeg's (Billot et al., Medical Image Analysis 2023): with random intensities for every label a network
cannot learn what a structure looks like, only that it ends where the image changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.transforms import RandomizableTransform
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool1d, avg_pool3d, grid_sample, interpolate

from volseg.data.modality import Modality
from volseg.geometry import Grid
from volseg.training.bodies import random_bodies
from volseg.training.volume import TrainingVolume, build_volume

GROUP = "synthetic"
SHAPES_PART = 0.5
"""Part of the generated volumes that are random shapes, where there are label maps to paint as well."""
BODIES_PART = 0.5
"""Part of the random shapes that are bodies with rings, arms and rinds; the others are blobs and tubes."""


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], cells: tuple[int, int, int]) -> Tensor:
    """Standard normal noise on ``cells`` cells, interpolated to ``shape``."""
    coarse = torch.from_numpy(rng.standard_normal(cells, dtype=np.float32))[None, None]
    fine: Tensor = interpolate(coarse, shape, mode="trilinear", align_corners=True)[0, 0]
    return fine


def random_shapes(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], int, int]:
    """A label map of tissues with blobs and tubes in them.

    Returns:
        Labels [I, J, K], the number of tissues (ids 1 to it) and the number of objects (the ids after these).
    """
    tissues = int(rng.integers(3, 7))
    cells = (int(rng.integers(3, 6)), int(rng.integers(3, 8)), int(rng.integers(3, 8)))
    fields = torch.stack([smooth_noise(rng, shape, cells) for _ in range(tissues)])
    labels = fields.argmax(dim=0).to(torch.uint8) + 1
    objects = int(rng.integers(2, 6))
    axes = [torch.arange(n, dtype=torch.float32) for n in shape]
    for number in range(objects):
        size = float(np.exp(rng.uniform(np.log(0.05), np.log(0.3)))) * shape[1]
        draw = _blob if rng.random() < 0.6 else _tube
        inside = draw(rng, shape, axes, size)
        labels[inside] = tissues + 1 + number
    return labels.numpy(), tissues, objects


def _blob(rng: np.random.Generator, shape: tuple[int, int, int], axes: Sequence[Tensor], size: float) -> Tensor:
    """An ellipsoid in any direction with a bumpy surface."""
    centre = [rng.uniform(0.15, 0.85) * n for n in shape]
    radii = size * np.exp(rng.normal(0, 0.3, 3)) * np.array([max(0.3, shape[0] / shape[1]), 1, 1])
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    form = torch.from_numpy((turn / radii) @ turn.T).float()
    grid = torch.stack(torch.meshgrid(*(a - c for a, c in zip(axes, centre, strict=True)), indexing="ij"), dim=-1)
    distance = (grid @ form).norm(dim=-1)
    bumps = smooth_noise(rng, shape, (5, 8, 8)) * float(rng.uniform(0, 0.4))
    inside: Tensor = distance + bumps < 1
    return inside


def _tube(rng: np.random.Generator, shape: tuple[int, int, int], axes: Sequence[Tensor], size: float) -> Tensor:
    """Everything close to a smooth random curve; radii differ along the slices and in them."""
    radius = max(1.5, 0.35 * size)
    knots = rng.uniform(0.1, 0.9, (4, 3)) * np.array(shape)
    if rng.random() < 0.6:
        knots[:, 0] = np.linspace(-0.1, 1.1, 4) * shape[0]
        knots[:, 1:] = knots[0, 1:] + np.cumsum(rng.normal(0, 0.1, (4, 2)), axis=0) * np.array(shape[1:])
    curve = interpolate(torch.from_numpy(knots.T[None]).float(), 48, mode="linear", align_corners=True)[0]
    curve = avg_pool1d(curve[None], 9, 1, 4, count_include_pad=False)[0].T
    thick = max(0.4, shape[0] / shape[1])
    nearest = torch.full(shape, float("inf"))
    for x, y, z in curve.tolist():
        plane = ((axes[0] - x) / thick).square()[:, None, None] + (axes[1] - y).square()[None, :, None]
        nearest = torch.minimum(nearest, plane + (axes[2] - z).square())
    return nearest < radius**2


def paint(rng: np.random.Generator, labels: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
    """Gives every label a random grey value and texture, then blurs, shades and adds noise.

    Args:
        rng: the only source of chance.
        labels: [I, J, K], from 0 to ``count - 1``.
        count: number of labels.

    Returns:
        [I, J, K], roughly from 0 to 1.
    """
    means = torch.from_numpy(rng.uniform(0, 1, count).astype(np.float32))
    if rng.random() < 0.5:
        means[0] = 0.0
    spreads = torch.from_numpy((rng.uniform(0, 0.12, count) * rng.integers(0, 2, count)).astype(np.float32))
    index = torch.from_numpy(labels).long()
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    fine = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    half = (max(2, shape[0] // 2), max(2, shape[1] // 3), max(2, shape[2] // 3))
    texture = 0.5 * fine + smooth_noise(rng, shape, half)
    image = means[index] + spreads[index] * texture
    for _ in range(int(rng.integers(0, 3))):
        image = avg_pool3d(image[None, None], (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)[0, 0]
    image = image * (smooth_noise(rng, shape, (2, 3, 3)) * float(rng.uniform(0, 0.25))).exp()
    noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) * float(rng.uniform(0, 0.08))
    return (image + noise).numpy()


def deform(rng: np.random.Generator, labels: NDArray[np.uint8], strength: float = 0.08) -> NDArray[np.uint8]:
    """Bends, turns and stretches a label map smoothly; labels stay whole numbers."""
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    angle = float(rng.normal(0, 0.15))
    scale = np.exp(rng.normal(0, 0.1, 3))
    matrix = np.diag([*scale[::-1], 0.0])[:3]
    matrix[0, :2] = scale[2] * np.array([np.cos(angle), -np.sin(angle)])
    matrix[1, :2] = scale[1] * np.array([np.sin(angle), np.cos(angle)])
    theta = torch.from_numpy(matrix[None]).float()
    grid = affine_grid(theta, [1, 1, *shape], align_corners=False)
    cells = (min(4, shape[0]), 5, 5)
    bend = torch.stack([smooth_noise(rng, shape, cells) for _ in range(3)], dim=-1)[None] * strength
    source = torch.from_numpy(labels.astype(np.float32))[None, None]
    moved = grid_sample(source, grid + bend, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved[0, 0].to(torch.uint8).numpy()


class RandPaintLabels(RandomizableTransform):  # type: ignore[misc]
    """Turns a label map into an image: MONAI transform of `paint`.

    Args:
        prob: part of the calls that paint; the others return the labels as floats.
    """

    def __init__(self, prob: float = 1.0) -> None:
        super().__init__(prob)

    def __call__(self, labels: Tensor) -> Tensor:
        """Labels [1, I, J, K] to an image [1, I, J, K]; a MetaTensor keeps its affine."""
        self.randomize(None)
        if not self._do_transform:
            return labels.float()
        rng = np.random.default_rng(int(self.R.randint(2**31)))
        values = np.asarray(labels[0].cpu()).astype(np.uint8)
        painted = torch.from_numpy(paint(rng, values, int(values.max()) + 1))[None]
        return labels.float() * 0 + painted.to(labels.device)


class SyntheticVolumes:
    """Generated volumes by number: the same number gives the same volume, so runs can be resumed exactly.

    Args:
        seed: of all of them.
        painted: volumes whose label maps are painted; with none, all volumes are random shapes.
    """

    def __init__(self, seed: int, painted: Sequence[TrainingVolume] = ()) -> None:
        self._seed = seed
        self._painted = tuple(painted)

    def __getitem__(self, number: int) -> TrainingVolume:
        """Volume ``number``, 0 or more."""
        rng = np.random.default_rng([self._seed, 7, number])
        if not self._painted or rng.random() < SHAPES_PART:
            return self._shapes(rng, number)
        return self._repainted(rng, number)

    def _shapes(self, rng: np.random.Generator, number: int) -> TrainingVolume:
        shape = (int(rng.integers(16, 49)), 96, 96)
        labels, tissues, objects = random_shapes(rng, shape)
        ids: tuple[tuple[int, ...], ...] = tuple((tissues + 1 + k,) for k in range(objects))
        seen = labels
        if rng.random() < BODIES_PART:
            labels[labels > tissues] = 1
            scene = random_bodies(rng, labels)
            labels, ids, seen = scene.labels, scene.objects, scene.classes[scene.labels]
        image = paint(rng, seen, int(seen.max()) + 1)
        spacing_mm = (96 / shape[0] * float(rng.uniform(0.5, 1.0)), 1.0, 1.0)
        names = {f"shape {one[0]}": one for one in ids}
        built = self._volume(number, image, labels, spacing_mm, names)
        return built if built.objects else self._shapes(rng, number)

    def _repainted(self, rng: np.random.Generator, number: int) -> TrainingVolume:
        volume = self._painted[rng.integers(len(self._painted))]
        item = volume.objects[rng.integers(len(volume.objects))]
        slices = volume.planes[volume.acquired]
        where = item.planes[volume.acquired]
        shape = np.minimum(slices.labels.shape, (40, 112, 112))
        box = where.boxes_rc[len(where.indices) // 2]
        middle = np.array([where.indices[len(where.indices) // 2], *((box[:2] + box[2:]) // 2)])
        start = np.clip(middle - shape // 2, 0, np.array(slices.labels.shape) - shape)
        block = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
        # What is not labelled gets classes by its intensity, so that an object keeps its surroundings.
        labels = np.where(slices.labels[block] > 0, slices.labels[block], 0)
        kept, labels = np.unique(labels, return_inverse=True)
        labels = labels.reshape(shape).astype(np.int16)
        classes = np.digitize(slices.voxels[block].astype(np.float32), np.sort(rng.uniform(0.05, 0.95, 3)))
        labels = np.where(labels > 0, labels, len(kept) + classes)
        order, labels = np.unique(labels, return_inverse=True)
        if len(order) > 255:
            return self._shapes(rng, number)
        new_id = {int(kept[old]): int(new) + 1 for new, old in enumerate(order.tolist()) if 0 < old < len(kept)}
        moved = deform(rng, (labels.reshape(shape) + 1).astype(np.uint8))
        image = paint(rng, moved, len(order) + 1)
        names = {
            one.name: tuple(new_id[i] for i in one.ids) for one in volume.objects if all(i in new_id for i in one.ids)
        }
        rows_mm, columns_mm = slices.pixel_spacing_mm
        between = float(np.prod(volume.grid.spacing_mm)) / (rows_mm * columns_mm)
        built = self._volume(number, image, moved, (between, rows_mm, columns_mm), names)
        return built if built.objects else self._shapes(rng, number)

    @staticmethod
    def _volume(
        number: int,
        image: NDArray[np.float32],
        labels: NDArray[np.uint8],
        spacing_mm: tuple[float, float, float],
        names: Mapping[str, tuple[int, ...]],
    ) -> TrainingVolume:
        """A volume from arrays [slice, row, column] with their spacing, shown as axial slices."""
        voxels = np.ascontiguousarray(image.T).astype(np.float16)
        turned = np.ascontiguousarray(labels.T)
        between, rows_mm, columns_mm = spacing_mm
        grid = Grid((voxels.shape[0], voxels.shape[1], voxels.shape[2]), np.diag([-columns_mm, -rows_mm, between, 1]))
        return build_volume(f"{GROUP}/{number}", GROUP, Modality.OTHER, grid, voxels, turned, names)


class SyntheticDataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Generated images and label maps for any MONAI pipeline: ``{"image": [1, I, J, K], "label": [1, I, J, K]}``.

    Args:
        length: how many.
        seed: of all of them.
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        self._length = length
        self._volumes = SyntheticVolumes(seed)

    def __len__(self) -> int:
        """How many volumes there are."""
        return self._length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Volume ``index`` as MetaTensors with their affine."""
        from monai.data import MetaTensor

        if not 0 <= index < self._length:
            raise IndexError(f"volume {index} of {self._length}")
        volume = self._volumes[index]
        slices = volume.planes[volume.acquired]
        view_to_grid = volume.grid.reoriented("SPL")
        affine = torch.from_numpy(view_to_grid.affine_ras.copy())
        image = torch.from_numpy(np.ascontiguousarray(slices.voxels).astype(np.float32))[None]
        label = torch.from_numpy(np.ascontiguousarray(slices.labels))[None]
        return {"image": MetaTensor(image, affine=affine), "label": MetaTensor(label, affine=affine)}
