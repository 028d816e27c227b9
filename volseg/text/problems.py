"""What can be wrong with a phrase."""

from __future__ import annotations

from volseg.errors import PromptError


class PhraseError(PromptError):
    """A phrase that says nothing to segment or contradicts itself."""


class UnknownTermError(PromptError):
    """A phrase with words that the vocabulary does not have.

    Attributes:
        term: the words that were not understood.
        nearest: names that look most like them, best first; none of them was taken.
    """

    def __init__(self, term: str, nearest: tuple[str, ...]) -> None:
        hint = f"; the nearest terms are: {', '.join(nearest)}" if nearest else "; nothing in the vocabulary is near"
        super().__init__(f"unknown term {term!r}{hint}")
        self.term = term
        self.nearest = nearest


class AmbiguousTermError(PromptError):
    """A phrase that can mean several things.

    Attributes:
        term: the words that were not clear.
        candidates: ids of the concepts they can mean.
    """

    def __init__(self, term: str, candidates: tuple[str, ...], names: tuple[str, ...]) -> None:
        super().__init__(f"{term!r} can mean {' or '.join(names)}; say which")
        self.term = term
        self.candidates = candidates
