"""A session that computes in the background: what windows for annotators stand on. Knows no window toolkit.

`Desk` drives one session in a thread of its own and tells a listener what happens. `LabelCanvas` is the picture of all
objects that a viewer shows.
"""

from volseg.sessions.desk.autosave import Autosave, FoundAutosave, autosave_folder
from volseg.sessions.desk.canvas import LabelCanvas
from volseg.sessions.desk.command import segment_command
from volseg.sessions.desk.correction import correction_prompts
from volseg.sessions.desk.desk import Desk, OpenSession
from volseg.sessions.desk.events import (
    Autosaved,
    Connected,
    DeskEvent,
    Disconnected,
    Exported,
    Failed,
    Idle,
    ObjectSummary,
    Opened,
    Painted,
    Saved,
    StateChanged,
    Working,
)
from volseg.sessions.desk.opening import local_session
from volseg.sessions.desk.words import Asked, Term, known_terms, read_phrase
from volseg.sessions.desk.worklist import Worklist, WorklistCase, holds_dicom

__all__ = [
    "Asked",
    "Autosave",
    "Autosaved",
    "Connected",
    "Desk",
    "DeskEvent",
    "Disconnected",
    "Exported",
    "Failed",
    "FoundAutosave",
    "Idle",
    "LabelCanvas",
    "ObjectSummary",
    "OpenSession",
    "Opened",
    "Painted",
    "Saved",
    "StateChanged",
    "Term",
    "Working",
    "Worklist",
    "WorklistCase",
    "autosave_folder",
    "correction_prompts",
    "holds_dicom",
    "known_terms",
    "local_session",
    "read_phrase",
    "segment_command",
]
