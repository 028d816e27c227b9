"""How long work reports progress and learns that it should stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from volseg.errors import Cancelled

ProgressCallback: TypeAlias = Callable[[float, str], bool | None]
"""Called with the fraction done in [0, 1] and a short text; returning ``False`` cancels the work."""


def report(progress: ProgressCallback | None, fraction: float, text: str) -> None:
    """Tells ``progress`` how far the work is.

    Args:
        progress: the callback, or None to report to nobody.
        fraction: the part that is done, in [0, 1].
        text: what is being done, a few words.

    Raises:
        Cancelled: the callback returned ``False``.
    """
    if progress is not None and progress(fraction, text) is False:
        raise Cancelled(f"cancelled while {text}")
