"""Random weights from which SAM 2 trains."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

LAYER_SCALE = 0.1
PRESENT_BIAS = 2.0
"""The object score starts positive: the masks of objects thought absent would give no gradient."""


def initialise(model: nn.Module) -> None:
    """Draws random weights for a ``Sam2VideoModel``, in place.

    transformers' own initialisation (everything normal with a small deviation, scales at zero) hardly trains from
    scratch; here each layer gets torch's default and the free embeddings are as in Meta's code. The random positional
    matrix, which transformers stores twice, is the same in both places.
    """
    for module in model.modules():
        reset: Callable[[], None] | None = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    for name, parameter in model.named_parameters(recurse=True):
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "scale":
            nn.init.constant_(parameter, LAYER_SCALE)
        elif leaf not in ("weight", "bias"):
            nn.init.trunc_normal_(parameter, std=0.02)
    nn.init.constant_(model.get_parameter("mask_decoder.pred_obj_score_head.proj_out.bias"), PRESENT_BIAS)
    shared = model.get_buffer("shared_image_embedding.positional_embedding")
    nn.init.normal_(shared)
    model.get_buffer("prompt_encoder.shared_embedding.positional_embedding").copy_(shared)
