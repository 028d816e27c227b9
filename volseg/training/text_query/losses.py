"""Losses of masks and of presence, where only a part of the truth may be known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from volseg.networks.text_query.network import QueryOutput
from volseg.training.text_query.samples import TextSample

BCE_WEIGHT = 2.0
PRESENCE_WEIGHT = 0.3
SMOOTH = 20.0
"""Voxels added to both sides of Dice: an empty answer to an absent structure costs nothing, false voxels do."""


@dataclass(frozen=True, eq=False)
class TextLoss:
    """The total, and its parts for the log; ``dice`` is of hard masks of present structures, NaN without any."""

    total: Tensor
    bce: float
    soft_dice: float
    presence: float
    dice: float


def text_loss(output: QueryOutput, sample: TextSample) -> TextLoss:
    """BCE and Dice of masks over the voxels that are known, and BCE of presence.

    Args:
        output: of one window, [1, Q, ...].
        sample: what was asked.
    """
    drawn = sample.drawn
    logits = output.mask_logits[0][drawn].flatten(1).float()
    targets = sample.targets[drawn].flatten(1).float()
    known = None if sample.known is None else sample.known[drawn].flatten(1).float()
    bce, soft_dice = _of_masks(logits, targets, known) if bool(drawn.any()) else (logits.sum(), logits.sum())
    sure = ~sample.present.isnan()
    presence = output.presence_logits[0].float()
    # The sum keeps the gradient defined where nothing is known.
    found = presence.sum() * 0
    if sure.any():
        found = binary_cross_entropy_with_logits(presence[sure], sample.present[sure])
    with torch.no_grad():
        hard = logits > 0
        overlap = 2 * (hard * targets).sum(1) / (hard.sum(1) + targets.sum(1)).clamp(min=1)
        dice = float(overlap[sample.present[drawn] == 1].mean())
    total = BCE_WEIGHT * bce + soft_dice + PRESENCE_WEIGHT * found
    return TextLoss(total, float(bce.detach()), float(soft_dice.detach()), float(found.detach()), dice)


def _of_masks(logits: Tensor, targets: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """Means of BCE and of soft Dice over queries, [Q, N] each; ``known`` is 1 where something is known."""
    # softplus(x) - x t is the cross entropy; written out, as one pass fewer over large arrays counts on a CPU.
    cross = softplus(logits) - logits * targets
    probability = logits.sigmoid()
    if known is None:
        bce = cross.mean()
        both, each = (probability * targets).sum(1), probability.sum(1) + targets.sum(1)
    else:
        bce = (cross * known).sum() / known.sum().clamp(min=1)
        both = (probability * targets * known).sum(1)
        each = ((probability + targets) * known).sum(1)
    return bce, (1 - (2 * both + SMOOTH) / (each + SMOOTH)).mean()
