"""A network whose answers are known: it sees a bright square, and its memories carry a number.

``FakeNetwork`` takes the pixels of the first channel for the object's probability: above a half is object, and an image
without any such pixel has no object. Prompts write a number into the memory (the number of clicks inside), and tracked
frames repeat the mean of what they read; the mask grows brighter with it. So it is known which frames an object is on,
and every frame's result depends on the memories it read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

from volseg.networks.sam2 import Sam2Spec
from volseg.networks.sam2.features import FrameFeatures, FrameOutput, MemoryRows
from volseg.networks.sam2.network import ABSENT_LOGIT

SIDE = 64


class FakeNetwork:
    """Has the methods of ``Sam2Network`` that a tracker calls."""

    def __init__(self) -> None:
        self.spec = Sam2Spec.nano(SIDE)
        self.device = torch.device("cpu")
        self.signatures: list[tuple[int, int, int]] = []
        self.decoded_rows = 0

    @contextmanager
    def inference(self) -> Iterator[None]:
        with torch.inference_mode():
            yield

    def encode_frames(self, pixel_values: Tensor) -> FrameFeatures:
        level0 = functional.avg_pool2d(pixel_values[:, :1], 4)
        return FrameFeatures(level0, level0[:, :, ::2, ::2], functional.avg_pool2d(level0, 4))

    def condition_on_memory(self, features: FrameFeatures, memories: MemoryRows) -> Tensor:
        self.signatures.append((len(features), memories.offsets.shape[1], memories.pointers.shape[1]))
        recent = 1.0 / (1 + memories.offsets.float())
        read = memories.spatial.float().mean(dim=(2, 3))
        return (read * recent).sum(dim=1, keepdim=True) / recent.sum(dim=1, keepdim=True)

    def decode(
        self,
        features: FrameFeatures,
        *,
        conditioned: Tensor | None = None,
        points_xy: Tensor | None = None,
        labels: Tensor | None = None,
        mask_logits: Tensor | None = None,
    ) -> FrameOutput:
        self.decoded_rows += len(features)
        if conditioned is None:
            assert labels is not None
            conditioned = labels.eq(1).sum(dim=1, keepdim=True).float()
        logits = (features.level0 - 0.5) * (1 + conditioned[..., None, None])
        present = features.level0.flatten(1).gt(0.5).any(dim=1, keepdim=True)
        logits = torch.where(present[..., None, None], logits, ABSENT_LOGIT)
        score = torch.where(present, 3.0, -3.0)
        pointer = conditioned.expand(-1, self.spec.width)
        return FrameOutput(logits, pointer, score, torch.ones_like(score), logits, torch.ones_like(score))

    def use_mask(self, features: FrameFeatures, mask: Tensor) -> FrameOutput:
        logits = functional.avg_pool2d(mask, 4) * 20 - 10
        score = torch.full((len(mask), 1), 10.0)
        pointer = torch.full((len(mask), self.spec.width), 0.5)
        return FrameOutput(logits, pointer, score, torch.ones_like(score), logits, torch.ones_like(score))

    def encode_memory(
        self, features: FrameFeatures, low_res_logits: Tensor, object_score_logits: Tensor, *, prompted: bool
    ) -> Tensor:
        value = low_res_logits.flatten(1).clamp(min=0).amax(dim=1)
        return value[:, None, None].expand(-1, self.spec.embedding_size**2, 64).to(torch.bfloat16)


def images(count: int, present: set[int], *, dim: set[int] = frozenset()) -> Tensor:  # type: ignore[assignment]
    """``[count, 3, 64, 64]``: a square of brightness 1 on the frames in ``present`` that moves by four pixels a frame.

    On the frames in ``dim`` the square is smaller.
    """
    stack = torch.zeros(count, 3, SIDE, SIDE)
    for frame in present:
        start = 4 * (frame % 8)
        stack[frame, :, start : start + (8 if frame in dim else 16), 16:32] = 1
    return stack
