"""Cards, options and errors as JSON."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from volseg import errors
from volseg.data.labelmap import Label, SnomedCode
from volseg.data.modality import Modality
from volseg.errors import ServerError, ServerRefusedError, SessionError, VolsegError
from volseg.geometry import Plane
from volseg.models.card import License, ModelCard
from volseg.models.options import EncodeOptions
from volseg.prompts import PromptKind

API = 1
"""Version of the protocol; part of every address."""

MAX_NAME = 200
"""Letters of a window or model name."""

UNKNOWN_SESSION = "UnknownSession"
UNKNOWN_IMAGE = "UnknownImage"
SERVER_FULL = "ServerFull"

_ERRORS: dict[str, type[VolsegError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, VolsegError)
}


def error_to_json(kind: str, message: str) -> dict[str, Any]:
    """The body of every answer that is not a success."""
    return {"error": {"type": kind, "message": message}}


def error_from_json(status: int, data: Any) -> tuple[str, VolsegError]:
    """What the server said: its kind, and the exception that fits."""
    said = data.get("error") if isinstance(data, Mapping) else None
    kind = str(said.get("type", "")) if isinstance(said, Mapping) else ""
    message = str(said.get("message", "")) if isinstance(said, Mapping) else ""
    message = message or f"the server answers with status {status}"
    if status in (429, 502, 503, 504):
        return kind, ServerError(message)
    return kind, _ERRORS.get(kind, ServerRefusedError)(message)


def options_to_json(options: EncodeOptions) -> dict[str, Any]:
    """Plain data of ``options_from_json``."""
    return {
        "window": options.window,
        "plane": None if options.plane is None else str(options.plane),
        "modality": None if options.modality is None else str(options.modality),
    }


def options_from_json(data: Any) -> EncodeOptions:
    """Reads what ``options_to_json`` wrote.

    Raises:
        SessionError: it is none of that.
    """
    if not isinstance(data, Mapping):
        raise SessionError(f"options are {{window, plane, modality}}, got {reprlib.repr(data)}")
    window = data.get("window")
    if window is not None and not (isinstance(window, str) and len(window) <= MAX_NAME):
        raise SessionError(f"a window is a name or 'LO,HI', got {reprlib.repr(window)}")
    try:
        plane = None if data.get("plane") is None else Plane(data["plane"])
        modality = None if data.get("modality") is None else Modality(data["modality"])
    except (ValueError, TypeError) as error:
        raise SessionError(f"the options: {error}") from error
    return EncodeOptions(window, plane, modality)


def card_from_json(data: Any) -> ModelCard:
    """Reads what ``ModelCard.to_json`` wrote.

    Raises:
        ServerRefusedError: it is none of that, as another version's may be.
    """
    try:
        return ModelCard(
            str(data["name"]),
            str(data["version"]),
            str(data["summary"]),
            frozenset(PromptKind(kind) for kind in data["positive"]),
            frozenset(PromptKind(kind) for kind in data["negative"]),
            bool(data["volumetric"]),
            frozenset(Modality(modality) for modality in data["modalities"]),
            tuple(_label(label) for label in data["labels"]),
            License(
                str(data["license"]["spdx"]), bool(data["license"]["commercial"]), str(data["license"]["attribution"])
            ),
            str(data["weights_sha256"]),
            bool(data["random_weights"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerRefusedError(
            f"the server's model cannot be understood ({error}); use the same volseg there"
        ) from error


def _label(data: Any) -> Label:
    red, green, blue = (int(value) for value in data["color_rgb"])
    snomed = None if data["snomed"] is None else SnomedCode(str(data["snomed"][0]), str(data["snomed"][1]))
    return Label(int(data["value"]), str(data["name"]), (red, green, blue), snomed=snomed)
