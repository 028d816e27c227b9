"""Decoding masks and writing memories give what transformers' own modules give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from volseg.networks.sam2.config import Sam2Spec
from volseg.networks.sam2.mask_decoder import decode_masks
from volseg.networks.sam2.memory_encoder import write_memories
from volseg.networks.sam2.network import Sam2Network


@pytest.fixture
def network() -> Sam2Network:
    torch.manual_seed(0)
    network = Sam2Network(Sam2Spec.nano(128))
    with torch.no_grad():
        for module in network.model.modules():
            if isinstance(module, nn.LayerNorm):  # 1 and 0 would not tell whether they are used
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return network


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("multimask", [False, True])
def test_masks_are_those_of_transformers(network: Sam2Network, multimask: bool, training: bool) -> None:
    decoder = network.model.mask_decoder.train(training)
    image, position = torch.randn(2, 128, 8, 8), torch.randn(1, 128, 8, 8)
    prompts, level0, level1 = torch.randn(2, 3, 128), torch.randn(2, 16, 32, 32), torch.randn(2, 32, 16, 16)
    dense = torch.randn(2, 128, 8, 8)
    with torch.inference_mode():
        expected = decoder(
            image_embeddings=image,
            image_positional_embeddings=position.expand(2, -1, -1, -1),
            sparse_prompt_embeddings=prompts[:, None],
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            high_resolution_features=[level0, level1],
        )
        pixels, places = ((image + dense).flatten(2).transpose(1, 2), position.flatten(2).transpose(1, 2))
        got = decode_masks(decoder, pixels, places, prompts, (level0, level1), multimask)
    assert got[0].shape == (2, 3 if multimask else 1, 32, 32)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs[:, 0], atol=1e-5, rtol=1e-5)


def test_memories_are_those_of_transformers(network: Sam2Network) -> None:
    encoder = network.model.memory_encoder
    image, mask = torch.randn(2, 128, 8, 8), torch.randn(2, 1, 128, 128) * 10
    with torch.inference_mode():
        expected, _ = encoder(image, mask)
        torch.testing.assert_close(write_memories(encoder, image, mask), expected, atol=1e-5, rtol=1e-5)
