"""What a step of the refining network's training does with one object: answers, corrections, doubt and loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from volseg.inferers.refine.answer import Belief, believe, carried
from volseg.inferers.refine.channels import POINT_PEAK
from volseg.networks.refine.network import RefineNetwork
from volseg.training.half import in_half
from volseg.training.refine.config import DoubtConfig, RefineTrainConfig
from volseg.training.refine.samples import RefineSample, add_correction, next_draft
from volseg.training.synthetic import smooth_noise

CLICK_WEIGHT = 8.0
"""How much more voxels at clicks count in the cross entropy."""

DECIDED = 4.0
"""Logit of what a correction leaves as it is."""


def teach(
    network: RefineNetwork, sample: RefineSample, config: RefineTrainConfig, rng: np.random.Generator, share: float
) -> dict[str, float]:
    """Answers and corrections of one object; gradients are added to those that the network has.

    Args:
        network: learns.
        sample: the object.
        config: of the training.
        rng: the only source of chance.
        share: what the gradients are multiplied by.

    Returns:
        Dice of the draft and of each answer by group, and the last loss.
    """
    device = next(network.parameters()).device
    half = in_half(config.precision, device)
    draft, prompts = sample.draft, sample.prompts
    numbers = {f"{sample.group} draft": _dice(draft > 0.5, sample.truth)}
    for number in range(sample.rounds + 1):
        adds = True
        if number or not bool(prompts.any()):
            prompts, adds = add_correction(rng, sample, draft > 0.5, prompts)
        newest = adds if number else None
        belief = believe(network, sample.image, draft, prompts, config.settings, newest, half=half)
        unsure = doubted(rng, belief, config.doubt)
        logits = carried(unsure, sample.image, prompts, config.settings, correcting=number > 0)
        own = belief.logits
        if number:
            logits, own = _as_asked(logits, draft, adds=adds), _as_asked(own, draft, adds=adds)
        truth, clicked = sample.truth.to(device), (prompts[:2].amax(dim=0) / POINT_PEAK).to(device)
        loss = refine_loss(logits, truth, clicked)
        if belief.trust is not None:
            loss = (1 - config.doubt.belief) * loss + config.doubt.belief * refine_loss(own, truth, clicked)
        torch.autograd.backward(loss * share / (sample.rounds + 1))
        answer = logits.detach().float().cpu()
        draft = next_draft(rng, answer)
        numbers[f"{sample.group} {number}"] = _dice(answer > 0, sample.truth)
        numbers["loss"] = float(loss.detach())
    return numbers


def doubted(rng: np.random.Generator, belief: Belief, config: DoubtConfig) -> Belief:
    """A belief as wrong as it may be about an object that the network was not trained on.

    Args:
        rng: the only source of chance.
        belief: stays as it is.
        config: how often, and how wrong.
    """
    if belief.trust is None or rng.random() >= config.part:
        return belief
    a, b, c = belief.logits.shape
    x, y, z = rng.integers(config.cells[0], config.cells[1] + 1, 3).tolist()
    noise = smooth_noise(rng, (a, b, c), (x, y, z)) * float(rng.uniform(0, config.most))
    return replace(belief, logits=belief.logits + noise.to(belief.logits.device))


def _as_asked(logits: Tensor, draft: Tensor, *, adds: bool) -> Tensor:
    """Logits of a correction, which only adds or only takes away: the rest of the draft is decided (see `Refiner`)."""
    decided = (draft > 0.5 if adds else draft <= 0.5).to(logits.device)
    return torch.where(decided, DECIDED if adds else -DECIDED, logits)


def refine_loss(logits: Tensor, truth: Tensor, clicked: Tensor) -> Tensor:
    """Cross entropy, more at clicks, and Dice with soft targets.

    Args:
        logits: [A, B, C].
        truth: [A, B, C] from 0 to 1.
        clicked: [A, B, C] from 0 to 1, how near a click is.
    """
    weight = 1 + CLICK_WEIGHT * clicked
    entropy = (weight * binary_cross_entropy_with_logits(logits, truth, reduction="none")).sum() / weight.sum()
    found = torch.sigmoid(logits)
    dice = 1 - (2 * (found * truth).sum() + 1) / (found.square().sum() + truth.square().sum() + 1)
    return 2 * entropy + dice


def _dice(found: Tensor, truth: Tensor) -> float:
    wanted = truth > 0.5
    both = int(found.sum()) + int(wanted.sum())
    return 1.0 if both == 0 else 2 * int((found & wanted).sum()) / both
