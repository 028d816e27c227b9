"""Simple methods through the model contract, to compare others with; not meant for use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volseg.models.base import Model

BASELINES = ("ellipse", "ellipsoid", "region-growing")
"""Names that ``load_model`` knows besides those it lists. MobileSAM is loaded by its folder of weights."""

MOBILESAM_FILES = ("encoder.onnx", "sam.onnx")


def load_baseline(name: str) -> Model:
    """The baseline of that name, one of ``BASELINES``."""
    if name == "region-growing":
        from volseg.models.baselines.region_growing import RegionGrowing

        return RegionGrowing()
    from volseg.models.baselines.ellipse import EllipseInBox

    return EllipseInBox(as_body=name == "ellipsoid")


def is_mobilesam(folder: Path) -> bool:
    """Whether a folder holds MobileSAM's two ONNX files."""
    return all((folder / file).is_file() for file in MOBILESAM_FILES)
