"""How rows are decoded: transformers' ``Sam2VideoMaskDecoder`` in less time.

The weights and the result (but for rounding) are the same. Pixels stay ``[rows, pixels, channels]`` from memory
attention to the masks, as every layer wants them; transformers' module goes back to channels first on the way, and then
adds and normalises across strides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def decode_masks(
    decoder: Any, image: Tensor, image_position: Tensor, prompts: Tensor, fine: tuple[Tensor, Tensor], multimask: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Masks of rows from the image and the prompts.

    Args:
        decoder: transformers' ``Sam2VideoMaskDecoder``.
        image: ``[R, P, width]``, the image embedding of each row with the dense prompt on it.
        image_position: ``[1, P, width]``.
        prompts: ``[R, T, width]``, the embedded points.
        fine: level0 and level1 of `FrameFeatures`, one frame for each row.
        multimask: give three masks; else one, outside training the best of the three where the one is not stable.

    Returns:
        Logits ``[R, M, S / 4, S / 4]``, their estimated IoU ``[R, M]``, their tokens ``[R, M, width]`` and the object
        score ``[R, 1]``.
    """
    own = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
    placed = torch.cat((own.expand(len(image), -1, -1), prompts.to(own.dtype)), dim=1)
    tokens, image = _two_way(decoder.transformer, placed, image.contiguous(), image_position)
    score = decoder.pred_obj_score_head(tokens[:, 0])
    iou = decoder.iou_prediction_head(tokens[:, 1])
    mask_tokens = tokens[:, 2 : 2 + decoder.num_mask_tokens]
    pairs = zip(decoder.output_hypernetworks_mlps, mask_tokens.unbind(dim=1), strict=True)
    weights = torch.stack([network(token) for network, token in pairs], dim=1)
    masks = torch.einsum("rmc,rchw->rmhw", weights, _enlarged(decoder, image, *fine))
    chosen = slice(1, None) if multimask else slice(0, 1)
    if not multimask and decoder.dynamic_multimask_via_stability and not decoder.training:
        stable, stable_iou = decoder._dynamic_multimask_via_stability(masks[:, None], iou[:, None])
        return stable[:, 0], stable_iou[:, 0], mask_tokens[:, chosen], score
    return masks[:, chosen], iou[:, chosen], mask_tokens[:, chosen], score


def _two_way(transformer: Any, placed: Tensor, image: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens ``[R, T, width]`` and pixels ``[R, P, width]`` look at each other in turn."""
    tokens = placed
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = layer.layer_norm1(_attend(layer.self_attn, tokens, tokens, tokens))
        else:
            at = tokens + placed
            tokens = layer.layer_norm1(tokens + _attend(layer.self_attn, at, at, tokens))
        pixels = image + position
        tokens = layer.layer_norm2(tokens + _attend(layer.cross_attn_token_to_image, tokens + placed, pixels, image))
        tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
        image = layer.layer_norm4(image + _attend(layer.cross_attn_image_to_token, pixels, tokens + placed, tokens))
    final = _attend(transformer.final_attn_token_to_image, tokens + placed, image + position, image)
    return transformer.layer_norm_final_attn(tokens + final), image


def _attend(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What ``Sam2VideoAttention`` gives for ``[R, L, width]``."""
    heads = (len(query), -1, attention.num_attention_heads, attention.head_dim)
    query, key, value = (
        projection(one).view(heads).transpose(1, 2)
        for projection, one in ((attention.q_proj, query), (attention.k_proj, key), (attention.v_proj, value))
    )
    seen = scaled_dot_product_attention(query, key, value)
    result: Tensor = attention.o_proj(seen.transpose(1, 2).flatten(2))
    return result


def _enlarged(decoder: Any, image: Tensor, level0: Tensor, level1: Tensor) -> Tensor:
    """``[R, width / 8, S / 4, S / 4]``: the pixels enlarged twice over the finer features."""
    side = level1.shape[-1] // 2
    grid = image.transpose(1, 2).reshape(len(image), -1, side, side)
    half = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(grid) + level1))
    result: Tensor = decoder.activation(decoder.upscale_conv2(half) + level0)
    return result
