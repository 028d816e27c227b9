"""The protocols by name. A protocol whose steps or scores change gets a new version."""

from __future__ import annotations

from volseg.errors import EvaluationError
from volseg.evaluation.protocols.base import Protocol
from volseg.evaluation.protocols.cvpr25 import Cvpr25Interactive
from volseg.evaluation.protocols.cvpr25_text import Cvpr25Text
from volseg.evaluation.protocols.nninteractive import NnInteractiveLike
from volseg.evaluation.protocols.static import Static
from volseg.evaluation.protocols.words_clicks import WordsClicks

PROTOCOLS: tuple[type[Protocol], ...] = (Static, Cvpr25Interactive, Cvpr25Text, NnInteractiveLike, WordsClicks)


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        EvaluationError: there is none.
    """
    for protocol in PROTOCOLS:
        if protocol.name == name:
            return protocol()
    raise EvaluationError(f"there is no protocol {name!r}; known are {', '.join(one.name for one in PROTOCOLS)}")
