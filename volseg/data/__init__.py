"""Files to images and label maps, and back.

The readers' libraries are imported when first needed, so importing this room costs next to nothing.
"""

from volseg.data.atomic import atomic_path
from volseg.data.description import ImageDescription, describe_image
from volseg.data.dicom_slices import SeriesDescription, list_series
from volseg.data.formats import FileFormat, check_output_path
from volseg.data.hashing import image_sha256
from volseg.data.images import read_image
from volseg.data.labelmap import (
    Label,
    LabelMap,
    OverlapPolicy,
    Provenance,
    SnomedCode,
    default_color_rgb,
    smallest_dtype,
)
from volseg.data.labelmap_files import read_labelmap, read_mask, write_labelmap
from volseg.data.measurements import ObjectMeasurements, measure
from volseg.data.modality import Modality
from volseg.data.object_mask import ObjectMask

__all__ = [
    "FileFormat",
    "ImageDescription",
    "Label",
    "LabelMap",
    "Modality",
    "ObjectMask",
    "ObjectMeasurements",
    "OverlapPolicy",
    "Provenance",
    "SeriesDescription",
    "SnomedCode",
    "atomic_path",
    "check_output_path",
    "default_color_rgb",
    "describe_image",
    "image_sha256",
    "list_series",
    "measure",
    "read_image",
    "read_labelmap",
    "read_mask",
    "smallest_dtype",
    "write_labelmap",
]
