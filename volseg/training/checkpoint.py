"""Checkpoints from which a run goes on exactly as if it had never stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from volseg.data.atomic import atomic_path
from volseg.errors import TrainingError
from volseg.networks.sam2.config import Sam2Spec
from volseg.networks.sam2.network import Sam2Network
from volseg.training.config import Adapt, AdaptConfig
from volseg.training.ema import WeightAverage
from volseg.training.pace import Clock

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, eq=False)
class TrainingState:
    """What changes while a network is trained. Batches, prompts and drop-out depend on the step number alone.

    Attributes:
        network: what is trained, adapted.
        average: of its weights.
        optimizer: of its trained weights.
        adapt: what of it is trained.
        clock: how long it has been trained.
    """

    network: Sam2Network
    average: WeightAverage
    optimizer: torch.optim.Optimizer
    adapt: AdaptConfig
    clock: Clock = field(default_factory=Clock)

    def save(self, path: Path, step: int) -> None:
        """Writes a checkpoint; an earlier one stays whole until the new one is."""
        content = {
            "step": step,
            "spec": self.network.spec.to_json(),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "adapt": {"kind": str(self.adapt.kind), "rank": self.adapt.rank},
            "seconds": self.clock.seconds,
        }
        with atomic_path(path) as temporary:
            torch.save(content, temporary)

    def load(self, path: Path) -> int:
        """Reads a checkpoint and returns its step.

        Raises:
            TrainingError: it cannot be read, or is of another network or another adaptation.
        """
        try:
            content = torch.load(path, map_location=self.network.device, weights_only=True)
            spec, step = Sam2Spec.from_json(content["spec"]), int(content["step"])
            adapted = content.get("adapt", {"kind": Adapt.FULL, "rank": self.adapt.rank})
            adapt = AdaptConfig(Adapt(adapted["kind"]), int(adapted["rank"]))
        except Exception as error:
            raise TrainingError(f"{path} is no checkpoint of a training run: {error}") from error
        if spec != self.network.spec:
            raise TrainingError(f"{path} is of the network {spec.to_json()}; the configuration asks for another")
        if adapt != self.adapt:
            raise TrainingError(
                f"{path} was trained with --adapt {adapt.kind} and rank {adapt.rank}, not with {self.adapt.kind} and "
                f"rank {self.adapt.rank}; go on as it began, or name another folder"
            )
        self.network.load_state_dict(content["network"])
        self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.clock.restart(float(content.get("seconds", 0.0)))
        return step
