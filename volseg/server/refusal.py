"""What a server says no with."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        kind: the name of the exception that the client raises, or one of those in ``wire``.
        message: for people; says nothing about images or people.
    """

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
