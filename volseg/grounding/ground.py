"""Grounding a report: a mask for each finding, from any model that takes words."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from volseg.data.object_mask import ObjectMask
from volseg.errors import CapabilityError, PromptError
from volseg.geometry import Grid
from volseg.grounding.shape import AxisBox, KeySlice, OrientedBox, axis_box, key_slice, oriented_box
from volseg.models.base import Encoding, Model
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback, report
from volseg.prompts import PromptedObject, PromptKind, PromptSet, Text
from volseg.text.assertions import Assertion
from volseg.text.attributes import attribute_prompt
from volseg.text.offered import offered_concepts
from volseg.text.query import Query, recipe
from volseg.text.report import Finding, Problem, Report, read_report
from volseg.text.selectors import compose
from volseg.text.sides import EITHER_SIDE, midline_for
from volseg.text.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from volseg.transforms.midline import Midline

logger = logging.getLogger(__name__)


class Status(StrEnum):
    """What became of a finding."""

    FOUND = "found"
    NOT_FOUND = "not_found"
    """The model looked and marked nothing."""
    NOT_OFFERED = "not_offered"
    """The model does not know a structure or lesion that the finding needs, so nothing can be said."""


@dataclass(frozen=True)
class GroundedFinding:
    """One finding and where it is.

    Attributes:
        finding: what the report says.
        status: what became of it.
        mask: on the image's grid; empty unless the status is ``FOUND``. Its ``object_id`` counts the findings from 1.
        presence: the largest probability the model gives for a concept of the finding; None where it gives none.
        box: along the patient's axes.
        oriented_box: in any direction.
        key_slice: the slice with the largest cut.
        attribute_prompt: the finding's name with what it looks like; for models that can use it.
        message: for a person, where there is something to say.
    """

    finding: Finding
    status: Status
    mask: ObjectMask
    presence: float | None
    box: AxisBox | None
    oriented_box: OrientedBox | None
    key_slice: KeySlice | None
    attribute_prompt: str
    message: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether model and report say the same; None where one of them leaves it open."""
        if self.status is Status.NOT_OFFERED or self.finding.assertion is Assertion.UNCERTAIN:
            return None
        return (self.status is Status.FOUND) == (self.finding.assertion is Assertion.PRESENT)


