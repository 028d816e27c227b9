"""Values that options may take.

The same as those of the enumerations they are turned into, which import numpy: too slow for ``volseg --help``.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

AUTO = "auto"
FRAMES = ("ras", "lps", "ijk")
PLANES = ("axial", "coronal", "sagittal")
MODALITIES = ("CT", "MR", "OTHER")
OVERLAPS = ("last", "first", "layers")


def one_of(*choices: str) -> Callable[[str | None], str | None]:
    """A callback for typer that refuses other values; upper and lower case are the same."""

    def check(value: str | None) -> str | None:
        if value is None:
            return None
        for choice in choices:
            if value.lower() == choice.lower():
                return choice
        raise typer.BadParameter(f"expected one of {', '.join(choices)}, got {value!r}")

    return check


def device(value: str) -> str:
    """A callback for typer that checks a device's name."""
    name, _, number = value.partition(":")
    if name not in (AUTO, "cpu", "cuda", "mps") or (":" in value and (name != "cuda" or not number.isdigit())):
        raise typer.BadParameter(f"expected auto, cpu, cuda, cuda:N or mps, got {value!r}")
    return value
