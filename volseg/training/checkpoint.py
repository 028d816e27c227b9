"""Checkpoints from which a run goes on exactly as if it had never stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from volseg.data.atomic import atomic_path
from volseg.errors import TrainingError
from volseg.networks.sam2.network import Sam2Network
from volseg.training.ema import WeightAverage

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, eq=False)
class TrainingState:
    """What changes while a network is trained. Batches and prompts depend on the step number alone."""

    network: Sam2Network
    average: WeightAverage
    optimizer: torch.optim.Optimizer

    def save(self, path: Path, step: int) -> None:
        """Writes a checkpoint; an earlier one stays whole until the new one is."""
        content = {
            "step": step,
            "spec": self.network.spec.to_json(),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_path(path) as temporary:
            torch.save(content, temporary)

    def load(self, path: Path) -> int:
        """Reads a checkpoint and returns its step.

        Raises:
            TrainingError: it cannot be read, or is of another network.
        """
        try:
            content = torch.load(path, map_location=self.network.device, weights_only=True)
            spec, step = content["spec"], int(content["step"])
        except Exception as error:
            raise TrainingError(f"{path} is no checkpoint of a training run: {error}") from error
        if spec != self.network.spec.to_json():
            raise TrainingError(f"{path} is of the network {spec}; the configuration asks for another")
        self.network.load_state_dict(content["network"])
        self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        return step
