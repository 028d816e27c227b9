"""The running average of weights, which is what is validated and shipped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average of a module's weights and buffers.

    Args:
        module: whose weights.
        decay: per step; early on it is smaller, so that the random start is forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self._average = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes the weights after a step in."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        averages, values = [], []
        for name, value in module.state_dict().items():
            if value.dtype.is_floating_point:
                averages.append(self._average[name])
                values.append(value)
            else:
                self._average[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """The averages under the module's own names."""
        return dict(self._average)

    def state_dict(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"steps": self._steps, "average": self._average}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """From a checkpoint."""
        steps, average = state["steps"], state["average"]
        assert isinstance(steps, int)
        assert isinstance(average, dict)
        self._steps = steps
        for name, value in average.items():
            self._average[name].copy_(value)
