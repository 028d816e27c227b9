"""What a person may choose about how a model looks at an image."""

from __future__ import annotations

from dataclasses import dataclass

from volseg.data.modality import Modality
from volseg.geometry import Plane


@dataclass(frozen=True)
class EncodeOptions:
    """Choices that are made once per image, before any prompt.

    Attributes:
        window: name of an intensity window preset, or ``"LO,HI"`` in the image's units; None chooses by modality.
        plane: the plane of the slices for slice-wise models; None chooses by spacing and prompts.
        modality: None reads it from the image, or guesses from the intensities.
    """

    window: str | None = None
    plane: Plane | None = None
    modality: Modality | None = None
