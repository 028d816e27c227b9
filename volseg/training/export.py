"""Averaged weights as a bundle in the run's folder, with a card that says where they come from."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from volseg.models.bundles.metadata import (
    METADATA_FILE,
    Identity,
    Origin,
    Sam2Bundle,
    Weights,
    read_metadata,
)
from volseg.models.bundles.write import WEIGHTS_FILE, write_bundle
from volseg.models.checkpoints.convert import UNKNOWN_LICENSE, default_zoom
from volseg.models.checkpoints.recognise import network_title
from volseg.training.cases import TrainingCase
from volseg.training.config import Adapt, TrainConfig
from volseg.training.record import LOG
from volseg.training.start import StartWeights
from volseg.training.validate import FILL

WEIGHTS = WEIGHTS_FILE
CARD = "docs/card.json"
PARTIAL = ".bundle-partial"
PARTS = ("LICENSE", "docs", "models", "configs")
"""What a bundle consists of, its metadata last: a folder without them is no bundle yet."""
MAX_LISTED = 200


def is_exported(output: Path) -> bool:
    """Whether a folder is a bundle."""
    return (output / METADATA_FILE).exists()


def export(
    weights: Mapping[str, Tensor],
    config: TrainConfig,
    output: Path,
    start: StartWeights | None,
    cases: tuple[Sequence[TrainingCase], Sequence[TrainingCase]],
    step: int,
) -> Sam2Bundle:
    """Writes weights and what is known of them into the run's folder, which becomes a bundle.

    Args:
        weights: averaged, under the names that ``Sam2Network`` takes. They are stored in the precision of the weights
            that the run started from, so that what was not trained keeps its bits; in float16 without such.
        config: of the run.
        output: folder of the run, with its log.
        start: the weights that the run started from.
        cases: trained on, and held out.
        step: steps that were trained.

    Returns:
        What the bundle says about its model.
    """
    stored = {} if start is None else {name: value.dtype for name, value in start.state.items()}
    tensors = {
        name: value.to(stored.get(name, torch.float16) if value.is_floating_point() else value.dtype).cpu()
        for name, value in weights.items()
    }
    facts = card_facts(config, output, start, cases, step)
    partial = output / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    refine_state = None if start is None else start.refine_state
    bundle = write_bundle(partial, _described(config, output, start, cases[0]), tensors, refine_state=refine_state)
    (partial / CARD).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _say_what_was_trained(partial, config, start, facts)
    take_parts(partial, output)
    return bundle


def take_parts(partial: Path, output: Path) -> None:
    """Moves a bundle's parts into a run's folder in place of earlier ones; its metadata comes last."""
    (output / METADATA_FILE).unlink(missing_ok=True)
    for part in PARTS:
        old, new = output / part, partial / part
        if old.is_dir():
            shutil.rmtree(old)
        new.replace(old)
    partial.rmdir()


def card_facts(
    config: TrainConfig,
    output: Path,
    start: StartWeights | None,
    cases: tuple[Sequence[TrainingCase], Sequence[TrainingCase]],
    step: int,
) -> dict[str, Any]:
    """What was trained on what for how long, with the scores before and after, as plain data."""
    log = output / LOG
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    epochs = [entry for entry in entries if entry["kind"] == "train"]
    before = [0, *(entry["step"] for entry in epochs)]
    seconds = sum(e["seconds per step"] * max(0, e["step"] - b) for e, b in zip(epochs, before, strict=False))
    training, scored = cases
    facts: dict[str, Any] = {
        "spec": json.loads(config.spec.to_json()),
        "frame_format": asdict(config.frames),
        "fill": {"trained": list(config.sampling.box_fill), "validated": FILL},
        "adapt": {"kind": str(config.adapt.kind)},
        "steps": step,
        "hours": round(seconds / 3600, 2),
        "groups": sorted({case.source.group for case in training}),
        "cases": dict(Counter(case.source.group for case in training)),
        "held_out_patients": sorted({case.patient for case in scored}),
        "schedule": asdict(config.schedule),
        "validation": next((entry for entry in reversed(entries) if entry["kind"] == "final"), {}),
    }
    if len(training) <= MAX_LISTED:
        facts["trained_on"] = [case.name for case in training]
    if config.adapt.kind is Adapt.LORA:
        facts["adapt"]["rank"] = config.adapt.rank
    if start is not None:
        facts["base"] = {"name": start.name, "sha256": start.sha256, "licence": start.bundle.license.spdx or "unknown"}
        facts["before"] = next((entry for entry in entries if entry["kind"] == "start"), {})
    return facts


def _described(
    config: TrainConfig, output: Path, start: StartWeights | None, cases: Sequence[TrainingCase]
) -> Sam2Bundle:
    name = output.resolve().name
    groups = ", ".join(sorted({case.source.group for case in cases}))
    if start is None:
        modalities = tuple(sorted({case.source.modality for case in cases}))
        return Sam2Bundle(
            identity=Identity(name, "1.0.0", f"{network_title(config.spec)}, trained on {groups}.", modalities),
            license=UNKNOWN_LICENSE,
            weights=Weights(WEIGHTS, ""),
            network=config.spec,
            frames=config.frames,
            zoom=default_zoom(config.spec),
        )
    base = start.bundle
    summary = f"{start.name}, fine-tuned on {len(cases)} cases of {groups}."
    return replace(
        base,
        identity=replace(base.identity, name=name, version="1.0.0", summary=summary, random_weights=False),
        network=config.spec,
        frames=config.frames,
        origin=Origin(file=start.name, sha256=start.sha256),
    )


def _say_what_was_trained(
    folder: Path, config: TrainConfig, start: StartWeights | None, facts: Mapping[str, Any]
) -> None:
    metadata = read_metadata(folder)
    trained = ", ".join(f"{count} of {group}" for group, count in facts["cases"].items())
    what = "trained" if start is None else f"fine-tuned from {start.name} ({config.adapt.kind})"
    metadata["changelog"] = {metadata["version"]: f"{what} for {facts['steps']} steps by volseg"}
    metadata["data_source"] = f"cases by group: {trained}; see docs/card.json"
    (folder / METADATA_FILE).write_text(json.dumps(metadata, indent=4) + "\n", encoding="utf-8")
    lines = [
        "\n## Training\n",
        f"Trained for {facts['steps']} steps ({facts['hours']} hours) on cases by group: {trained}.",
    ]
    if start is not None:
        lines += [
            f"It started from {start.name}, SHA-256 of the weights {start.sha256}, and trained "
            + {
                Adapt.FULL: "all weights.",
                Adapt.FROZEN_ENCODER: "all but the image encoder.",
                Adapt.LORA: f"low-rank additions of rank {config.adapt.rank} (LoRA), merged into the weights.",
            }[config.adapt.kind],
            f"The licence is that of {start.name}; the terms of the training images and labels may ask for more.",
        ]
    else:
        lines += ["Whoever trained it states the licence of the weights; the terms of the data may bind it."]
    lines += ["", *_score_table(facts), "`docs/card.json` has the cases, the schedule and all scores.", ""]
    readme = folder / "docs" / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8") + "\n".join(lines), encoding="utf-8")


def _score_table(facts: Mapping[str, Any]) -> list[str]:
    """Mean Dice on held-out patients, before and after."""
    after, before = facts["validation"], facts.get("before", {})
    names = [name for name in after if name.endswith((" box", " click", " box + 3 clicks", " ellipse"))]
    if not names:
        return ["No patient was held out, so nobody knows how good it is.", ""]
    patients = len(facts["held_out_patients"])
    rows = [f"| {name} | {before.get(name, '')} | {after[name]} |" for name in names]
    return [
        f"Mean Dice on {patients} held-out patients (docs/training.md of volseg explains the rows):",
        "",
        "| | before | after |",
        "|---|---|---|",
        *rows,
        "",
    ]
