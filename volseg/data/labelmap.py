"""The result: labels on the image's own grid."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.errors import GeometryError
from volseg.geometry import Grid


class OverlapPolicy(StrEnum):
    """What becomes of voxels that several objects claim."""

    LAST_WINS = "last"
    """The object that comes later in the list keeps them."""
    FIRST_WINS = "first"
    """The object that comes first keeps them."""
    LAYERS = "layers"
    """Each object keeps all of its voxels; the label map gets as many layers as that needs."""


@dataclass(frozen=True)
class SnomedCode:
    """A SNOMED CT concept: its number as a text, and its meaning in words."""

    code: str
    meaning: str


@dataclass(frozen=True)
class Label:
    """What one value of a label map stands for.

    Attributes:
        value: the value in its layer's array, from 1.
        name: what the object is called.
        color_rgb: red, green, blue in 0..255.
        layer: index of the layer that holds the value.
        snomed: the concept, where known.
        presence: probability in [0, 1] that the object is in the image, where the model says.
    """

    value: int
    name: str
    color_rgb: tuple[int, int, int]
    layer: int = 0
    snomed: SnomedCode | None = None
    presence: float | None = None


@dataclass(frozen=True)
class Provenance:
    """How a label map came about; no patient data.

    Attributes:
        software: name and version of what made it.
        model: the model's name and version.
        model_sha256: hash of its weights, empty for a model without weights.
        image_sha256: hash of the image's voxels and grid.
        settings: (name, value) pairs such as the intensity window that was applied.
    """

    software: str = ""
    model: str = ""
    model_sha256: str = ""
    image_sha256: str = ""
    settings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labelled voxels; more than one layer only where objects overlap.

    Attributes:
        grid: the image's grid.
        layers: unsigned integer arrays of the grid's shape, 0 is background; read-only.
        labels: what the values stand for, in ascending order of value; values differ across all layers.
        provenance: how it came about.

    Raises:
        GeometryError: a layer of another shape or not of integers, no layer, or labels that share a value or name a
            layer that is not there.
    """

    grid: Grid
    layers: tuple[NDArray[Any], ...] = field(repr=False)
    labels: tuple[Label, ...]
    provenance: Provenance = Provenance()

    def __post_init__(self) -> None:
        if not self.layers:
            raise GeometryError("a label map has at least one layer")
        layers = []
        for layer in self.layers:
            if layer.shape != self.grid.shape or layer.dtype.kind not in "ui":
                raise GeometryError(
                    f"a layer is an integer array of shape {self.grid.shape}, got {layer.dtype} {layer.shape}"
                )
            view = layer.view()
            view.setflags(write=False)
            layers.append(view)
        values = [label.value for label in self.labels]
        if len(set(values)) != len(values) or any(value < 1 for value in values):
            raise GeometryError(f"labels have values from 1, each once; got {values}")
        if any(not 0 <= label.layer < len(layers) for label in self.labels):
            raise GeometryError(f"a label names a layer that is not among the {len(layers)} there are")
        object.__setattr__(self, "layers", tuple(layers))
        object.__setattr__(self, "labels", tuple(sorted(self.labels, key=lambda label: label.value)))

    @property
    def array(self) -> NDArray[Any]:
        """The only layer, an integer array [I, J, K].

        Raises:
            GeometryError: objects overlap, so there are several layers.
        """
        if len(self.layers) != 1:
            raise GeometryError(
                f"this label map has {len(self.layers)} layers as objects overlap; "
                "use .layers, .mask(value) or .flattened()"
            )
        return self.layers[0]

    def label(self, value: int) -> Label:
        """The label of ``value``.

        Raises:
            KeyError: there is none.
        """
        for label in self.labels:
            if label.value == value:
                return label
        raise KeyError(value)

    def mask(self, value: int) -> NDArray[np.bool_]:
        """The voxels of one label, bool [I, J, K]."""
        result: NDArray[np.bool_] = self.layers[self.label(value).layer] == value
        return result

    def flattened(self) -> LabelMap:
        """The same with one layer: where objects overlap, the label of the highest layer stays."""
        if len(self.layers) == 1:
            return self
        flat = self.layers[0].astype(np.result_type(*self.layers))
        for layer in self.layers[1:]:
            np.copyto(flat, layer, where=layer != 0)
        return LabelMap(self.grid, (flat,), tuple(replace(label, layer=0) for label in self.labels), self.provenance)

    def reoriented(self, axcodes: str) -> LabelMap:
        """The same labels with axes permuted and flipped so that they run towards ``axcodes``; nothing is copied.

        Raises:
            GeometryError: ``axcodes`` does not name each of the three directions once.
        """
        matrix = self.grid.reorientation(axcodes)[:3, :3]
        order = np.abs(matrix).argmax(axis=0)
        flips = tuple(axis for axis in range(3) if matrix[order[axis], axis] < 0)
        layers = tuple(np.flip(layer.transpose(*order), flips) for layer in self.layers)
        return LabelMap(self.grid.reoriented(axcodes), layers, self.labels, self.provenance)

    @classmethod
    def from_masks(
        cls,
        grid: Grid,
        masks: Sequence[ObjectMask],
        labels: Sequence[Label],
        policy: OverlapPolicy = OverlapPolicy.LAST_WINS,
        provenance: Provenance = Provenance(),
    ) -> LabelMap:
        """Puts objects together.

        Args:
            grid: the image's grid.
            masks: the objects, in order of priority for ``policy``.
            labels: one for each mask, in the same order; ``value`` is written, ``layer`` is set here.
            policy: what becomes of voxels that several objects claim.
            provenance: how the masks came about.
        """
        for mask in masks:
            if not mask.grid.same_as(grid):
                raise GeometryError(f"object {mask.object_id} lies on another grid than the label map")
        dtype = smallest_dtype(max((label.value for label in labels), default=1))
        layers = [np.zeros(grid.shape, dtype=dtype)]
        placed = []
        for mask, label in zip(masks, labels, strict=True):
            index = 0
            if policy is OverlapPolicy.LAYERS:
                free = (i for i, layer in enumerate(layers) if not mask.overlaps(layer))
                index = next(free, len(layers))
                if index == len(layers):
                    layers.append(np.zeros(grid.shape, dtype=dtype))
            mask.write(layers[index], label.value, only_free=policy is OverlapPolicy.FIRST_WINS)
            placed.append(replace(label, layer=index, presence=mask.presence))
        return cls(grid, tuple(layers), tuple(placed), provenance)


def smallest_dtype(largest_value: int) -> np.dtype[Any]:
    """The smallest unsigned integer type that holds labels up to ``largest_value``."""
    return np.dtype(np.min_scalar_type(max(largest_value, 1)))


def default_color_rgb(value: int) -> tuple[int, int, int]:
    """A colour for label ``value``, far from those of the labels just before it (golden angle on the hue circle)."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + (value - 1) * 0.618034) % 1.0, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)
