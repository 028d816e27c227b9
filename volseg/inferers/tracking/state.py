"""What tracking an object gave. Everything here is immutable, so that undo is going back to an older object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from volseg.inferers.tracking.prompts import FramePrompts

FUSION_LIMIT = 10.0
"""Logits and scores are cut to +-10 before two passes are averaged; a pass without the object counts as -10."""


class Direction(IntEnum):
    """The way a pass goes through the frames."""

    FORWARD = 1
    BACKWARD = -1


@dataclass(frozen=True, eq=False)
class FrameResult:
    """What one pass (or a prompt) says about a frame.

    Attributes:
        logits: ``[S / 4, S / 4]`` mask logits on the CPU, or None where no pixel is above zero.
        score: object score, above zero where the object is on the frame.
        pointer: ``[width]`` object pointer on the CPU, kept for corrections.
    """

    logits: Tensor | None
    score: float
    pointer: Tensor


@dataclass(frozen=True, eq=False)
class PromptedFrame:
    """A conditioning frame: decoded from all its prompts and from nothing else.

    Attributes:
        prompts: what was said.
        result: the mask.
        memory: ``[S / 16 * S / 16, 64]`` bfloat16 spatial memory on the CPU.
    """

    prompts: FramePrompts
    result: FrameResult
    memory: Tensor


@dataclass(frozen=True, eq=False)
class FrameMask:
    """The answer on a frame.

    Attributes:
        logits: ``[S / 4, S / 4]`` float32 on the CPU, or None where the mask is empty.
        score: object score, above zero where the object is on the frame.
    """

    logits: Tensor | None
    score: float


@dataclass(frozen=True, eq=False)
class Track:
    """An object through all frames.

    Between two prompted frames both passes have a say: their logits (cut to +-10) are averaged, each weighted by how
    near the prompted frame is that it comes from. Prompted frames show what their prompts gave.

    Attributes:
        source_key: what the frames are (image, network, plane); a track of other frames cannot be corrected.
        frame_count: number of frames.
        first: first frame that may be tracked to.
        last: last such frame. Prompted frames outside first..last are kept.
        prompted: the conditioning frames.
        forward: what the pass to higher frame numbers gave, on the frames that it reached.
        backward: what the pass to lower ones gave.
    """

    source_key: str
    frame_count: int
    first: int
    last: int
    prompted: Mapping[int, PromptedFrame]
    forward: Mapping[int, FrameResult]
    backward: Mapping[int, FrameResult]

    def reached(self) -> tuple[int, ...]:
        """All frames about which anything is known, in order. On all others the object is absent."""
        return tuple(sorted({*self.prompted, *self.forward, *self.backward}))

    def mask(self, frame: int) -> FrameMask:
        """The answer on a frame, made from what the passes kept."""
        if frame in self.prompted:
            result = self.prompted[frame].result
            return FrameMask(None if result.logits is None else result.logits.float(), result.score)
        forward, backward = self.forward.get(frame), self.backward.get(frame)
        before = max((prompted for prompted in self.prompted if prompted < frame), default=None)
        after = min((prompted for prompted in self.prompted if prompted > frame), default=None)
        if forward is None and backward is None:
            return FrameMask(None, -FUSION_LIMIT)
        if before is None or after is None:
            only = forward or backward
            assert only is not None
            return FrameMask(None if only.logits is None else only.logits.float(), only.score)
        if self.prompted[before].result.logits is not None and self.prompted[after].result.logits is not None:
            # What is on both is on the frames between; a pass that lost it there has no say.
            forward, backward = _found(forward) or _found(backward), _found(backward) or _found(forward)
            if forward is None or backward is None:
                return FrameMask(None, -FUSION_LIMIT)
        weight = (after - frame) / (after - before)
        score = weight * _score(forward) + (1 - weight) * _score(backward)
        fused: Tensor | float = weight * _logits(forward) + (1 - weight) * _logits(backward)
        if isinstance(fused, float) or not bool((fused > 0).any()):
            return FrameMask(None, score)
        return FrameMask(fused, score)

    def presence(self) -> dict[int, float]:
        """The object score of every reached frame."""
        return {frame: self.mask(frame).score for frame in self.reached()}

    @property
    def nbytes(self) -> int:
        """Bytes of the kept tensors."""
        results = [*self.forward.values(), *self.backward.values(), *(p.result for p in self.prompted.values())]
        tensors = [t for result in results for t in (result.logits, result.pointer) if t is not None]
        tensors += [p.memory for p in self.prompted.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _found(result: FrameResult | None) -> FrameResult | None:
    return None if result is None or result.logits is None else result


def _score(result: FrameResult | None) -> float:
    return -FUSION_LIMIT if result is None else max(-FUSION_LIMIT, min(FUSION_LIMIT, result.score))


def _logits(result: FrameResult | None) -> Tensor | float:
    if result is None or result.logits is None:
        return -FUSION_LIMIT
    return result.logits.float().clamp(-FUSION_LIMIT, FUSION_LIMIT)


def mask_dice(one: Tensor | None, other: Tensor | None) -> float:
    """Dice of two masks given as logits; None is an empty mask, and two empty ones agree."""
    if one is None or other is None:
        return 1.0 if one is other else 0.0
    a, b = one > 0, other > 0
    both = int(torch.count_nonzero(a)) + int(torch.count_nonzero(b))
    return 2 * int(torch.count_nonzero(a & b)) / both if both else 1.0
