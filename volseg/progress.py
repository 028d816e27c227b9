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


class Part:
    """A share of the whole progress, itself a callback for the work that has it.

    Args:
        progress: told of the whole, or None.
        start: what is done before this part, in [0, 1].
        share: how much this part is of the whole.
    """

    def __init__(self, progress: ProgressCallback | None, start: float, share: float) -> None:
        self._progress, self._start, self._share = progress, start, share

    def __call__(self, fraction: float, text: str) -> bool:
        """Tells how far the part is; raises ``Cancelled`` where the whole is cancelled."""
        report(self._progress, min(1.0, self._start + fraction * self._share), text)
        return True
