"""What a worker imports, for the process that workers are forked from; no threads and no device are started.

That process finds out that its parent is gone when it is asked for a worker. While it imports, it would go on for
seconds beside the run that is begun anew, so until then a timer looks.
"""
# ruff: noqa: F401, E402

import os
import signal
from types import FrameType

LOOK_EVERY_S = 0.25
_PARENT = os.getppid()


def _end_if_orphaned(number: int, frame: FrameType | None) -> None:
    if os.getppid() != _PARENT:
        os._exit(1)


_before = signal.signal(signal.SIGALRM, _end_if_orphaned)
signal.setitimer(signal.ITIMER_REAL, LOOK_EVERY_S, LOOK_EVERY_S)

import monai.data
import nibabel
import torch

import volseg.batch.runner
import volseg.sessions

signal.setitimer(signal.ITIMER_REAL, 0)
signal.signal(signal.SIGALRM, _before)
