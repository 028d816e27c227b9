"""The process that computes steps aside for the window."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import pytest
import torch
from torch.nn.modules import module

from volseg.sessions.worker.courtesy import PAUSE_S, Busy, Courtesy

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has priority classes for this")


def test_both_sides_see_the_same_byte() -> None:
    here = Busy()
    there = Busy(os.dup(here.descriptor))
    assert not here
    assert not there
    here.set(True)
    assert there
    there.set(False)
    assert not here


def _ask(wait: Courtesy, device: str = "cpu") -> float:
    """How long a part of a network waits, in seconds."""
    inputs = torch.zeros(1, device=device)
    start = time.monotonic()
    wait(None, (inputs,))
    return time.monotonic() - start


def test_waits_until_the_window_is_done_and_no_longer() -> None:
    busy = Busy()
    wait = Courtesy(busy)
    busy.set(True)
    threading.Timer(0.03, busy.set, (False,)).start()
    assert _ask(wait) > 0.02
    assert not busy
    assert _ask(wait) < PAUSE_S / 2


def test_a_window_that_never_rests_does_not_stop_the_computation() -> None:
    busy = Busy()
    wait = Courtesy(busy)
    busy.set(True)
    assert _ask(wait) >= PAUSE_S
    assert sum(_ask(wait) for _ in range(100)) < PAUSE_S, "after a pause, as long is computed"
    time.sleep(PAUSE_S)
    assert _ask(wait) >= PAUSE_S


def test_other_devices_do_not_wait() -> None:
    busy = Busy()
    busy.set(True)
    assert _ask(Courtesy(busy), "meta") < PAUSE_S / 2


def test_every_network_of_the_process_asks() -> None:
    asked = []

    class Noted(Courtesy):
        def __call__(self, module: object, inputs: tuple[Any, ...]) -> None:
            asked.append(True)

    before = dict(module._global_forward_pre_hooks)
    try:
        Noted(Busy()).everywhere()
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())(torch.zeros(1, 2))
    finally:
        module._global_forward_pre_hooks.clear()
        module._global_forward_pre_hooks.update(before)
    assert len(asked) == 3
