"""Objects that may overlap, put into as few layers as that needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.labelmap import Label, LabelMap, Provenance, smallest_dtype
from volseg.data.object_mask import ObjectMask
from volseg.geometry import Grid


def layered(grid: Grid, masks: Sequence[ObjectMask], labels: Sequence[Label], provenance: Provenance) -> LabelMap:
    """A label map in which each object keeps all of its voxels.

    Args:
        grid: of all masks.
        masks: the objects.
        labels: one for each; its ``layer`` is where the object goes if there is room.
        provenance: how they came about.
    """
    dtype = smallest_dtype(max((label.value for label in labels), default=1))
    layers: list[NDArray[Any]] = [np.zeros(grid.shape, dtype=dtype, order="F")]
    placed = []
    for mask, label in zip(masks, labels, strict=True):
        wanted = label.layer if 0 <= label.layer < len(masks) else 0
        while len(layers) <= wanted:
            layers.append(np.zeros(grid.shape, dtype=dtype, order="F"))
        order = [wanted, *(index for index in range(len(layers)) if index != wanted)]
        free = (index for index in order if not mask.overlaps(layers[index]))
        index = next(free, len(layers))
        if index == len(layers):
            layers.append(np.zeros(grid.shape, dtype=dtype, order="F"))
        mask.write(layers[index], label.value)
        placed.append(replace(label, layer=index))
    used = sorted({label.layer for label in placed}) or [0]
    renumbered = tuple(replace(label, layer=used.index(label.layer)) for label in placed)
    return LabelMap(grid, tuple(layers[index] for index in used), renumbered, provenance)
