"""Losses of masks, of the network's opinion of them, and of presence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, interpolate

from volseg.networks.sam2.features import FrameOutput

BCE_WEIGHT = 2.0
ABSENT_WEIGHT = 0.5
"""Weight of the cross entropy that keeps masks empty where the object is not on the frame."""
SPARE_WEIGHT = 0.02
"""Weight of the masks that were not the best of three, so that none of them dies."""


@dataclass(frozen=True)
class Loss:
    """The total, and its parts for the log."""

    total: Tensor
    mask: float
    iou: float
    presence: float
    dice: float


def soft_dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - Dice of probabilities and soft targets, over the last two axes.

    Squares in the denominator make a prediction equal to a soft target the best one.
    """
    probability = logits.sigmoid()
    both = (probability * targets).sum(dim=(-1, -2))
    each = probability.square().sum(dim=(-1, -2)) + targets.square().sum(dim=(-1, -2))
    return 1 - (2 * both + 1) / (each + 1)


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """2 BCE + Dice of [..., S, S], a number for each mask."""
    bce = binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=(-1, -2))
    return BCE_WEIGHT * bce + soft_dice_loss(logits, targets)


def frame_loss(output: FrameOutput, targets: Tensor) -> Loss:
    """The loss of decoded rows.

    The best candidate of each row is trained; all candidates' IoU estimates are; masks of absent objects are only kept
    empty.

    Args:
        output: what the decoder said.
        targets: [R, S, S] float, the part of each pixel that is the object; an absent object's is 0.
    """
    present = targets.flatten(1).amax(dim=1) > 0
    # Half the frame's resolution: twice that of the logits, and a quarter of the work.
    targets = avg_pool2d(targets[:, None], 2)[:, 0]
    side = targets.shape[-1]
    logits = interpolate(output.candidate_logits, (side, side), mode="bilinear", align_corners=False)
    wanted = targets[:, None].expand_as(logits)
    each = mask_loss(logits, wanted)
    best = each.detach().argmin(dim=1)
    rows = torch.arange(len(best), device=best.device)
    chosen = each[rows, best]
    if each.shape[1] > 1:
        chosen = chosen + SPARE_WEIGHT * each.mean(dim=1)
    empty = ABSENT_WEIGHT * binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=(1, 2, 3))
    mask = torch.where(present, chosen, empty).mean()
    with torch.no_grad():
        found, true = logits > 0, wanted >= 0.5
        both = (found & true).sum(dim=(-1, -2)).float()
        iou = both / (found | true).sum(dim=(-1, -2)).clamp(min=1)
    opinion = ((output.candidate_iou - iou).abs().mean(dim=1) * present).sum() / present.sum().clamp(min=1)
    presence = binary_cross_entropy_with_logits(output.object_score_logits[:, 0], present.float())
    with torch.no_grad():
        picked = output.candidate_iou.argmax(dim=1)
        dice = 2 * iou[rows, picked] / (1 + iou[rows, picked])
        mean_dice = float((dice * present).sum() / present.sum().clamp(min=1))
    total = mask + opinion + presence
    return Loss(total, float(mask.detach()), float(opinion.detach()), float(presence.detach()), mean_dice)
