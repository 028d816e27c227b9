"""One annotator's work on one image: objects, prompts, undo, results, files."""

from volseg.sessions.engine import Engine, LocalEngine
from volseg.sessions.prompt_file import read_prompts
from volseg.sessions.result import ObjectResult
from volseg.sessions.session import Session, replay
from volseg.sessions.state import HistoryEntry, SessionObject, SessionState

__all__ = [
    "Engine",
    "HistoryEntry",
    "LocalEngine",
    "ObjectResult",
    "Session",
    "SessionObject",
    "SessionState",
    "read_prompts",
    "replay",
]
