"""Which device a model runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volseg.errors import ModelError

if TYPE_CHECKING:
    import torch


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; ``auto`` takes the first there is of CUDA, Apple's and the CPU.

    Raises:
        ModelError: there is no such device here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdecimal()):
        raise ModelError(f"the device is {name!r}; expected auto, cpu, cuda, cuda:N or mps")
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }[kind]
    if not there:
        raise ModelError(f"there is no device {name!r} here; use auto or cpu")
    return torch.device(name)
