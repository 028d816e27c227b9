"""MONAI dictionary transforms that know about prompts, and the intensity windows behind them.

The names are found when first used, so that ``volseg.transforms.windows`` costs no import of torch or MONAI.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volseg.transforms.crop import CropAroundPromptsd
    from volseg.transforms.history import replay
    from volseg.transforms.intensity import AutoWindowd, PercentileScaled, WindowIntensityd
    from volseg.transforms.reorient import ReorientWithPromptsd
    from volseg.transforms.resample import ResampleWithPromptsd
    from volseg.transforms.windows import IntensityWindow, choose_window, guess_modality

__all__ = [
    "AutoWindowd",
    "CropAroundPromptsd",
    "IntensityWindow",
    "PercentileScaled",
    "ReorientWithPromptsd",
    "ResampleWithPromptsd",
    "WindowIntensityd",
    "choose_window",
    "guess_modality",
    "replay",
]

_HOMES = {
    "AutoWindowd": "intensity",
    "CropAroundPromptsd": "crop",
    "IntensityWindow": "windows",
    "PercentileScaled": "intensity",
    "ReorientWithPromptsd": "reorient",
    "ResampleWithPromptsd": "resample",
    "WindowIntensityd": "intensity",
    "choose_window": "windows",
    "guess_modality": "windows",
    "replay": "history",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
