"""Results as DICOM: segmentations, structure sets and measurement reports, and back.

The libraries are imported when a function is first called, so importing this room costs next to nothing.
"""

from volseg.data.dicom.kinds import SegmentationKind
from volseg.data.dicom.prompts import labelmap_prompts
from volseg.data.dicom.report import write_measurement_report
from volseg.data.dicom.rtstruct_reader import read_rtstruct
from volseg.data.dicom.rtstruct_writer import write_rtstruct
from volseg.data.dicom.seg_reader import read_dicom_seg
from volseg.data.dicom.seg_writer import write_dicom_seg
from volseg.data.dicom.sources import SourceSeries, read_sources, source_files

__all__ = [
    "SegmentationKind",
    "SourceSeries",
    "labelmap_prompts",
    "read_dicom_seg",
    "read_rtstruct",
    "read_sources",
    "source_files",
    "write_dicom_seg",
    "write_measurement_report",
    "write_rtstruct",
]