@dataclass(frozen=True)
class Grounding:
    """A grounded report.

    Attributes:
        text: the report as given.
        grid: of the image.
        card: of the model.
        settings: (name, value) pairs of how the image was looked at.
        findings: in the order of the report.
        problems: words of the report that were not clear.
        unread: sentences without a word of the vocabulary.
    """

    text: str
    grid: Grid
    card: ModelCard
    settings: tuple[tuple[str, str], ...]
    findings: tuple[GroundedFinding, ...]
    problems: tuple[Problem, ...]
    unread: tuple[str, ...]

    @property
    def text_sha256(self) -> str:
        """Hash of the report."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


def ground_report(
    image: MetaTensor,
    text: str,
    model: Model,
    *,
    options: EncodeOptions | None = None,
    attributes: bool = False,
    progress: ProgressCallback | None = None,
) -> Grounding:
    """Finds what a report speaks of.

    Every concept that the findings need is asked for once, by name; unions, exclusions, sides and sizes are carried out
    on the masks, so models that know names alone serve whole sentences too.

    Args:
        image: [1, I, J, K]; never changed.
        text: the report.
        model: one that takes words.
        options: how the model looks at the image.
        attributes: send the appearance with the name ("liver cyst: round, hypodense"), for models that understand free
            text; a model with a label table gets the names of its labels whatever is said here.
        progress: told the part done; may cancel.

    Raises:
        CapabilityError: the model takes no words.
        PromptError: the report has no word of the vocabulary.
        Cancelled: ``progress`` asked to stop.
    """
    card = model.card
    if PromptKind.TEXT not in card.positive:
        raise CapabilityError(
            f"model {card.name} takes no words; choose one whose prompts include text (volseg models list)"
        )
    read = read_report(text)
    if not read.findings and not read.problems:
        raise PromptError("the report names no structure or lesion of the vocabulary; nothing can be looked for")
    with model.encode(image, options, progress) as encoding:
        masks = _segment(model, encoding, read, attributes, progress)
        settings = encoding.settings

    @cache
    def seen() -> Midline:
        from volseg.inferers.text_query.volume import midline_of
        from volseg.transforms.windows import choose_window

        return midline_of(image, choose_window(image, (options or EncodeOptions()).window))

    findings = tuple(
        _grounded(number, finding, masks, Grid.of(image), card, seen) for number, finding in enumerate(read.findings, 1)
    )
    report(progress, 1.0, "grounded")
    return Grounding(text, Grid.of(image), card, settings, findings, read.problems, read.unread)


def _segment(
    model: Model, encoding: Encoding, read: Report, attributes: bool, progress: ProgressCallback | None
) -> dict[str, ObjectMask]:
    """The masks of all concepts that the findings need and the model offers, by concept id."""
    needed = dict.fromkeys(one for finding in read.findings for one in finding.query.concept_ids)
    offered = offered_concepts(model.card.labels)
    if not model.card.labels:
        return _ask_freely(model, encoding, read, needed, attributes, progress)
    wanted: dict[str, str] = {}
    for concept_id in needed:
        way = recipe(concept_id, offered)
        for part in way.parts if way is not None else ():
            wanted[part] = offered[part]
    if not wanted:
        return {}
    result = model.segment(encoding, _prompts(encoding.grid, wanted), progress=progress)
    return dict(zip(wanted, result.masks, strict=True))


def _ask_freely(
    model: Model,
    encoding: Encoding,
    read: Report,
    needed: Mapping[str, None],
    attributes: bool,
    progress: ProgressCallback | None,
) -> dict[str, ObjectMask]:
    """One by one, as a model without a label table may refuse any name."""
    vocabulary = load_vocabulary()
    described: dict[str, Query] = {}
    for finding in read.findings:
        described.setdefault(finding.query.include[0], finding.query)
    masks: dict[str, ObjectMask] = {}
    for number, concept_id in enumerate(needed):
        report(progress, number / len(needed), f"looking for {vocabulary.by_id(concept_id).name}")
        name = vocabulary.by_id(concept_id).name
        if attributes and concept_id in described:
            name = attribute_prompt(described[concept_id])
        try:
            result = model.segment(encoding, _prompts(encoding.grid, {concept_id: name}))
        except PromptError as error:
            logger.info("model %s refused %r: %s", model.card.name, name, error)
            continue
        masks[concept_id] = result.masks[0]
    return masks


def _prompts(grid: Grid, texts: Mapping[str, str]) -> PromptSet:
    items = (PromptedObject(number, (Text(text),), text) for number, text in enumerate(texts.values(), 1))
    return PromptSet(grid, tuple(items))


def _grounded(
    number: int,
    finding: Finding,
    masks: Mapping[str, ObjectMask],
    grid: Grid,
    card: ModelCard,
    seen: Callable[[], Midline],
) -> GroundedFinding:
    query = finding.query
    ways = {one: recipe(one, masks) for one in query.concept_ids}
    prompt = attribute_prompt(query)
    empty = ObjectMask(number, grid, (0, 0, 0), np.zeros((0, 0, 0), dtype=bool))
    missing = [load_vocabulary().by_id(one).name for one, way in ways.items() if way is None]
    if missing:
        message = f"model {card.name} does not offer {' or '.join(missing)}"
        return GroundedFinding(finding, Status.NOT_OFFERED, empty, None, None, None, None, prompt, message)
    used = {part: masks[part] for way in ways.values() if way is not None for part in way.parts}
    whole = {part: mask.full() for part, mask in used.items()}
    midline = midline_for([query], whole, grid, seen)
    full = compose(query, whole, grid, midline=midline)
    parts = [part for one in query.include if (way := ways[one]) is not None for part in way.parts]
    known = [presence for part in parts if (presence := masks[part].presence) is not None]
    presence = max(known, default=None)
    unsure = midline is not None and not midline.sure and bool(full.any())
    if presence is not None and unsure:
        presence *= EITHER_SIDE
    mask = ObjectMask.of(number, grid, full, presence)
    status = Status.FOUND if mask.voxels else Status.NOT_FOUND
    return GroundedFinding(
        finding,
        status,
        mask,
        presence,
        axis_box(mask),
        oriented_box(mask),
        key_slice(mask),
        prompt,
        "the side cannot be told from this image; what is marked may be the other one"
        if unsure
        else _remark(finding, status),
    )


def _remark(finding: Finding, status: Status) -> str:
    if status is Status.FOUND and finding.assertion is Assertion.ABSENT:
        return "the report says it is absent, the model marked something"
    if status is Status.NOT_FOUND and finding.assertion is Assertion.PRESENT:
        return "the report says it is present, the model marked nothing"
    return " ".join(finding.query.notes)
