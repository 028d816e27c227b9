"""Where finished logits go, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Sink(Protocol):
    """Takes logits that no later window will change."""

    def take(self, logits: Tensor, start: tuple[int, int, int]) -> None:
        """Takes [Q, I, J, K] of all queries; ``start`` is the block's first voxel in the volume.

        The tensor is only lent: it may be changed here, and holds something else afterwards.
        """


class DenseLogits:
    """Keeps everything, as ``monai.inferers.sliding_window_inference`` does; for small volumes and few classes."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.logits = torch.empty((0, *shape))

    def take(self, logits: Tensor, start: tuple[int, int, int]) -> None:
        """See ``Sink.take``."""
        if len(self.logits) != len(logits):
            self.logits = torch.empty((len(logits), *self.shape))
        self.logits[(slice(None), *_block(logits, start))] = logits.to(self.logits.device)


class LabelVolume:
    """Keeps one label for each voxel.

    Args:
        shape: of the volume.
        background: whether the first class is background, as for networks with a softmax; otherwise a voxel whose
            logits are all 0 or less is background, and the first class is label 1.
    """

    def __init__(self, shape: tuple[int, int, int], *, background: bool) -> None:
        self.background = background
        self.labels = torch.zeros(shape, dtype=torch.uint8)

    def take(self, logits: Tensor, start: tuple[int, int, int]) -> None:
        """See ``Sink.take``."""
        if len(logits) > 255 - (not self.background) and self.labels.dtype is torch.uint8:
            self.labels = self.labels.to(torch.int16)
        block = _block(logits, start)
        if self.background:
            _, labels = largest(logits, range(len(logits)))
        else:
            # Most queries find nothing in most places; a maximum over few is much cheaper than over all.
            busy = torch.nonzero(logits.amax(dim=(1, 2, 3)) > 0)[:, 0].tolist()
            if not busy:
                self.labels[block] = 0
                return
            best, which = largest(logits, busy)
            labels = torch.where(best > 0, which + 1, 0)
        self.labels[block] = labels.to(self.labels.device, self.labels.dtype)


def largest(logits: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Each voxel's largest logit, and whose it is; the first among equals, on every device.

    One class after another, in the order of memory: on a CPU a reduction over the first axis takes ten times as long.

    Args:
        logits: [Q, I, J, K].
        classes: which of the Q to compare, at least one, in rising order.

    Returns:
        [I, J, K] of the logits, and int16 [I, J, K].
    """
    first, *others = classes
    best = logits[first].clone()
    which = torch.full(best.shape, first, dtype=torch.int16, device=logits.device)
    for number in others:
        which.masked_fill_(logits[number] > best, number)
        torch.maximum(best, logits[number], out=best)
    return best, which


def _block(logits: Tensor, start: tuple[int, int, int]) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(start, logits.shape[1:], strict=True))
