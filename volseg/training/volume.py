"""A labelled volume in memory, with an index of where its objects are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.modality import Modality
from volseg.errors import TrainingError
from volseg.geometry import Grid, Plane
from volseg.inferers.slices.view import SliceView
from volseg.training.bones import bone_labels
from volseg.training.cases import TrainingCase, split_archive
from volseg.training.config import Pseudo

MIN_VOXELS = 20
"""Objects with fewer voxels in a volume are left out."""

MIN_SLICE_PIXELS = 12
"""Planes whose slices have a shorter side than this are left out."""

WINDOW_RANGE = (-8.0, 16.0)
"""Intensities are kept in units of the default window (0 black, 1 white), cut off far outside it."""


@dataclass(frozen=True, eq=False)
class ObjectSlices:
    """Where an object is in one plane.

    Attributes:
        indices: [N] the slices it is on, ascending.
        boxes_rc: [N, 4] first row, first column, last row, last column on each.
    """

    indices: NDArray[np.int32]
    boxes_rc: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class VolumeObject:
    """One object: one label id, or the union of several, in one volume.

    Attributes:
        name: for tables.
        ids: label ids.
        planes: where it is, by plane.
    """

    name: str
    ids: tuple[int, ...]
    planes: Mapping[Plane, ObjectSlices]

    def mask(self, labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Where ``labels`` are the object's."""
        mask: NDArray[np.bool_] = labels == self.ids[0]
        for other in self.ids[1:]:
            mask |= labels == other
        return mask


@dataclass(frozen=True, eq=False)
class PlaneSlices:
    """A volume as slices of one plane, without a copy.

    Attributes:
        voxels: [slices, rows, columns] float16, in units of the default window.
        labels: [slices, rows, columns] uint8.
        spacing_mm: of slices, rows and columns.
    """

    voxels: NDArray[np.float16]
    labels: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]

    @property
    def pixel_spacing_mm(self) -> tuple[float, float]:
        """Of rows and columns."""
        return self.spacing_mm[1:]


@dataclass(frozen=True, eq=False)
class TrainingVolume:
    """A labelled volume.

    Attributes:
        name: the case's.
        group: under which it is sampled.
        modality: decides how windows are varied.
        grid: where its voxels are.
        planes: the volume in each plane that is wide enough.
        objects: what is labelled; everything else is unknown.
        acquired: the plane of the slices as acquired.
    """

    name: str
    group: str
    modality: Modality
    grid: Grid
    planes: Mapping[Plane, PlaneSlices]
    objects: tuple[VolumeObject, ...]
    acquired: Plane


def build_volume(
    name: str,
    group: str,
    modality: Modality,
    grid: Grid,
    voxels: NDArray[np.float16],
    labels: NDArray[np.uint8],
    objects: Mapping[str, tuple[int, ...]],
) -> TrainingVolume:
    """Indexes a volume.

    Args:
        name: the case's.
        group: under which it is sampled.
        modality: how it was acquired.
        grid: of the arrays.
        voxels: [I, J, K] in units of the default window.
        labels: [I, J, K].
        objects: label ids by name.
    """
    import torch

    planes: dict[Plane, PlaneSlices] = {}
    for plane in Plane:
        view = SliceView.of(grid, plane)
        if min(view.slice_shape) >= MIN_SLICE_PIXELS:
            shown = view.array(torch.from_numpy(voxels)[None])
            marked = view.array(torch.from_numpy(labels)[None])
            planes[plane] = PlaneSlices(shown, marked, view.grid.spacing_mm)
    counts = np.bincount(labels.ravel(), minlength=256)
    kept = {title: ids for title, ids in objects.items() if counts[list(ids)].sum() >= MIN_VOXELS}
    by_plane = {plane: _index(slices.labels, kept) for plane, slices in planes.items()}
    indexed = [
        VolumeObject(title, ids, {plane: found[title] for plane, found in by_plane.items()})
        for title, ids in kept.items()
    ]
    acquired = grid.acquisition_plane()
    return TrainingVolume(
        name, group, modality, grid, planes, tuple(indexed), acquired if acquired in planes else next(iter(planes))
    )


