"""A grounded report as plain data."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from volseg.data.labelmap import Label, LabelMap, OverlapPolicy, Provenance, default_color_rgb
from volseg.grounding.ground import GroundedFinding, Grounding, Status
from volseg.text.vocabulary import load_vocabulary

SCHEMA = "volseg.grounding"
SCHEMA_VERSION = 1


def to_json(grounding: Grounding, image_sha256: str = "") -> dict[str, Any]:
    """Plain data that fits ``schema()``.

    Args:
        grounding: from ``ground_report``.
        image_sha256: see ``volseg.data.image_sha256``; empty if not known.
    """
    card = grounding.card
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "image": {"sha256": image_sha256, "grid": grounding.grid.to_json()},
        "model": {
            "name": card.name,
            "version": card.version,
            "weights_sha256": card.weights_sha256,
            "settings": [list(pair) for pair in grounding.settings],
        },
        "report": {
            "sha256": grounding.text_sha256,
            "unread": list(grounding.unread),
            "problems": [
                {"phrase": problem.phrase, "message": problem.message, "sentence": problem.sentence}
                for problem in grounding.problems
            ],
        },
        "findings": [_finding(item) for item in grounding.findings],
    }


def to_labelmap(grounding: Grounding, provenance: Provenance | None = None) -> LabelMap:
    """The masks of all findings; a finding's label value is its number, and findings may overlap."""
    labels = tuple(finding_label(item) for item in grounding.findings)
    masks = [item.mask for item in grounding.findings]
    card = grounding.card
    made = provenance or Provenance(
        model=f"{card.name} {card.version}".strip(), model_sha256=card.weights_sha256, settings=grounding.settings
    )
    return LabelMap.from_masks(grounding.grid, masks, labels, OverlapPolicy.LAYERS, made)


def finding_label(item: GroundedFinding) -> Label:
    """The label of one finding; its colour is the finding's own, so that two of one kind can be told apart."""
    number = item.mask.object_id
    concept = load_vocabulary().by_id(item.finding.query.include[0])
    return Label(
        number,
        item.finding.query.describe(),
        default_color_rgb(number),
        snomed=concept.snomed,
        presence=item.presence,
    )


@cache
def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of what ``to_json`` gives."""
    text = files("volseg.grounding").joinpath("grounding_schema.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def _finding(item: GroundedFinding) -> dict[str, Any]:
    finding, mask = item.finding, item.mask
    concepts = [load_vocabulary().by_id(one) for one in finding.query.concept_ids]
    return {
        "id": mask.object_id,
        "sentence": finding.sentence,
        "start": finding.start,
        "phrase": finding.phrase,
        "assertion": str(finding.assertion),
        "meaning": finding.query.describe(),
        "query": finding.query.to_json(),
        "concepts": [
            {
                "id": concept.id,
                "name": concept.name,
                "kind": str(concept.kind),
                "snomed": None
                if concept.snomed is None
                else {"code": concept.snomed.code, "meaning": concept.snomed.meaning},
            }
            for concept in concepts
        ],
        "attributes": list(finding.query.attributes),
        "attribute_prompt": item.attribute_prompt,
        "status": str(item.status),
        "agrees": item.agrees,
        "presence": None if item.presence is None else round(item.presence, 6),
        "label": mask.object_id if item.status is Status.FOUND else None,
        "voxels": mask.voxels,
        "volume_ml": round(mask.volume_ml, 6),
        "box": None if item.box is None else item.box.to_json(),
        "oriented_box": None if item.oriented_box is None else item.oriented_box.to_json(),
        "key_slice": None if item.key_slice is None else item.key_slice.to_json(),
        "message": item.message,
    }
