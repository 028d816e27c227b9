"""Clicks and boxes as an image: the documented extension of SAM 2 that sam2-nano is trained with."""

from __future__ import annotations

import torch
from torch import Tensor

BOX_VALUE = 4.0
CLICK_VALUE = 8.0
CLICK_RADIUS = 1.5
"""Radius of a drawn click in pixels of the mask input."""


def draw_prompts(points_xy: Tensor, labels: Tensor, image_size: int, mask_logits: Tensor | None = None) -> Tensor:
    """Draws points into a mask input for the prompt encoder.

    Inside a box (labels 2 and 3: its two corners) the map is +4 and outside -4; without a box it starts at 0. With
    ``mask_logits`` it starts there and no box is drawn. Each click is then a disc of +8 (label 1) or -8 (label 0).

    Args:
        points_xy: ``[R, P, 2]`` in pixels of the network input; whole numbers are pixel centres.
        labels: ``[R, P]``.
        image_size: side of the network input in pixels.
        mask_logits: ``[R, 1, S / 4, S / 4]`` to draw on, or None.

    Returns:
        ``[R, 1, S / 4, S / 4]``.
    """
    side = image_size // 4
    centres = (torch.arange(side, device=points_xy.device, dtype=torch.float32) + 0.5) * 4 - 0.5
    x = points_xy[..., 0, None, None].float()
    y = points_xy[..., 1, None, None].float()
    if mask_logits is not None:
        canvas = mask_logits[:, 0].float()
    elif bool((labels == 2).any()):
        first = labels.eq(2).float().argmax(dim=1)
        rows = torch.arange(len(labels), device=labels.device)
        x0, y0, x1, y1 = x[rows, first], y[rows, first], x[rows, first + 1], y[rows, first + 1]
        half = 2.0  # a box thinner than a mask pixel still marks the pixels that it touches
        inside_x = (centres[None, None, :] >= x0 - half) & (centres[None, None, :] <= x1 + half)
        inside_y = (centres[None, :, None] >= y0 - half) & (centres[None, :, None] <= y1 + half)
        has_box = labels.eq(2).any(dim=1)[:, None, None].float()
        canvas = has_box * torch.where(inside_x & inside_y, BOX_VALUE, -BOX_VALUE)
    else:
        canvas = torch.zeros(len(labels), side, side, device=points_xy.device)
    distance = ((centres[None, None, None, :] - x) ** 2 + (centres[None, None, :, None] - y) ** 2).sqrt() / 4
    near = distance <= CLICK_RADIUS
    positive = (near & labels.eq(1)[..., None, None]).any(dim=1)
    negative = (near & labels.eq(0)[..., None, None]).any(dim=1)
    canvas = torch.where(positive, CLICK_VALUE, canvas)
    return torch.where(negative, -CLICK_VALUE, canvas)[:, None]
