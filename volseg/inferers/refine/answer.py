"""What the refining network says about a block: for answers and in training alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from volseg.inferers.refine.channels import POINT_PEAK, all_channels, kept_logits
from volseg.networks.refine.walk import walked

if TYPE_CHECKING:
    from volseg.inferers.refine.settings import RefineSettings
    from volseg.networks.refine.network import RefineNetwork

CLICKED = 0.75
"""Part of a bump's height within which it is a seed of the walk: about one sample around a click."""
SEEDS = 50
"""With so many seeds the network's belief counts half: who paints strokes says more than who clicks."""


@dataclass(frozen=True, eq=False)
class Belief:
    """What the network believes about a block, before the walk.

    Attributes:
        logits: [A, B, C] float32.
        trust: [A, B, C] float32, how far it is to be trusted; None where the network says nothing of it.
    """

    logits: Tensor
    trust: Tensor | None


def believe(
    network: RefineNetwork,
    image: Tensor,
    draft: Tensor,
    prompts: Tensor,
    settings: RefineSettings,
    newest_adds: bool | None,
    *,
    half: bool,
) -> Belief:
    """What the network believes, on its device.

    Args:
        network: looks.
        image: [A, B, C] in units of the window.
        draft: [A, B, C] from 0 to 1.
        prompts: [4, A, B, C] from ``prompt_channels``.
        settings: how far draft and network are trusted.
        newest_adds: in a correction, whether its newest prompt is on the object; None for a first answer.
        half: whether the network computes in bfloat16.
    """
    device = next(network.parameters()).device
    channels = all_channels(image, draft, prompts).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
        said = network(channels)[0]
    kept = settings.trust
    if newest_adds is not None:
        kept = settings.settled_outside if newest_adds else settings.settled_inside
    return Belief(said[0] + kept_logits(kept, draft, prompts).to(device), said[1] if network.spec.walk else None)


def carried(belief: Belief, image: Tensor, prompts: Tensor, settings: RefineSettings, *, correcting: bool) -> Tensor:
    """The answer: a belief carried as far as the image is even, or the belief itself where nothing is said of trust.

    Args:
        belief: of the network.
        image: [A, B, C] in units of the window.
        prompts: [4, A, B, C] from ``prompt_channels``; what was clicked on is a seed.
        settings: how far the belief is trusted.
        correcting: whether the draft was an earlier answer.

    Returns:
        Logits [A, B, C], float32 on the belief's device.
    """
    if belief.trust is None:
        return belief.logits
    device = belief.logits.device
    usual = settings.walk_trust_correcting if correcting else settings.walk_trust
    inside, outside = (one > CLICKED * POINT_PEAK for one in prompts[:2].to(device))
    usual /= 1 + int((inside | outside).sum()) / SEEDS
    return walked(belief.logits, belief.trust, usual, image.to(device), inside & ~outside, outside & ~inside)
