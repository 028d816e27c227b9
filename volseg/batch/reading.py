"""The image of a case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volseg.batch.case import Case, FileSource
from volseg.data import Modality, read_image
from volseg.errors import ImageReadError

if TYPE_CHECKING:
    from monai.data import MetaTensor


def read_case_image(case: Case, channel: int | None, modality: Modality | None) -> MetaTensor:
    """Reads the image.

    Args:
        case: whose.
        channel: which one, where a file holds several; a DICOM series has one.
        modality: where the files do not say.

    Raises:
        ImageReadError: see ``read_image``; or files beside the slices are damaged, so that some may be missing.
    """
    if isinstance(case.source, FileSource):
        return read_image(case.source.path, channel=channel, modality=modality)
    if case.source.damaged:
        raise ImageReadError(
            f"{case.source.damaged} of the DICOM files beside its {len(case.source.files)} slices cannot be read, so "
            "slices may be missing; remove or mend them"
        )
    return read_image(case.source.folder, modality=modality, slices=case.source.files)
