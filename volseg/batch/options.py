"""What a batch run is asked to do."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from volseg.data.dicom.kinds import SegmentationKind
from volseg.data.labelmap import OverlapPolicy
from volseg.models.options import EncodeOptions


class OutputFormat(StrEnum):
    """What is written, as ``--formats`` has it."""

    NIFTI = "nifti"
    """``<id>_seg.nii.gz``, the label map."""
    SEG_NRRD = "seg.nrrd"
    """``<id>_seg.seg.nrrd``, the label map as 3D Slicer has it; holds overlapping objects."""
    DICOM_SEG = "dicom-seg"
    """``<id>_seg.dcm``, DICOM segmentation; needs a DICOM image."""
    RTSTRUCT = "rtstruct"
    """``<id>_rtstruct.dcm``, DICOM contours; needs a DICOM image."""
    SR = "sr"
    """``<id>_sr.dcm``, DICOM measurement report; needs a DICOM image."""
    CSV = "csv"
    """``measurements.csv``, one row an object of all cases."""
    OVERLAY = "overlay"
    """``<id>_overlay.png``, three planes through each object."""
    HTML = "html"
    """``index.html``, all cases on one page."""


NEEDS_DICOM = frozenset({OutputFormat.DICOM_SEG, OutputFormat.RTSTRUCT, OutputFormat.SR})
NEEDS_MEASUREMENTS = frozenset({OutputFormat.CSV, OutputFormat.HTML, OutputFormat.SR})
FILE_SUFFIXES = {
    OutputFormat.NIFTI: "_seg.nii.gz",
    OutputFormat.SEG_NRRD: "_seg.seg.nrrd",
    OutputFormat.DICOM_SEG: "_seg.dcm",
    OutputFormat.RTSTRUCT: "_rtstruct.dcm",
    OutputFormat.SR: "_sr.dcm",
    OutputFormat.OVERLAY: "_overlay.png",
}
"""How the name of each case's file ends; the others are written once for all cases."""

DEFAULT_FORMATS = (OutputFormat.NIFTI, OutputFormat.CSV)


@dataclass(frozen=True)
class CaseOptions:
    """What decides the content of a case's outputs, beside image, prompts and model.

    Attributes:
        formats: what is written.
        encode: how the model looks at the image.
        channel: which channel or time point, where files hold several.
        exact: forgo approximate updates.
        overlap: what becomes of voxels that several objects claim.
        segment_kind: of DICOM segmentations; fractional ones need probabilities, which label maps have not.
    """

    formats: tuple[OutputFormat, ...] = DEFAULT_FORMATS
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    channel: int | None = None
    exact: bool = False
    overlap: OverlapPolicy = OverlapPolicy.LAST_WINS
    segment_kind: SegmentationKind = SegmentationKind.BINARY

    def formats_for(self, *, dicom: bool) -> tuple[OutputFormat, ...]:
        """The formats that an image can have."""
        return tuple(item for item in self.formats if dicom or item not in NEEDS_DICOM)

    @property
    def measures(self) -> bool:
        """Whether measurements are needed."""
        return not NEEDS_MEASUREMENTS.isdisjoint(self.formats)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for sidecars and the hash."""
        return {
            "formats": sorted(str(item) for item in self.formats),
            "window": self.encode.window,
            "plane": None if self.encode.plane is None else str(self.encode.plane),
            "modality": None if self.encode.modality is None else str(self.encode.modality),
            "channel": self.channel,
            "exact": self.exact,
            "overlap": str(self.overlap),
            "segment_kind": str(self.segment_kind),
        }

    @property
    def sha256(self) -> str:
        """The same for the same choices."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and how it is loaded.

    Attributes:
        name: for ``load_model``: a name or a bundle folder.
        trust: let a bundle run code that is not volseg's.
        loader: ``module:function`` that takes the device's name and gives a ``Model``, instead of ``name``; for
            models that live in the user's own code.
    """

    name: str
    trust: bool = False
    loader: str = ""
