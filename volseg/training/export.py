"""Averaged weights as one safetensors file, and the facts that its card needs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from volseg.data.atomic import atomic_path
from volseg.inferers.slices.frames import Channels
from volseg.networks.sam2.network import Sam2Network
from volseg.training.config import TrainConfig
from volseg.training.validate import FILL

LOG = "log.jsonl"
WEIGHTS = "model.safetensors"
CARD = "card.json"


def export(network: Sam2Network, config: TrainConfig, output: Path, step: int) -> Path:
    """Writes weights in float16 and ``card.json``.

    Args:
        network: with the averaged weights.
        config: of the run.
        output: folder of the run, with its log.
        step: steps that were trained.

    Returns:
        The weights, under the names that ``Sam2Network`` takes.
    """
    from safetensors.torch import save_file

    tensors = {
        name: (value.half() if value.dtype.is_floating_point else value).cpu().contiguous()
        for name, value in network.weights().items()
    }
    path = output / WEIGHTS
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", "spec": config.spec.to_json()})
    with atomic_path(output / CARD) as temporary:
        temporary.write_text(json.dumps(card_facts(config, output, step), indent=2) + "\n", encoding="utf-8")
    return path


def card_facts(config: TrainConfig, output: Path, step: int) -> dict[str, Any]:
    """What was trained on what for how long, with the latest validation, as plain data."""
    log = output / LOG
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    seconds = [
        entry["seconds per step"] * config.schedule.steps_per_epoch for entry in entries if entry["kind"] == "train"
    ]
    validations = [entry for entry in entries if entry["kind"] == "final"]
    return {
        "spec": json.loads(config.spec.to_json()),
        "frame_format": {
            "image_size": config.spec.image_size,
            "channels": str(Channels.NEIGHBOURS),
            "mean": [config.mean] * 3,
            "std": [config.std] * 3,
        },
        "fill": {"trained": list(config.sampling.box_fill), "validated": FILL},
        "steps": step,
        "hours": round(sum(seconds) / 3600, 2),
        "groups": sorted({source.group for source in config.sources if source.train}),
        "held_out_patients": list(config.validation),
        "schedule": asdict(config.schedule),
        "validation": validations[-1] if validations else {},
    }
