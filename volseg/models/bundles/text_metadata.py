"""The ``volseg`` block of a bundle with a text-query network, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from volseg.data.labelmap import Label
from volseg.errors import ModelError, PromptError
from volseg.inferers.text_query.settings import SearchSettings
from volseg.models.bundles.metadata import (
    FORMAT_VERSION,
    Identity,
    Weights,
    read_parts,
    settings_from_json,
    settings_to_json,
)
from volseg.models.card import License, ModelCard
from volseg.models.text_query import NEGATIVE_PROMPTS, POSITIVE_PROMPTS
from volseg.networks.text_query.config import TextQuerySpec
from volseg.text.vocabulary import load_vocabulary

ENGINE = "text_query"


@dataclass(frozen=True)
class WindowsAt:
    """Windows at one spacing.

    Attributes:
        spacing_mm: of the network's grid.
        window: voxels along right, anterior, superior.
        least: the smallest one that was trained; see ``SearchSettings``.
    """

    spacing_mm: float
    window: tuple[int, int, int]
    least: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Structure:
    """One structure that the model offers, and what that rests on.

    Attributes:
        concept: its id in the vocabulary.
        spacing_mm: at which it is looked for.
        dice: mean Dice on validation cases; None where there is no reference to measure against.
        cases: number of these cases.
        reference: who made the labels that it was measured against.
        queries: the query embeddings that it is the union of; its own if empty.
        bias: added to its mask logits.
    """

    concept: str
    spacing_mm: float
    dice: float | None = None
    cases: int = 0
    reference: str = ""
    queries: tuple[str, ...] = ()
    bias: float = 0.0

    @property
    def title(self) -> str:
        """Name and score in words."""
        name = load_vocabulary().by_id(self.concept).name
        score = "not scored" if self.dice is None else f"Dice {self.dice:.2f}, n {self.cases}"
        return f"{name} ({score}; reference: {self.reference or 'unknown'})"


@dataclass(frozen=True)
class Search:
    """How structures are looked for; see ``SearchSettings``."""

    windows: tuple[WindowsAt, ...]
    overlap: float = 0.25
    presence: float = 0.5
    least_part: float = 0.0


@dataclass(frozen=True)
class TextQueryBundle:
    """What a bundle says about its text-query model.

    Attributes:
        identity: name, version and purpose.
        license: terms of the weights.
        weights: the weights file.
        network: what to build.
        search: windows, by spacing.
        structures: what it offers.
    """

    identity: Identity
    license: License
    weights: Weights
    network: TextQuerySpec
    search: Search
    structures: tuple[Structure, ...]

    @property
    def settings(self) -> SearchSettings:
        """For the inferer."""
        return SearchSettings(
            {one.concept: one.spacing_mm for one in self.structures},
            {one.spacing_mm: one.window for one in self.search.windows},
            self.search.overlap,
            self.search.presence,
            self.search.least_part,
            {one.concept: one.queries for one in self.structures if one.queries},
            {one.concept: one.bias for one in self.structures if one.bias},
            self._wholes(),
            {one.spacing_mm: one.least for one in self.search.windows if one.least is not None},
        )

    def _wholes(self) -> dict[str, str]:
        """For structures that are parts of another one, which is looked for in coarser windows, that one."""
        spacings = {one.concept: one.spacing_mm for one in self.structures}
        found = {}
        for concept, spacing in spacings.items():
            coarser = [one for one in load_vocabulary().by_id(concept).parents if spacings.get(one, 0.0) > spacing]
            if coarser:
                found[concept] = coarser[0]
        # A whole that is itself a part is left out: one step is enough.
        return {part: whole for part, whole in found.items() if whole not in found}

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """The network and what it knows in words, by title."""
        network = f"{self.network.backbone} with text queries"
        return (("network", network), *(("offers", one.title) for one in self.structures))

    @property
    def card(self) -> ModelCard:
        """The card of the model."""
        vocabulary = load_vocabulary()
        concepts = [vocabulary.by_id(one.concept) for one in self.structures]
        labels = tuple(
            Label(value, one.name, one.color_rgb, snomed=one.snomed) for value, one in enumerate(concepts, start=1)
        )
        return ModelCard(
            name=self.identity.name,
            version=self.identity.version,
            summary=self.identity.summary,
            positive=POSITIVE_PROMPTS,
            negative=NEGATIVE_PROMPTS,
            modalities=frozenset(self.identity.modalities),
            labels=labels,
            license=self.license,
            weights_sha256=self.weights.sha256,
            random_weights=self.identity.random_weights,
        )

    def to_json(self) -> dict[str, Any]:
        """The block as plain data."""
        return {
            "format": FORMAT_VERSION,
            "engine": ENGINE,
            "model": settings_to_json(self.identity),
            "license": settings_to_json(self.license),
            "weights": settings_to_json(self.weights),
            "network": settings_to_json(self.network),
            "search": {
                "windows": [settings_to_json(one) for one in self.search.windows],
                "overlap": self.search.overlap,
                "presence": self.search.presence,
                "least_part": self.search.least_part,
            },
            "structures": [settings_to_json(one) for one in self.structures],
        }

    @classmethod
    def from_json(cls, block: Any) -> TextQueryBundle:
        """Reads what ``to_json`` wrote.

        Raises:
            ModelError: of another version or engine; a setting is missing, unknown or of the wrong type; or a structure
                is not in the vocabulary.
        """
        read = read_parts(block, ENGINE, {"network": TextQuerySpec}, {"search", "structures"})
        search = block.get("search")
        if not isinstance(search, Mapping) or not isinstance(search.get("windows"), list):
            raise ModelError(f"its 'search' is {search!r:.80}; expected an object with windows")
        windows = tuple(settings_from_json(WindowsAt, one, "search.windows") for one in search["windows"])
        rest = {name: value for name, value in search.items() if name != "windows"}
        if set(rest) - {one.name for one in dataclasses.fields(Search)}:
            raise ModelError(f"its 'search' has unknown parts {sorted(rest)}")
        listed = block.get("structures")
        if not isinstance(listed, list) or not listed:
            raise ModelError("it offers no structure; 'structures' is a list of them")
        structures = tuple(settings_from_json(Structure, one, "structures") for one in listed)
        vocabulary = load_vocabulary()
        for one in structures:
            try:
                vocabulary.by_id(one.concept)
            except PromptError as error:
                raise ModelError(f"it offers {one.concept!r}, which volseg's vocabulary does not know") from error
        try:
            bundle = cls(
                read["model"], read["license"], read["weights"], read["network"], Search(windows, **rest), structures
            )
            _ = bundle.settings
        except TypeError as error:
            raise ModelError(f"'search': {error}") from error
        return bundle
