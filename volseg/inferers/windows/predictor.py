"""What is asked about a window."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class QueryPredictor(Protocol):
    """A network that looks at windows once and then answers any number of queries about them."""

    queries: int
    """How many."""

    def encode(self, windows: Tensor) -> Any:
        """What is computed of windows [B, C, I, J, K] once, for all queries."""

    def decode(self, features: Any, first: int, last: int) -> Tensor:
        """Logits [B, last - first, I, J, K] of the queries from ``first`` to before ``last``; a tensor of their own."""


class PlainPredictor:
    """The answers of a network that gives all its classes at once, such as any of MONAI's."""

    def __init__(self, queries: int) -> None:
        self.queries = queries

    def encode(self, windows: Tensor) -> Tensor:
        """See ``QueryPredictor.encode``; the network was asked already."""
        return windows

    def decode(self, features: Tensor, first: int, last: int) -> Tensor:
        """See ``QueryPredictor.decode``."""
        return features[:, first:last]
