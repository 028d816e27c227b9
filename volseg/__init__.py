"""3D segmentation of CT and MR volumes from clicks, boxes, scribbles, rough masks and words."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volseg.data import read_image, read_labelmap, write_labelmap
    from volseg.data.labelmap import LabelMap, OverlapPolicy
    from volseg.data.modality import Modality
    from volseg.errors import VolsegError
    from volseg.geometry import Frame, Grid, Plane
    from volseg.models.base import Model
    from volseg.models.options import EncodeOptions
    from volseg.models.registry import list_models, load_model
    from volseg.prompts import Box, Lasso, MaskPrompt, Point, PromptSet, Scribble, Text
    from volseg.sessions import Session, replay

    __version__: str

_HOMES = {
    "Box": "volseg.prompts",
    "EncodeOptions": "volseg.models.options",
    "Frame": "volseg.geometry",
    "Grid": "volseg.geometry",
    "LabelMap": "volseg.data.labelmap",
    "Lasso": "volseg.prompts",
    "MaskPrompt": "volseg.prompts",
    "Modality": "volseg.data.modality",
    "Model": "volseg.models.base",
    "OverlapPolicy": "volseg.data.labelmap",
    "Plane": "volseg.geometry",
    "Point": "volseg.prompts",
    "PromptSet": "volseg.prompts",
    "Scribble": "volseg.prompts",
    "Session": "volseg.sessions",
    "Text": "volseg.prompts",
    "VolsegError": "volseg.errors",
    "list_models": "volseg.models.registry",
    "load_model": "volseg.models.registry",
    "read_image": "volseg.data",
    "read_labelmap": "volseg.data",
    "replay": "volseg.sessions",
    "write_labelmap": "volseg.data",
}
"""Where each public name lives; imported when first used, so that ``import volseg`` stays light."""

__all__ = [
    "Box",
    "EncodeOptions",
    "Frame",
    "Grid",
    "LabelMap",
    "Lasso",
    "MaskPrompt",
    "Modality",
    "Model",
    "OverlapPolicy",
    "Plane",
    "Point",
    "PromptSet",
    "Scribble",
    "Session",
    "Text",
    "VolsegError",
    "__version__",
    "list_models",
    "load_model",
    "read_image",
    "read_labelmap",
    "replay",
    "write_labelmap",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("volseg")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
