"""How large a part of the slice the network is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from volseg.errors import ModelError
from volseg.inferers.slices.crop import Crop
from volseg.inferers.slices.plan import PlanePrompts

Extent: TypeAlias = tuple[float, float, float, float]
"""Outer faces (row0, column0, row1, column1) in pixels of the view."""


@dataclass(frozen=True)
class ZoomSettings:
    """When and how far to zoom in.

    Attributes:
        fill: part of the crop's side that the object's longer side takes.
        below: objects whose longer side is a smaller part of the slice's longer side are zoomed; 0 never zooms,
            infinity always does.
        click_side_mm: side of the first crop where only clicks and scribbles say where the object is; None starts with
            the whole slice.
        min_side_mm: no crop is smaller.
        rounds: how often an object of unknown size is decoded to choose the crop anew.
        widen: factor by which a crop grows whose border cuts the object.
        max_widenings: how often it may grow.
    """

    fill: float = 0.4
    below: float = 0.25
    click_side_mm: float | None = None
    min_side_mm: float = 24.0
    rounds: int = 2
    widen: float = 1.6
    max_widenings: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.fill <= 1 or self.below < 0 or self.min_side_mm <= 0 or self.widen <= 1:
            raise ModelError(f"the zoom needs 0 < fill <= 1, below >= 0, min_side_mm > 0 and widen > 1, got {self}")


def choose_crop(prompts: PlanePrompts, settings: ZoomSettings, decode_extent: Callable[[Crop], Extent | None]) -> Crop:
    """Chooses the crop for an object in one plane.

    Args:
        prompts: what was said; boxes and masks tell the object's size.
        settings: when and how far to zoom.
        decode_extent: decodes the prompted slices in a crop and tells the extent of the masks, None if they are empty.
    """
    sized, extent = _prompted_extent(prompts)
    if sized:
        return crop_for(extent, prompts, settings)
    spacing = np.array(prompts.view.pixel_spacing_mm)
    crop = Crop.whole(prompts.view.slice_shape)
    if settings.below == 0:
        return crop
    if settings.click_side_mm is not None:
        side_mm = max(settings.click_side_mm, _longer_mm(extent, spacing) / settings.fill)
        crop = _around(extent, side_mm, prompts)
    for _ in range(settings.rounds):
        found = decode_extent(crop)
        if found is None:
            break
        closer = crop_for(_union(extent, found), prompts, settings)
        if closer == crop:
            break
        crop = closer
    return crop


def crop_for(extent: Extent, prompts: PlanePrompts, settings: ZoomSettings) -> Crop:
    """The crop for an object of known extent."""
    shape = prompts.view.slice_shape
    spacing = np.array(prompts.view.pixel_spacing_mm)
    longer_mm = _longer_mm(extent, spacing)
    if longer_mm >= settings.below * float((np.array(shape) * spacing).max()):
        return Crop.whole(shape)
    return _around(extent, max(longer_mm / settings.fill, settings.min_side_mm), prompts)


def widened(crop: Crop, prompts: PlanePrompts, settings: ZoomSettings) -> Crop:
    """A larger crop around the same centre."""
    centre = (crop.row + (crop.rows - 1) / 2, crop.column + (crop.columns - 1) / 2)
    spacing = prompts.view.pixel_spacing_mm
    side_mm = settings.widen * max(crop.rows * spacing[0], crop.columns * spacing[1])
    return Crop.around(centre, side_mm, spacing, prompts.view.slice_shape)


def _around(extent: Extent, side_mm: float, prompts: PlanePrompts) -> Crop:
    centre = ((extent[0] + extent[2]) / 2, (extent[1] + extent[3]) / 2)
    return Crop.around(centre, side_mm, prompts.view.pixel_spacing_mm, prompts.view.slice_shape)


def _prompted_extent(prompts: PlanePrompts) -> tuple[bool, Extent]:
    """Whether the prompts tell the object's size, and the extent of all that is said to belong to it."""
    extents: list[Extent] = []
    sized = False
    for said in prompts.slices.values():
        if said.box_rc is not None:
            extents.append(said.box_rc)
        if said.mask is not None:
            extents.append(mask_extent(said.mask))
        sized |= said.box_rc is not None or said.mask is not None
        inside = said.points_rc[said.labels == 1]
        if len(inside):
            low, high = inside.min(axis=0), inside.max(axis=0)
            extents.append((low[0] - 0.5, low[1] - 0.5, high[0] + 0.5, high[1] + 0.5))
    total = extents[0]
    for extent in extents[1:]:
        total = _union(total, extent)
    return sized, total


def mask_extent(mask: NDArray[np.bool_]) -> Extent:
    """Outer faces of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(rows[0]) - 0.5, float(columns[0]) - 0.5, float(rows[-1]) + 0.5, float(columns[-1]) + 0.5


def _union(a: Extent, b: Extent) -> Extent:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _longer_mm(extent: Extent, spacing_mm: NDArray[np.float64]) -> float:
    return float(max((extent[2] - extent[0]) * spacing_mm[0], (extent[3] - extent[1]) * spacing_mm[1]))
