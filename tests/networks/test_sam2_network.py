"""The network's operations, mostly on sam2-nano with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from volseg.errors import ModelError
from volseg.networks.sam2 import Sam2Spec, Sam2Variant, Sam2Version
from volseg.networks.sam2.features import MemoryRows
from volseg.networks.sam2.network import Sam2Network
from volseg.networks.sam2.prompt_map import BOX_VALUE, CLICK_VALUE, draw_prompts


def nano(side: int = 128, **settings: bool) -> Sam2Network:
    torch.manual_seed(3)
    return Sam2Network(Sam2Spec.nano(side, **settings))


def test_spec_json_round_trip() -> None:
    for spec in (Sam2Spec.nano(192), Sam2Spec(Sam2Variant.LARGE, Sam2Version.V2_0, 512)):
        assert Sam2Spec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("text", ["{", "[]", '{"variant": "huge"}', '{"variant": "tiny", "colour": 1}', "{}"])
def test_bad_spec_json_is_refused(text: str) -> None:
    with pytest.raises(ModelError):
        Sam2Spec.from_json(text)


@pytest.mark.parametrize("settings", [{"image_size": 100}, {"image_size": 32}, {"width": 100}, {"memory_frames": 1}])
def test_impossible_spec_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="expected"):
        Sam2Spec(Sam2Variant.TINY, **settings)  # type: ignore[arg-type]


def test_nano_is_small(tmp_path) -> None:  # type: ignore[no-untyped-def]
    network = nano()
    assert sum(parameter.numel() for parameter in network.parameters()) <= 6_000_000
    file = tmp_path / "nano.safetensors"
    save_file(network.weights(), file)
    assert file.stat().st_size <= 25e6
    shared = load_file(file)
    first, second = (
        shared["shared_image_embedding.positional_embedding"],
        shared["prompt_encoder.shared_embedding.positional_embedding"],
    )
    assert torch.equal(first, second)
    assert float(first.std()) > 0.5


@pytest.mark.parametrize("side", [128, 192, 256])
def test_forward_gives_logits_of_the_input_size(side: int) -> None:
    network = nano(side)
    with torch.inference_mode():
        logits = network(torch.randn(2, 3, side, side))
    assert logits.shape == (2, 1, side, side)
    assert float(logits.std()) > 0.01


def test_wrong_image_size_is_refused() -> None:
    with pytest.raises(ModelError, match=r"expected \[N, 3, 128, 128\]"):
        nano(128).encode_frames(torch.zeros(1, 3, 64, 64))


def test_every_path_trains() -> None:
    """A loss on a tracked frame reaches trunk, prompt encoder, mask decoder and all of the memory."""
    network = nano(128).train()
    images = torch.randn(2, 3, 128, 128)
    features = network.encode_frames(images)
    first, second = features.rows([0, 0]), features.rows([1, 1])
    points = torch.tensor([[[20.0, 20], [90, 80], [50, 50], [10, 10]], [[30.0, 40], [100, 90], [60, 60], [5, 100]]])
    output = network.decode(first, points_xy=points, labels=torch.tensor([[2, 3, 1, 0]] * 2))
    clicked = network.decode(first, points_xy=points[:, 2:3], labels=torch.tensor([[1]] * 2))
    masked = network.use_mask(first, (torch.rand(2, 1, 128, 128) > 0.5).float())
    memory = network.encode_memory(first, output.low_res_logits, output.object_score_logits, prompted=True)
    conditioned = network.condition_on_memory(
        second,
        MemoryRows(
            spatial=torch.stack([memory, memory], dim=1),
            offsets=torch.tensor([[0, 1], [0, 3]]),
            pointers=torch.stack([output.object_pointer, masked.object_pointer], dim=1),
            pointer_offsets=torch.tensor([[1, 2], [1, 2]]),
            pointer_span=16,
        ),
    )
    tracked = network.decode(second, conditioned=conditioned)
    loss = sum(
        part.candidate_logits.square().mean() + part.candidate_iou.mean() + part.object_score_logits.mean()
        for part in (tracked, clicked, output)
    )
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    silent = {name for name, p in network.model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum())}
    # nothing reads what stands for absence while every object is present, and no memory is ever missing
    assert silent == {"no_memory_positional_encoding", "no_object_pointer", "occlusion_spatial_embedding_parameter"}


def test_absent_objects_have_the_absent_mask_and_pointer() -> None:
    network = nano(128)
    head = network.model.mask_decoder.pred_obj_score_head.proj_out
    with torch.inference_mode():
        head.weight.zero_()
        head.bias.fill_(-1.0)
        features = network.encode_frames(torch.randn(1, 3, 128, 128))
        output = network.decode(features, points_xy=torch.tensor([[[9.0, 9]]]), labels=torch.tensor([[1]]))
    assert bool((output.low_res_logits == -1024).all())
    assert bool((output.candidate_logits > -1024).all())
    assert torch.equal(output.object_pointer[0], network.model.no_object_pointer[0])


def test_a_memory_depends_on_whether_its_frame_was_prompted() -> None:
    network = nano(128)
    with torch.inference_mode():
        features = network.encode_frames(torch.randn(1, 3, 128, 128))
        logits, score = torch.randn(1, 1, 32, 32), torch.ones(1, 1)
        prompted = network.encode_memory(features, logits, score, prompted=True)
        tracked = network.encode_memory(features, logits, score, prompted=False)
        steep = network.encode_memory(features, logits * 1e6, score, prompted=False)
    assert prompted.dtype == torch.bfloat16
    assert not torch.equal(prompted, tracked)
    assert torch.allclose(prompted.float(), steep.float(), atol=1e-2)
    assert float((tracked.float() - steep.float()).abs().max()) > 0.05


def test_drawn_box_covers_the_same_pixels() -> None:
    """A box of whole 4x4 blocks is exactly these blocks in the map."""
    corners = torch.tensor([[[8.0, 16.0], [23.0, 39.0]]])
    drawn = draw_prompts(corners, torch.tensor([[2, 3]]), 64)[0, 0]
    expected = np.full((16, 16), -BOX_VALUE, np.float32)
    expected[4:10, 2:6] = BOX_VALUE
    assert np.array_equal(drawn.numpy(), expected)


def test_drawn_clicks_mark_their_pixel() -> None:
    points = torch.tensor([[[21.5, 9.5], [41.5, 53.5]]])
    drawn = draw_prompts(points, torch.tensor([[1, 0]]), 64)[0, 0]
    assert float(drawn[2, 5]) == CLICK_VALUE
    assert float(drawn[13, 10]) == -CLICK_VALUE
    assert 5 <= int((drawn > 0).sum()) <= 9
    assert int((drawn < 0).sum()) == int((drawn > 0).sum())


def test_drawing_changes_what_the_decoder_sees() -> None:
    drawing, plain = nano(128, draw_prompts=True), nano(128, draw_prompts=False)
    plain.model.load_state_dict(drawing.model.state_dict())
    with torch.inference_mode():
        features = drawing.encode_frames(torch.randn(1, 3, 128, 128))
        prompts = {"points_xy": torch.tensor([[[60.0, 60]]]), "labels": torch.tensor([[1]])}
        one, other = drawing.decode(features, **prompts), plain.decode(features, **prompts)
    assert not torch.equal(one.low_res_logits, other.low_res_logits)
