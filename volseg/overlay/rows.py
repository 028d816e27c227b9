"""What a row of the picture shows: one object and the slices through its middle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volseg.data.labelmap import Label, LabelMap
from volseg.geometry import Grid
from volseg.overlay.display import to_display
from volseg.prompts import PromptedObject

VIEW_FACTOR = 2.5
"""A panel is this many times as wide as the object's largest extent, so that one sees where it lies."""

MIN_VIEW_MM = 100.0
"""A panel is at least this wide, as far as the image reaches."""


@dataclass(frozen=True)
class Row:
    """One object's row.

    Attributes:
        label: the object.
        volume_ml: its volume in the label map.
        centre: voxel of the display grid that the three slices run through.
        view_mm: width and height of each panel.
        prompts: what was said about the object, in voxel index of the display grid; None if not known.
    """

    label: Label
    volume_ml: float
    centre: tuple[int, int, int]
    view_mm: float
    prompts: PromptedObject | None

    @property
    def title(self) -> str:
        """Name, volume, and presence where it is known."""
        parts = [f"{self.label.value}: {self.label.name}"]
        parts.append(f"{self.volume_ml:.3g} ml" if self.volume_ml else "empty")
        if self.label.presence is not None:
            parts.append(f"presence {self.label.presence:.2f}")
        return "   ".join(parts)


def plan_row(labelmap: LabelMap, label: Label, display: Grid, prompts: PromptedObject | None) -> Row:
    """Chooses the slices and the section to show.

    Args:
        labelmap: on the image's grid.
        label: one of its labels.
        display: the image's grid in display order.
        prompts: of this object, in voxel index of ``display``.
    """
    mask = to_display(labelmap.layers[label.layer], labelmap.grid) == label.value
    occupied = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    spacing = np.array(display.spacing_mm)
    image_mm = float((np.array(display.shape) * spacing).max())
    if occupied[0].size == 0:
        centre = _middle(display, prompts)
        return Row(label, 0.0, centre, min(image_mm, 2 * MIN_VIEW_MM), prompts)
    start = np.array([indices[0] for indices in occupied])
    stop = np.array([indices[-1] + 1 for indices in occupied])
    voxels = np.argwhere(mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]) + start
    # The voxel of the object next to its centroid: the centroid of a ring lies outside the ring.
    distance_mm = np.linalg.norm((voxels - voxels.mean(axis=0)) * spacing, axis=1)
    i, j, k = voxels[int(distance_mm.round(6).argmin())].tolist()
    view_mm = min(image_mm, max(MIN_VIEW_MM, VIEW_FACTOR * float(((stop - start) * spacing).max())))
    return Row(label, len(voxels) * labelmap.grid.voxel_volume_ml, (i, j, k), view_mm, prompts)


def _middle(display: Grid, prompts: PromptedObject | None) -> tuple[int, int, int]:
    """Where an empty object was looked for: the middle of its prompts, else of the image."""
    covered: list[NDArray[np.int64]] = [prompt.voxels_ijk(display) for prompt in prompts.prompts] if prompts else []
    places = [voxels.mean(axis=0) for voxels in covered if len(voxels)]
    middle = np.mean(places, axis=0) if places else (np.array(display.shape) - 1) / 2
    i, j, k = np.round(middle).astype(int).tolist()
    return i, j, k
