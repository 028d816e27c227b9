"""What the exit status of every command means."""

from __future__ import annotations

from enum import IntEnum

from volseg.errors import (
    Cancelled,
    CapabilityError,
    GeometryError,
    ImageReadError,
    MissingExtraError,
    ModelError,
    PromptError,
    SessionError,
    WindowError,
    WriteError,
)


class ExitCode(IntEnum):
    """Exit status of ``volseg``; the numbers stay the same in all versions (``docs/cli.md``)."""

    OK = 0
    """Done."""
    BUG = 1
    """Something volseg did not foresee; ``volseg --debug`` shows where."""
    USAGE = 2
    """The command line is not of the grammar, or an option has a value it cannot have."""
    IMAGE = 3
    """The input cannot be read as one 3D scalar volume, or its geometry is impossible."""
    PROMPT = 4
    """A prompt is malformed, does not fit the image, or there is none."""
    MODEL = 5
    """The model cannot be found or loaded, or cannot do what was asked."""
    OUTPUT = 6
    """An output cannot be written."""
    SESSION = 7
    """A session file is damaged or of another image or model."""
    MISSING_EXTRA = 8
    """An optional dependency is not installed."""
    FAILED = 9
    """Another error that volseg or the machine reported, such as no memory left."""
    CASES_FAILED = 10
    """A batch came to its end and some of its cases failed; its report names them."""
    CANCELLED = 130
    """Interrupted; nothing is left half-written."""


_MEANINGS: tuple[tuple[type[Exception], ExitCode], ...] = (
    (Cancelled, ExitCode.CANCELLED),
    (MissingExtraError, ExitCode.MISSING_EXTRA),
    (PromptError, ExitCode.PROMPT),
    (CapabilityError, ExitCode.MODEL),
    (ModelError, ExitCode.MODEL),
    (WindowError, ExitCode.USAGE),
    (SessionError, ExitCode.SESSION),
    (WriteError, ExitCode.OUTPUT),
    (ImageReadError, ExitCode.IMAGE),
    (GeometryError, ExitCode.IMAGE),
)


def exit_code_of(error: Exception) -> ExitCode:
    """The status that tells a script what kind of error came."""
    return next((code for kind, code in _MEANINGS if isinstance(error, kind)), ExitCode.FAILED)
