"""What the refining network says about a block: for answers and in training alike."""

from __future__ import annotations

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


def answer_logits(
    network: RefineNetwork,
    image: Tensor,
    draft: Tensor,
    prompts: Tensor,
    settings: RefineSettings,
    newest_adds: bool | None,
    *,
    half: bool,
) -> Tensor:
    """Logits [A, B, C], float32 on the network's device.

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
    trust, held = settings.trust, settings.walk_trust
    if newest_adds is not None:
        trust = settings.settled_outside if newest_adds else settings.settled_inside
        held = settings.walk_trust_correcting
    logits: Tensor = said[0] + kept_logits(trust, draft, prompts).to(device)
    if not network.spec.walk:
        return logits
    inside, outside = (one > CLICKED * POINT_PEAK for one in prompts[:2].to(device))
    return walked(logits, said[1], held, image.to(device), inside & ~outside, outside & ~inside)
