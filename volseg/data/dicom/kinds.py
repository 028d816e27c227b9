"""The ways a DICOM segmentation stores its voxels."""

from __future__ import annotations

from enum import StrEnum


class SegmentationKind(StrEnum):
    """DICOM PS3.3 C.8.20.2, Segmentation Type."""

    BINARY = "binary"
    """One bit a voxel and object; objects may overlap; every viewer reads it."""
    LABELMAP = "labelmap"
    """One number a voxel; small with many objects, none may overlap; new in the standard, few viewers read it."""
    FRACTIONAL = "fractional"
    """A probability a voxel and object, in steps of 1/255."""
