"""Which slice the screen shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import LayerVolume, world_from_data

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Layer

OBLIQUE = 1e-3
"""A slice that leaves a voxel plane by more than this part of its extent is oblique."""


@dataclass(frozen=True)
class SliceView:
    """What of napari's world is on the screen.

    Attributes:
        ndim: number of the viewer's axes.
        displayed: the axes on the screen.
        units: of the viewer's axes.
    """

    ndim: int
    displayed: tuple[int, ...]
    units: tuple[Any, ...] | None

    @classmethod
    def of(cls, dims: Dims) -> SliceView:
        """What a viewer's sliders say."""
        units = getattr(dims, "units", None)
        return cls(dims.ndim, tuple(dims.displayed), None if units is None else tuple(units))

    def unit_factors(self, layer: Layer) -> NDArray[np.float64]:
        """How many of the layer's units make one of the viewer's, for each axis of the layer."""
        factors = np.ones(layer.ndim)
        if self.units is None or len(self.units) != self.ndim:
            return factors
        for axis, (ours, theirs) in enumerate(zip(layer.units, self.units[-layer.ndim :], strict=False)):
            if ours != theirs:
                try:
                    factors[axis] = (1 * theirs).to(ours).magnitude
                except Exception:  # pint's own family: no length, such as a pixel
                    factors[axis] = 1.0
        return factors

    def in_layer_units(self, layer: Layer, position: Any) -> NDArray[np.float64]:
        """A position in the viewer's world in the units of a layer, for the layer's axes."""
        world = np.asarray(position, dtype=np.float64)[-layer.ndim :]
        result: NDArray[np.float64] = world * self.unit_factors(layer)[-len(world) :]
        return result


def slice_axis(view: SliceView, layer: Layer, volume: LayerVolume) -> int | None:
    """The voxel axis (0 i, 1 j, 2 k) that slices on the screen are perpendicular to, None for oblique ones.

    A 2D image lies on the one slice along i.
    """
    if volume.axes[0] is None:
        return 0
    offset = view.ndim - layer.ndim
    shown = [axis - offset for axis in view.displayed if axis >= offset]
    data_of_world = np.linalg.inv(world_from_data(layer)[:-1, :-1])
    directions = data_of_world[:, shown]
    directions = directions / np.linalg.norm(directions, axis=0)
    for place, axis in enumerate(volume.axes):
        if axis is not None and np.abs(directions[axis]).max() < OBLIQUE:
            return place
    return None
