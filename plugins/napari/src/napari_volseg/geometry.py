"""From any napari image layer to a volume in millimetres, and back."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volseg.errors import GeometryError, ImageReadError
from volseg.geometry import Grid

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from napari.layers import Layer

AFFINE_KEY = "volseg_affine_ras"
"""In a layer's metadata: 4x4 from the data's voxel indices to RAS mm, as our readers know it from the file."""

MODALITY_KEY = "volseg_modality"
"""In a layer's metadata: CT, MR or OTHER, where the file says so."""

NOT_SPATIAL = frozenset({"t", "time", "c", "ch", "channel", "channels"})
"""Axis labels of axes that are no direction in space."""


@dataclass(frozen=True, eq=False)
class LayerVolume:
    """The volume that a layer shows, at one channel and time point.

    Voxel index (i, j, k) runs along the layer's spatial axes in their order; a 2D image is a volume of one slice, whose
    i is always 0.

    Attributes:
        grid: where the voxels are. From the file, where our reader made the layer; else from the layer's transforms,
            whose world is taken as (z, y, x) of LPS millimetres, as ITK and DICOM have it.
        axes: the layer's axes that are i, j and k; None for the axis a 2D image does not have.
        fixed: index on every other axis.
        world_from_data: [D + 1, D + 1], the layer's transforms when the volume was made.
    """

    grid: Grid
    axes: tuple[int | None, int, int]
    fixed: dict[int, int]
    world_from_data: NDArray[np.float64] = field(repr=False)

    @property
    def ndim(self) -> int:
        """Number of the layer's axes."""
        return len(self.world_from_data) - 1

    @classmethod
    def of(cls, layer: Layer, world_position: Sequence[float] | None = None) -> LayerVolume:
        """The volume of an image or labels layer.

        Args:
            layer: with two or more axes; only read.
            world_position: picks channel and time point where there are such axes; None takes the first.

        Raises:
            GeometryError: an RGB image, or transforms that cannot be expressed as a grid.
        """
        if getattr(layer, "rgb", False):
            raise GeometryError(f"{layer.name} is a colour image; volseg takes one number a voxel")
        shape = level_0(layer).shape
        axes = _spatial_axes(layer, len(shape))
        matrix = world_from_data(layer)
        data = np.zeros(len(shape)) if world_position is None else np.asarray(layer.world_to_data(world_position))
        others = [axis for axis in range(len(shape)) if axis not in axes]
        fixed = {axis: int(np.clip(round(float(data[axis])), 0, shape[axis] - 1)) for axis in others}
        sizes = tuple(1 if axis is None else int(shape[axis]) for axis in axes)
        stored = layer.metadata.get(AFFINE_KEY)
        affine = _affine_of_transforms(layer, matrix, axes, fixed) if stored is None else np.asarray(stored, float)
        return cls(Grid((sizes[0], sizes[1], sizes[2]), affine), axes, fixed, matrix)

    # ---- voxels

    def read(self, layer: Layer) -> MetaTensor:
        """The voxels as an image, [1, I, J, K]; dask and zarr arrays are computed here, numpy arrays are not copied.

        Raises:
            ImageReadError: values that are no real numbers.
        """
        import torch
        from monai.data import MetaTensor

        index = tuple(self.fixed.get(axis, slice(None)) for axis in range(self.ndim))
        array = np.asarray(level_0(layer)[index])
        array = array[None] if self.axes[0] is None else array
        values = _for_torch(array, layer.name)
        modality = layer.metadata.get(MODALITY_KEY)
        with warnings.catch_warnings():
            # A read-only array stays so: nobody writes to an image.
            warnings.simplefilter("ignore", UserWarning)
            tensor = torch.from_numpy(values)
        return MetaTensor(
            tensor[None],
            affine=torch.from_numpy(self.grid.affine_ras.copy()),
            meta={} if modality is None else {"modality": modality},
        )

    def in_layer(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of an array [I, J, K] with the layer's axes; those that are fixed have one element."""
        view = array[0] if self.axes[0] is None else array
        for axis in sorted(self.fixed):
            view = np.expand_dims(view, axis)
        return view

    # ---- positions

    def data_of(self, points_ijk: ArrayLike) -> NDArray[np.float64]:
        """Positions [..., 3] in voxel index as the layer's data coordinates, [..., D]."""
        points = np.asarray(points_ijk, dtype=np.float64)
        data = np.zeros((*points.shape[:-1], self.ndim))
        for axis, index in self.fixed.items():
            data[..., axis] = index
        for place, axis in enumerate(self.axes):
            if axis is not None:
                data[..., axis] = points[..., place]
        return data

    def ijk_of_data(self, data: ArrayLike) -> NDArray[np.float64]:
        """The layer's data coordinates [..., D] as positions in voxel index, [..., 3]."""
        array = np.asarray(data, dtype=np.float64)
        flat = np.zeros(array.shape[:-1])
        return np.stack([flat if axis is None else array[..., axis] for axis in self.axes], axis=-1)

    def ijk_of_world(self, layer: Layer, world_position: Sequence[float]) -> NDArray[np.float64]:
        """A position in napari's world as voxel index, [3], by the layer's transforms as they are now."""
        return self.ijk_of_data(layer.world_to_data(world_position))

    @property
    def overlay_affine(self) -> NDArray[np.float64]:
        """For a layer of ``in_layer`` arrays: its data to napari's world, [D + 1, D + 1]."""
        return overlay_affine(self.world_from_data, self.fixed)

    def matrix_to(self, other: LayerVolume) -> NDArray[np.float64]:
        """[4, 4] from voxel indices here to those of a volume in the same napari world.

        Raises:
            GeometryError: one of them lies oblique to the other's channel or time axes.
        """
        points = np.vstack([np.zeros(3), np.eye(3)])
        world = _apply(self.world_from_data, self.data_of(points))
        padded = _match_length(world, other.ndim)
        there = other.ijk_of_data(_apply(np.linalg.inv(other.world_from_data), padded))
        matrix = np.eye(4)
        matrix[:3, 3] = there[0]
        matrix[:3, :3] = (there[1:] - there[0]).T
        if self.axes[0] is None or other.axes[0] is None:
            # The axis that a 2D image does not have goes along with itself.
            matrix[0, :3], matrix[:3, 0], matrix[0, 0] = 0, 0, 1
        return matrix


def world_from_data(layer: Layer) -> NDArray[np.float64]:
    """A layer's data to napari's world, [D + 1, D + 1], of all its transforms together."""
    ndim = layer.ndim
    origin = np.asarray(layer.data_to_world(np.zeros(ndim)), dtype=np.float64)
    matrix = np.eye(ndim + 1)
    matrix[:ndim, ndim] = origin
    for axis, unit in enumerate(np.eye(ndim)):
        matrix[:ndim, axis] = np.asarray(layer.data_to_world(unit)) - origin
    return matrix


def overlay_affine(matrix: NDArray[np.float64], fixed: dict[int, int]) -> NDArray[np.float64]:
    """The affine of a layer that has one element, number 0, where another one is looked at at index ``fixed``."""
    shifted = matrix.copy()
    for axis, index in fixed.items():
        shifted[:-1, -1] += matrix[:-1, axis] * index
    return shifted


def level_0(layer: Layer) -> Any:
    """The layer's data, of a multiscale one the finest."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def _spatial_axes(layer: Layer, ndim: int) -> tuple[int | None, int, int]:
    if ndim < 2:
        raise GeometryError(f"{layer.name} has {ndim} axis; an image has two or more")
    names = [str(label).lower() for label in layer.axis_labels]
    spatial = [axis for axis in range(ndim) if names[axis] not in NOT_SPATIAL]
    if len(spatial) < 2:
        raise GeometryError(f"the axes of {layer.name} are {', '.join(names)}; two or three must be in space")
    if len(spatial) == 2:
        return None, spatial[0], spatial[1]
    return spatial[-3], spatial[-2], spatial[-1]


def _affine_of_transforms(
    layer: Layer, matrix: NDArray[np.float64], axes: tuple[int | None, int, int], fixed: dict[int, int]
) -> NDArray[np.float64]:
    present = [axis for axis in axes if axis is not None]
    others = sorted(fixed)
    if others and (
        np.abs(matrix[np.ix_(present, others)]).max() > 0 or np.abs(matrix[np.ix_(others, present)]).max() > 0
    ):
        raise GeometryError(f"the transforms of {layer.name} mix space with its channel or time axes; undo that first")
    to_mm = np.array([_millimetres(layer.units[axis]) for axis in present])
    block = matrix[np.ix_(present, present)] * to_mm[:, None]
    origin = matrix[present, -1] * to_mm
    if axes[0] is None:
        # A slice of 1 mm, at z = 0.
        block = np.block([[np.ones((1, 1)), np.zeros((1, 2))], [np.zeros((2, 1)), block]])
        origin = np.concatenate([[0.0], origin])
    # World axes are z, y, x of LPS.
    to_ras = np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    affine = np.eye(4)
    affine[:3, :3] = to_ras @ block
    affine[:3, 3] = to_ras @ origin
    return affine


def _millimetres(unit: Any) -> float:
    """How many mm a unit is; pixels and other units without a length count as mm."""
    try:
        return float((1 * unit).to("mm").magnitude)
    except Exception:  # pint raises its own family for units that are no length
        return 1.0


def _for_torch(array: NDArray[Any], name: str) -> NDArray[Any]:
    """The array in a type torch computes with; the same memory where it has one."""
    if array.dtype.kind not in "biuf":
        raise ImageReadError(f"{name} holds {array.dtype}; expected real numbers")
    wanted = {"b1": "u1", "u2": "i4", "u4": "i8", "u8": "i8", "f2": "f4", "f16": "f8"}
    key = f"{array.dtype.kind}{array.dtype.itemsize}"
    array = array.astype(wanted.get(key, key), copy=False)
    # torch has no negative strides.
    return np.ascontiguousarray(array) if min(array.strides, default=1) < 0 else array


def _apply(matrix: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = points @ matrix[:-1, :-1].T + matrix[:-1, -1]
    return result


def _match_length(points: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """World positions for a layer with another number of axes: the last ones are common, as napari has it."""
    if points.shape[-1] >= length:
        return points[..., points.shape[-1] - length :]
    padding = np.zeros((*points.shape[:-1], length - points.shape[-1]))
    return np.concatenate([padding, points], axis=-1)
