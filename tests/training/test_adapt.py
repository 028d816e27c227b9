from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from volseg.errors import TrainingError
from volseg.networks.sam2.config import Sam2Spec, Sam2Variant
from volseg.networks.sam2.network import Sam2Network
from volseg.training.adapt import adapt_network, plain_weights, trained_numbers
from volseg.training.config import Adapt, AdaptConfig

TINY = replace(Sam2Spec.nano(64), width=64, memory_layers=1, feed_forward=64)
HIERA = Sam2Spec(Sam2Variant.TINY, image_size=64)


def trained_on_noise(network: Sam2Network) -> None:
    """A step with a gradient for everything that wants one."""
    optimizer = torch.optim.AdamW([one for one in network.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(2):
        for one in network.parameters():
            if one.requires_grad:
                one.grad = torch.randn_like(one)
        optimizer.step()


@pytest.fixture(scope="module", params=[TINY, HIERA], ids=["nano", "hiera"])
def start(request: pytest.FixtureRequest) -> Sam2Network:
    torch.manual_seed(0)
    return Sam2Network(request.param)


def test_lora_changes_only_what_it_should(start: Sam2Network) -> None:
    before = {name: value.clone() for name, value in start.weights().items()}
    network = Sam2Network(start.spec, before)
    whole = trained_numbers(network)
    adapt_network(network, AdaptConfig(Adapt.LORA, 4))
    assert trained_numbers(network) < 0.05 * whole
    assert all(torch.equal(value, before[name]) for name, value in plain_weights(network).items()), "at first, nothing"
    trained_on_noise(network)
    after = plain_weights(network)
    assert set(after) == set(before)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    homes = {name.split(".")[0] for name in changed}
    assert homes == {"vision_encoder", "memory_attention", "mask_decoder"}
    # what a person would name: trunk, neck, attention of memory and decoder, heads, norms; never biases of the frozen
    assert any("backbone" in name and name.endswith("weight") for name in changed)
    assert "mask_decoder.pred_obj_score_head.proj_out.bias" in changed
    assert "memory_attention.layers.0.layer_norm1.weight" in changed
    assert "memory_attention.layers.0.linear1.bias" not in changed
    assert "mask_decoder.iou_token.weight" not in changed
    # each change is of the rank that was asked for
    difference = after["memory_attention.layers.0.linear1.weight"] - before["memory_attention.layers.0.linear1.weight"]
    assert int(torch.linalg.matrix_rank(difference, rtol=1e-4)) == 4


@torch.no_grad()
def test_merged_weights_answer_as_the_adapted_network(start: Sam2Network) -> None:
    network = Sam2Network(start.spec, start.weights())
    adapt_network(network, AdaptConfig(Adapt.LORA, 2))
    with torch.enable_grad():
        trained_on_noise(network)
    network.eval()
    plain = Sam2Network(start.spec, plain_weights(network))
    image = torch.randn(2, 3, 64, 64)
    answer = network(image)
    torch.testing.assert_close(plain(image), answer, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(answer, start.eval()(image), atol=1e-2), "and it did learn something"


def test_averages_merge_without_touching_the_network() -> None:
    torch.manual_seed(0)
    network = Sam2Network(TINY)
    adapt_network(network, AdaptConfig(Adapt.LORA, 2))
    first = {name: value.clone() for name, value in network.model.state_dict().items()}
    start = plain_weights(network)
    trained_on_noise(network)
    now = {name: value.clone() for name, value in network.model.state_dict().items()}
    merged = plain_weights(network, first)
    assert all(torch.equal(value, start[name]) for name, value in merged.items())
    assert all(torch.equal(value, now[name]) for name, value in network.model.state_dict().items())


def test_a_frozen_encoder_wants_no_gradient() -> None:
    torch.manual_seed(0)
    network = Sam2Network(TINY).train()
    adapt_network(network, AdaptConfig(Adapt.FROZEN_ENCODER))
    torch.autograd.backward(network(torch.randn(1, 3, 64, 64)).sum())
    for name, one in network.model.named_parameters():
        assert one.requires_grad is not name.startswith("vision_encoder."), name
        assert not name.startswith("vision_encoder.") or one.grad is None
        assert not name.startswith("mask_decoder.transformer") or one.grad is not None


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(TrainingError, match="rank of LoRA is 0"):
        AdaptConfig(Adapt.LORA, 0)
