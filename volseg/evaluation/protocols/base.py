"""What a protocol is: dialogues of a simulated annotator with a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from volseg.data.object_mask import ObjectMask
from volseg.errors import CapabilityError, EvaluationError
from volseg.evaluation.cost import Cost
from volseg.evaluation.reference import Reference, ReferenceObject
from volseg.models.card import ModelCard
from volseg.prompts import Prompt, PromptKind

if TYPE_CHECKING:
    from volseg.evaluation.rows import Row
    from volseg.evaluation.trial import Trial

Need: TypeAlias = tuple[PromptKind, bool]
"""A kind of prompt, and whether it says "this belongs" or "this does not"."""

CLICKS = 5
"""Correction clicks of the interactive protocols."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A model's mask for one object after one step.

    Attributes:
        item: the object as it should be.
        step: which step of the protocol.
        prompts: all that was said of the object so far.
        mask: the answer.
        cost: of this step; objects answered together share the time evenly.
    """

    item: ReferenceObject
    step: str
    prompts: tuple[Prompt, ...]
    mask: ObjectMask
    cost: Cost


@dataclass(frozen=True, eq=False)
class Dialogue:
    """A sequence of prompts and answers from a fresh encoding of the image; one that fails does not touch others.

    Attributes:
        objects: those it is about.
        steps: those it will give an answer for, for every object.
        answers: has the dialogue.
    """

    objects: tuple[ReferenceObject, ...]
    steps: tuple[str, ...]
    answers: Callable[[Trial], Iterator[Answer]]


@dataclass(frozen=True)
class Curve:
    """Steps of a dialogue in a row.

    Attributes:
        name: for people.
        steps: first to last.
        auc_steps: those whose scores the area is taken under: after clicks 1 to 5.
    """

    name: str
    steps: tuple[str, ...]
    auc_steps: tuple[str, ...]


class Protocol(ABC):
    """Who says what, and what counts. Named and versioned: scores of different versions are not comparable."""

    name: ClassVar[str]
    version: ClassVar[int]

    parts: ClassVar[Mapping[str, frozenset[Need]]]
    """Kinds of dialogue and the prompts each needs. A model that serves some of them is scored on those."""

    curves: ClassVar[tuple[Curve, ...]] = ()

    def served(self, card: ModelCard, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
        """The parts that a model can take, of those that are wanted; None wants all.

        Raises:
            CapabilityError: there is none.
            EvaluationError: a wanted part is none of the protocol's.
        """
        unknown = [part for part in wanted or () if part not in self.parts]
        if unknown:
            raise EvaluationError(
                f"protocol {self.name} has no part {', '.join(unknown)}; its parts are {', '.join(self.parts)}"
            )
        served = tuple(
            part
            for part, needs in self.parts.items()
            if (wanted is None or part in wanted)
            and all(kind in (card.positive if positive else card.negative) for kind, positive in needs)
        )
        if not served:
            every = sorted({f"{'+' if sign else '-'}{kind}" for needs in self.parts.values() for kind, sign in needs})
            has = sorted([f"+{kind}" for kind in card.positive] + [f"-{kind}" for kind in card.negative])
            raise CapabilityError(
                f"model {card.name} cannot be scored with protocol {self.name}, which uses {', '.join(every)}; "
                f"the model takes {', '.join(has)}"
            )
        return served

    @abstractmethod
    def dialogues(self, reference: Reference, parts: tuple[str, ...], seed: int) -> tuple[Dialogue, ...]:
        """The dialogues about one case.

        Args:
            reference: the case's objects.
            parts: those that the model serves.
            seed: of whatever is drawn; differs from case to case.

        Raises:
            EvaluationError: the case does not fit the protocol.
        """

    def settled(self, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        """The rows of one case after rules that take several of them together; these unless overridden."""
        return rows