def read_arrays(case: TrainingCase) -> tuple[NDArray[Any], NDArray[np.uint8], Grid]:
    """The image [I, J, K] as stored, its labels, and their grid.

    Raises:
        TrainingError: image and label lie on different grids, or labels are not whole numbers from 0 to 255. The case
            is named.
    """
    image, grid = _read(case, case.image)
    if case.source.pseudo is Pseudo.BONES:
        return image, bone_labels(image, grid.spacing_mm), grid
    label, label_grid = _read(case, case.label)
    if not grid.same_as(label_grid):
        raise TrainingError(
            f"{case.name}: image and label lie on different grids (shapes {grid.shape} and {label_grid.shape}, "
            f"spacings {grid.spacing_mm} and {label_grid.spacing_mm} mm); resample the label to the image"
        )
    if not np.isfinite(label).all() or np.any(label != np.round(label)) or label.min() < 0 or label.max() > 255:
        raise TrainingError(f"{case.name}: labels must be whole numbers from 0 to 255, got others")
    return image, np.ascontiguousarray(label, dtype=np.uint8), grid


def read_volume(case: TrainingCase) -> TrainingVolume:
    """Reads a case into memory.

    Raises:
        TrainingError: see ``read_arrays``; or nothing is labelled. The case is named.
    """
    from volseg.transforms.windows import choose_window

    image, labels, grid = read_arrays(case)
    source = case.source
    present = [int(one) for one in np.unique(labels) if one and int(one) not in source.exclude]
    objects = source.objects or {str(one): (one,) for one in present}
    window = choose_window(image[None], modality=source.modality)
    scaled = (np.nan_to_num(image.astype(np.float32)) - window.low) / (window.high - window.low)
    voxels = np.clip(scaled, *WINDOW_RANGE).astype(np.float16)
    volume = build_volume(case.name, source.group, source.modality, grid, voxels, labels, objects)
    if not volume.objects:
        raise TrainingError(f"{case.name}: no object has {MIN_VOXELS} voxels or more; remove the case")
    return volume


def _index(labels: NDArray[np.uint8], objects: Mapping[str, tuple[int, ...]]) -> dict[str, ObjectSlices]:
    """Where each object is; only the block around an object is looked through."""
    from scipy.ndimage import find_objects

    blocks = find_objects(labels)
    result = {}
    for title, ids in objects.items():
        around = [blocks[one - 1] for one in ids if one <= len(blocks) and blocks[one - 1] is not None]
        block = [slice(min(b[a].start for b in around), max(b[a].stop for b in around)) for a in range(3)]
        mask: NDArray[np.bool_] = np.isin(labels[block[0], block[1], block[2]], ids)
        rows: NDArray[np.bool_] = np.asarray(mask.any(axis=2))
        columns: NDArray[np.bool_] = np.asarray(mask.any(axis=1))
        on = np.flatnonzero(rows.any(axis=1))
        rows, columns = rows[on], columns[on]
        first = np.stack([rows.argmax(axis=1), columns.argmax(axis=1)], axis=1)
        last = np.stack([rows[:, ::-1].argmax(axis=1), columns[:, ::-1].argmax(axis=1)], axis=1)
        last = np.array([rows.shape[1], columns.shape[1]]) - 1 - last
        corner = np.array([block[1].start, block[2].start])
        boxes = np.concatenate([first + corner, last + corner], axis=1).astype(np.int32)
        result[title] = ObjectSlices((on + block[0].start).astype(np.int32), boxes)
    return result


def _read(case: TrainingCase, path: str) -> tuple[NDArray[Any], Grid]:
    file, array = split_archive(path)
    try:
        if array is not None:
            with np.load(file, allow_pickle=False) as archive:
                values = np.ascontiguousarray(archive[array])
            return values, _identity_grid(values.shape, case.source.axcodes)
        from volseg.data import read_image

        stored = read_image(file)
        return np.ascontiguousarray(stored[0].numpy()), Grid.of(stored)
    except (OSError, KeyError, ValueError) as error:
        raise TrainingError(f"{case.name}: {path} cannot be read: {error}") from error


def _identity_grid(shape: tuple[int, ...], axcodes: str) -> Grid:
    """A grid of 1 mm whose axes run towards ``axcodes``."""
    plain = Grid((shape[0], shape[1], shape[2]), np.eye(4))
    turned = plain.reoriented(axcodes).affine_ras
    return Grid((shape[0], shape[1], shape[2]), turned)
