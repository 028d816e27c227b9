"""CT, MR or neither."""

from __future__ import annotations

from enum import StrEnum


class Modality(StrEnum):
    """How an image was acquired; decides how intensities are read."""

    CT = "CT"
    MR = "MR"
    OTHER = "OTHER"
