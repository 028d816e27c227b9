"""The process that computes steps aside while the window's process draws or answers a person."""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from pathlib import Path
from typing import Any

PAUSE_S = 0.1
"""A pause lasts this long at most, and then as long is computed: a window that is always busy halves the speed."""
NAP_S = 0.001
"""How often the end of a pause is looked for."""


class Busy:
    """A byte that two processes of one machine see: whether the window's thread works right now.

    Args:
        descriptor: of the memory that another process made; None makes it.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor, path = tempfile.mkstemp(prefix="volseg-busy-")
            # Without a name it goes with the last of the two processes.
            Path(path).unlink()
            os.truncate(descriptor, 1)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, 1)

    def __del__(self) -> None:
        os.close(self.descriptor)

    def __bool__(self) -> bool:
        return self._memory[0] != 0

    def set(self, busy: bool) -> None:
        """Says so to both processes; takes less than a microsecond."""
        self._memory[0] = busy


class Courtesy:
    """Pauses a computation on the processor while the window is busy. Called between the parts of a network.

    Args:
        busy: asked.
    """

    def __init__(self, busy: Busy) -> None:
        self._busy = busy
        self._not_before = 0.0

    def __call__(self, module: object, inputs: tuple[Any, ...]) -> None:
        """Waits, if there is something to wait for: a graphics card does not take the window's time.

        Args:
            module: that is about to compute.
            inputs: of it.
        """
        if not self._busy or not any(getattr(one, "is_cpu", False) for one in inputs):
            return
        start = time.monotonic()
        if start < self._not_before:
            return
        while self._busy and time.monotonic() < start + PAUSE_S:
            time.sleep(NAP_S)
        if self._busy:
            self._not_before = time.monotonic() + PAUSE_S

    def everywhere(self) -> None:
        """Is called before every module of every network in this process."""
        from torch.nn.modules.module import register_module_forward_pre_hook

        register_module_forward_pre_hook(self)
