"""The command line that computes a session's label map without a window."""

from __future__ import annotations

import shlex
from pathlib import Path

from volseg.models.card import ModelCard
from volseg.sessions.state import SessionState


def segment_command(
    state: SessionState, card: ModelCard, image: Path, session_file: Path, output: Path, model: str | None = None
) -> str:
    """The ``volseg segment`` line that gives the label map which an exact prediction gives here.

    Args:
        state: what was said.
        card: of the model.
        image: the image's file or DICOM folder.
        session_file: the saved session.
        output: where the label map shall go.
        model: a bundle folder, where the model was loaded from one; None takes the card's name.
    """
    words = ["volseg", "segment", str(image), "-o", str(output), "--prompts", str(session_file)]
    words += ["--model", model or card.name]
    if state.options.window is not None:
        words.append(f"--window={state.options.window}")  # one word: numbers may begin with a minus
    if state.options.plane is not None:
        words += ["--plane", str(state.options.plane)]
    if state.options.modality is not None:
        words += ["--modality", str(state.options.modality)]
    words += ["--overlap", str(state.overlap), "--exact"]
    return shlex.join(words)
