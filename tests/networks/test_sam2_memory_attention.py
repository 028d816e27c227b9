"""Reading memories gives what transformers' own module gives."""

from __future__ import annotations

import pytest
import torch

from volseg.networks.sam2 import memory_attention
from volseg.networks.sam2.config import Sam2Spec
from volseg.networks.sam2.memory_attention import Places, attend, first_look, read_memories, rotated
from volseg.networks.sam2.network import Sam2Network

BLOCKS = [(256, 2560), (24, 2560), (24, 100)]
"""All at once; some queries at a time; some keys at a time too."""


@pytest.mark.parametrize("pointers", [0, 6])
@pytest.mark.parametrize(("queries", "keys"), BLOCKS)
def test_rows_read_what_transformers_reads(
    monkeypatch: pytest.MonkeyPatch, queries: int, keys: int, pointers: int
) -> None:
    monkeypatch.setattr(memory_attention, "CPU_QUERIES", queries)
    monkeypatch.setattr(memory_attention, "CPU_KEYS", keys)
    torch.manual_seed(0)
    module = Sam2Network(Sam2Spec.nano(128)).model.memory_attention
    image, where = torch.randn(2, 64, 128), torch.randn(1, 64, 128)
    tokens, positions = torch.randn(2, 3 * 64 + pointers, 64), torch.randn(2, 3 * 64 + pointers, 64)
    with torch.inference_mode():
        expected = module(
            current_vision_features=image.transpose(0, 1),
            current_vision_position_embeddings=where.transpose(0, 1),
            memory=tokens.transpose(0, 1),
            memory_posision_embeddings=positions.transpose(0, 1),
            num_object_pointer_tokens=pointers,
        )
        # Not the image alone: what is read moves the answer by far more than the tolerance.
        on_grid = where.transpose(1, 2).unflatten(2, (8, 8))
        places = Places.of(module, on_grid, on_grid[:, :64])
        looked = first_look(module, image, places)
        unread = read_memories(module, looked, places, torch.zeros_like(tokens), positions, pointers)
        got = read_memories(module, looked, places, tokens, positions, pointers)
    torch.testing.assert_close(got, expected.reshape(2, 64, 128), atol=1e-5, rtol=1e-5)
    assert float((unread - got).abs().max()) > 1e-2


def test_channels_turn_in_pairs_and_the_last_tokens_stay() -> None:
    angle = torch.tensor([[0.0, torch.pi / 2], [torch.pi, 0.0]])
    cos, sin = angle.cos(), angle.sin()
    # Two memories of two pixels, then one token without a place.
    tokens = torch.tensor([[1.0, 2, 3, 4]]).repeat(5, 1)[None]
    turned = [[1.0, 2, -4, 3], [-1, -2, 3, 4], [1, 2, -4, 3], [-1, -2, 3, 4], [1, 2, 3, 4]]
    for dtype in (torch.float32, torch.float64):  # complex numbers in place, and what devices without them do
        got = rotated(tokens.to(dtype, copy=True), cos, sin, unplaced=1)
        torch.testing.assert_close(got, torch.tensor(turned, dtype=dtype)[None], atol=1e-6, rtol=0)


def test_large_scores_do_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_attention, "CPU_KEYS", 4)
    query = torch.full((1, 2, 16), 50.0)
    key = torch.cat([torch.full((1, 5, 16), -50.0), torch.full((1, 1, 16), 50.0), torch.zeros(1, 4, 16)], dim=1)
    value = torch.arange(10.0)[None, :, None]
    torch.testing.assert_close(attend(query, key, value), torch.full((1, 2, 1), 5.0))
