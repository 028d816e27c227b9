"""A network whose exact answer is known: the object is whatever is bright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from volseg.inferers.slices.frames import FrameFormat
from volseg.networks.sam2.config import Sam2Spec
from volseg.networks.sam2.features import FrameFeatures, FrameOutput, MemoryRows

FORMAT = FrameFormat(128, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
"""Under it, pixels above the middle of the window are positive."""


class BrightNetwork:
    """Has the operations of ``Sam2Network`` that a tracker uses."""

    def __init__(self) -> None:
        self.spec = Sam2Spec.nano(FORMAT.image_size)
        self.device = torch.device("cpu")
        self.decoded_points: list[Tensor] = []

    @contextmanager
    def inference(self) -> Iterator[None]:
        with torch.inference_mode():
            yield

    def encode_frames(self, pixel_values: Tensor) -> FrameFeatures:
        grey = pixel_values[:, 1:2]
        return FrameFeatures(avg_pool2d(grey, 4), avg_pool2d(grey, 8), avg_pool2d(grey, 16))

    def condition_on_memory(self, features: FrameFeatures, memories: MemoryRows) -> Tensor:
        return features.embedding

    def decode(
        self,
        features: FrameFeatures,
        *,
        conditioned: Tensor | None = None,
        points_xy: Tensor | None = None,
        labels: Tensor | None = None,
        mask_logits: Tensor | None = None,
        multimask: bool | None = None,
    ) -> FrameOutput:
        if points_xy is not None:
            self.decoded_points.append(points_xy)
        return self._output(features.level0 * 20)

    def use_mask(self, features: FrameFeatures, mask: Tensor) -> FrameOutput:
        return self._output(avg_pool2d(mask.float(), 4) * 20 - 10)

    def _output(self, logits: Tensor) -> FrameOutput:
        rows = len(logits)
        score = torch.where(logits.flatten(1).gt(0).any(dim=1, keepdim=True), 5.0, -5.0)
        ones = torch.ones(rows, 1)
        return FrameOutput(logits, torch.zeros(rows, self.spec.width), score, ones, logits, ones)

    def encode_memory(
        self, features: FrameFeatures, low_res_logits: Tensor, object_score_logits: Tensor, *, prompted: bool
    ) -> Tensor:
        side = self.spec.embedding_size
        small = interpolate(low_res_logits, (side, side), mode="bilinear", align_corners=False)
        return small.flatten(2).transpose(1, 2).expand(-1, -1, 64)


class CopyNetwork(BrightNetwork):
    """Tracked frames repeat the mask carried to them; clicks add or take away discs of the mask they are given."""

    RADIUS = 3
    """Of the discs, in pixels of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, carry_mask=True)

    def decode(
        self,
        features: FrameFeatures,
        *,
        conditioned: Tensor | None = None,
        points_xy: Tensor | None = None,
        labels: Tensor | None = None,
        mask_logits: Tensor | None = None,
        multimask: bool | None = None,
        known: Tensor | None = None,
    ) -> FrameOutput:
        side = self.spec.mask_size
        if conditioned is not None:
            assert mask_logits is not None
            middle = (mask_logits.amax(dim=(1, 2, 3), keepdim=True) + mask_logits.amin(dim=(1, 2, 3), keepdim=True)) / 2
            return self._output(torch.where(mask_logits > middle, 10.0, -10.0))
        if mask_logits is None or points_xy is None or labels is None:
            return super().decode(features, points_xy=points_xy, labels=labels)
        where = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), dim=-1)
        logits = mask_logits.clone()
        for row, (points, kinds) in enumerate(zip(points_xy / 4, labels, strict=True)):
            for point, kind in zip(points, kinds, strict=True):
                disc = (where - point).norm(dim=-1) <= self.RADIUS
                logits[row, 0][disc] = 10.0 if kind == 1 else -10.0
        return self._output(logits)
