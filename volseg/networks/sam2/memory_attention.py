"""How rows read their memories: transformers' ``Sam2VideoMemoryAttention`` outside training, in less time.

The weights and the result (but for rounding) are the same. Four things make it faster:

- A softmax sums to one, so that values may be projected after the sum over keys instead of before: attention adds up
  memory tokens of 64 channels, not values of the embedding's width, and projects one token a pixel, not all of them.
- Rotary positions repeat with every memory, so keys are rotated as ``[memories, pixels]`` without repeating the angles;
  on a CPU in place, as complex numbers.
- What a frame sees of itself before it reads memories is the same for all objects and passes, and is kept with it.
- On a CPU, rows read one after the other, in blocks of keys that stay in the caches. A wide call is slower there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

CPU_QUERIES, CPU_KEYS = 256, 2560
"""Scores of so many queries and keys (2.5 MiB) stay in a core's caches. Seven memories of a 256 pixel frame, one more
conditioning frame and their pointers are one block."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where the pixels of an image embedding are; the same for all frames.

    Attributes:
        image: ``[1, P, width]``, added to an embedding before it is looked at.
        cos: ``[P, width / 2]`` of the angles by which queries and keys turn.
        sin: the same.
        memory: ``[P, 64]``, added to a spatial memory where it is a key.
    """

    image: Tensor
    cos: Tensor
    sin: Tensor
    memory: Tensor

    @classmethod
    def of(cls, attention: Any, image_position: Tensor, memory_position: Tensor) -> Places:
        """Those of a ``Sam2VideoMemoryAttention`` and sine positions ``[1, channels, H, W]``."""
        image, memory = (one.flatten(2).transpose(1, 2).contiguous() for one in (image_position, memory_position))
        cos, sin = (one[0, :, ::2].contiguous() for one in attention.rotary_emb(image, attention.position_ids))
        return cls(0.1 * image, cos, sin, memory[0])


def first_look(attention: Any, image: Tensor, places: Places) -> Tensor:
    """What frames see of themselves before they read any memory.

    Args:
        attention: transformers' ``Sam2VideoMemoryAttention``, with one head as in all SAM 2 models.
        image: ``[N, P, width]``, the image embedding of each frame.
        places: of the pixels.

    Returns:
        ``[N, P, width]``.
    """
    return _own_look(attention.layers[0], image + places.image, places)


def _own_look(layer: Any, image: Tensor, places: Places) -> Tensor:
    own = layer.layer_norm1(image)
    look = layer.self_attn
    query, key = (rotated(projection(own), places.cos, places.sin) for projection in (look.q_proj, look.k_proj))
    result: Tensor = image + look.o_proj(attend(query, key, look.v_proj(own)))
    return result


def read_memories(
    attention: Any, looked: Tensor, places: Places, tokens: Tensor, positions: Tensor, pointer_tokens: int
) -> Tensor:
    """Lets rows read their memories.

    Args:
        attention: transformers' ``Sam2VideoMemoryAttention``, with one head as in all SAM 2 models.
        looked: ``[R, P, width]``, what `first_look` gave for the frame of each row.
        places: of the pixels.
        tokens: ``[R, L, 64]`` of the memories, object pointers last.
        positions: ``[R, L, 64]``.
        pointer_tokens: how many tokens (the last) belong to pointers; they have no place in the image.

    Returns:
        ``[R, P, width]``.
    """
    image, cos, sin = looked, places.cos, places.sin
    placed = tokens + positions
    for number, layer in enumerate(attention.layers):
        if number:
            image = _own_look(layer, image, places)
        look = layer.cross_attn_image
        query = rotated(look.q_proj(layer.layer_norm2(image)), cos, sin)
        key = rotated(look.k_proj(placed), cos, sin, unplaced=pointer_tokens)
        image = image + look.o_proj(look.v_proj(attend(query, key, tokens)))
        image = image + layer.linear2(layer.activation(layer.linear1(layer.layer_norm3(image))))
    result: Tensor = attention.layer_norm(image)
    return result


def rotated(tokens: Tensor, cos: Tensor, sin: Tensor, unplaced: int = 0) -> Tensor:
    """Rotates neighbouring channels by the angles of their pixels.

    Args:
        tokens: ``[R, M * P + unplaced, width]``; on a CPU changed in place.
        cos: ``[P, width / 2]``.
        sin: the same.
        unplaced: tokens at the end that stay as they are.
    """
    placed = tokens[:, : tokens.shape[1] - unplaced]
    pairs = placed.view(len(tokens), -1, *cos.shape, 2)
    if tokens.device.type == "cpu" and tokens.dtype is torch.float32:
        torch.view_as_complex(pairs).mul_(torch.complex(cos, sin))
        return tokens
    first, second = pairs.float().unbind(dim=-1)
    turned = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1).reshape(placed.shape)
    return torch.cat((turned.to(tokens.dtype), tokens[:, placed.shape[1] :]), dim=1) if unplaced else turned.to(tokens)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention of one head.

    Args:
        query: ``[R, P, width]``.
        key: ``[R, L, width]``.
        value: ``[R, L, C]``; ``C`` may differ from ``width``.

    Returns:
        ``[R, P, C]``.
    """
    if query.device.type != "cpu":
        return scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
    result = torch.empty(*query.shape[:2], value.shape[2], dtype=query.dtype)
    query = query * query.shape[-1] ** -0.5
    for row in range(len(query)):
        for start in range(0, query.shape[1], CPU_QUERIES):
            some = slice(start, start + CPU_QUERIES)
            result[row, some] = _attend_in_blocks(query[row, some], key[row], value[row])
    return result


def _attend_in_blocks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of ``[P, width]`` to ``[L, width]``, block by block.

    The maximum runs along (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
    """
    keys, values = torch.split(key, CPU_KEYS), torch.split(value, CPU_KEYS)
    if len(keys) == 1:
        return torch.mm(torch.mm(query, key.t()).softmax(dim=-1), value)
    largest = torch.full((len(query), 1), -torch.inf)
    total = torch.zeros(len(query), 1)
    summed = torch.zeros(len(query), value.shape[1])
    for some_keys, some_values in zip(keys, values, strict=True):
        scores = torch.mm(query, some_keys.t())
        before, largest = largest, torch.maximum(largest, scores.amax(dim=-1, keepdim=True))
        weights = scores.sub_(largest).exp_()
        fade = (before - largest).exp()
        total = total.mul_(fade).add_(weights.sum(dim=-1, keepdim=True))
        summed = summed.mul_(fade).addmm_(weights, some_values)
    return summed / total
