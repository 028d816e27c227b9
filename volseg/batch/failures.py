"""From exceptions to what a sidecar says."""

from __future__ import annotations

from volseg.batch.case import Case
from volseg.batch.privacy import private_message
from volseg.batch.record import CaseError, ErrorKind, Stage
from volseg.errors import (
    CapabilityError,
    GeometryError,
    ImageReadError,
    MissingExtraError,
    ModelError,
    PromptError,
    SessionError,
    VolsegError,
    WindowError,
    WriteError,
)

_KINDS: tuple[tuple[type[BaseException], ErrorKind], ...] = (
    (MissingExtraError, ErrorKind.MISSING_EXTRA),
    (PromptError, ErrorKind.PROMPT),
    (SessionError, ErrorKind.PROMPT),
    (CapabilityError, ErrorKind.MODEL),
    (ModelError, ErrorKind.MODEL),
    (WindowError, ErrorKind.IMAGE),
    (WriteError, ErrorKind.OUTPUT),
    (ImageReadError, ErrorKind.IMAGE),
    (GeometryError, ErrorKind.IMAGE),
    (MemoryError, ErrorKind.OUT_OF_MEMORY),
)
_NO_MEMORY = ("out of memory", "not enough memory", "cannot allocate memory", "bad_alloc")
"""How torch (CUDA, CPU), the system and C++ say it in errors of other kinds."""

MAX_LENGTH = 600


def case_error(error: BaseException, case: Case, stage: Stage) -> CaseError:
    """What went wrong with a case, for its sidecar and the report.

    Messages of volseg are kept, cleaned of paths and patient data; of other errors nobody knows what they quote, so
    only their kind is named.
    """
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _NO_MEMORY):
        return CaseError(ErrorKind.OUT_OF_MEMORY, f"no memory was left ({type(error).__name__})", stage)
    kind = next((kind for base, kind in _KINDS if isinstance(error, base)), ErrorKind.OTHER)
    if not isinstance(error, VolsegError):
        return CaseError(
            kind, f"{type(error).__name__} in volseg or a library; 'volseg segment' shows it in full", stage
        )
    message = private_message(text, case)
    return CaseError(kind, message if len(message) <= MAX_LENGTH else f"{message[:MAX_LENGTH]}...", stage)
