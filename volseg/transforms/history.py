"""Doing again what a history says."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from monai.data import MetaTensor
from monai.utils.enums import TraceKeys

from volseg.errors import VolsegError
from volseg.transforms.crop import CropAroundPromptsd
from volseg.transforms.intensity import AutoWindowd, IntensityTransformd, PercentileScaled, WindowIntensityd
from volseg.transforms.reorient import ReorientWithPromptsd
from volseg.transforms.resample import ResampleWithPromptsd
from volseg.transforms.spatial import SpatialWithPromptsd

_REPLAYABLE: dict[str, type[IntensityTransformd] | type[SpatialWithPromptsd]] = {
    kind.__name__: kind
    for kind in (
        AutoWindowd,
        CropAroundPromptsd,
        PercentileScaled,
        ReorientWithPromptsd,
        ResampleWithPromptsd,
        WindowIntensityd,
    )
}


def replay(image: MetaTensor, operations: Iterable[Mapping[Hashable, Any]]) -> MetaTensor:
    """Applies the recorded history of one image, such as ``result.applied_operations``, to an untouched one.

    What was decided then (the window, the crop) is not decided anew, so an image of another sequence on the same grid
    gets the same treatment. The same image gives the same values, bit for bit.

    Args:
        image: [C, I, J, K] on the grid that the history starts from.
        operations: MONAI's records, oldest first.

    Returns:
        A new image with the same history, which ``Compose.inverse`` can undo.

    Raises:
        VolsegError: an operation is not volseg's.
        GeometryError: the image does not lie on the grid that was recorded.
    """
    for operation in operations:
        name = str(operation.get(TraceKeys.CLASS_NAME))
        if name not in _REPLAYABLE:
            raise VolsegError(f"only {', '.join(_REPLAYABLE)} can be replayed, got {name}")
        image = _REPLAYABLE[name].replayed(image, operation)
    return image
