"""State dicts are told by their keys; Meta's are renamed completely or refused with a list."""

from __future__ import annotations

import pytest
import torch
from sam2_oracles import META_CONFIGS, meta_predictor
from torch import Tensor

from volseg.errors import ModelError
from volseg.networks.sam2 import Sam2Spec, Sam2Variant, Sam2Version
from volseg.networks.sam2.layouts import Layout, convert, expected_shapes, recognise
from volseg.networks.sam2.network import Sam2Network


@pytest.fixture(scope="module")
def tiny() -> dict[str, Tensor]:
    return dict(meta_predictor("tiny").state_dict())


@pytest.mark.parametrize("name", list(META_CONFIGS))
def test_meta_checkpoints_are_recognised_and_complete(name: str) -> None:
    state = meta_predictor(name).state_dict()
    found = recognise(state)
    variant, _, version = name.partition(" ")
    assert found.layout is Layout.META
    assert found.spec == Sam2Spec(Sam2Variant(variant), Sam2Version(version or "2.1"), 1024)
    converted = convert(state, found)
    assert {key: tuple(tensor.shape) for key, tensor in converted.items()} == expected_shapes(found.spec)
    # every number arrives; the positional matrix is stored twice
    matrix = state["sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    assert sum(t.numel() for t in converted.values()) == sum(t.numel() for t in state.values()) + matrix.numel()
    assert recognise(converted).layout is Layout.TRANSFORMERS
    assert recognise(converted).spec == found.spec


@pytest.mark.parametrize(
    ("file_name", "given", "expected"),
    [("MedSAM2_CTLesion.pt", None, 512), ("sam2.1_hiera_tiny.pt", None, 1024), ("MedSAM2_latest.pt", 256, 256)],
)
def test_image_size_comes_from_user_or_file_name(
    tiny: dict[str, Tensor], file_name: str, given: int | None, expected: int
) -> None:
    assert recognise(tiny, image_size=given, file_name=f"some/folder/{file_name}").spec.image_size == expected


def test_incomplete_checkpoint_is_refused_with_the_list(tiny: dict[str, Tensor]) -> None:
    state = {**tiny, "classifier.weight": torch.zeros(3)}
    del state["maskmem_tpos_enc"]
    state["no_mem_embed"] = torch.zeros(1, 1, 7)
    with pytest.raises(ModelError) as error:
        convert(state, recognise(state))
    message = str(error.value)
    assert "1 missing: memory_temporal_positional_encoding" in message
    assert "1 unexpected: classifier.weight" in message
    assert "no_memory_embedding is (1, 1, 7), expected (1, 1, 256)" in message


def test_point_embeddings_with_a_gap_are_refused(tiny: dict[str, Tensor]) -> None:
    state = dict(tiny)
    del state["sam_prompt_encoder.point_embeddings.2.weight"]
    with pytest.raises(ModelError, match=r"1 missing: prompt_encoder\.point_embed\.weight"):
        convert(state, recognise(state))


@pytest.mark.parametrize("state", [{}, {"conv.weight": torch.zeros(1)}])
def test_something_else_is_refused(state: dict[str, Tensor]) -> None:
    with pytest.raises(ModelError, match=r"no SAM 2 checkpoint.*expected a key such as"):
        recognise(state)


def test_unknown_size_is_refused(tiny: dict[str, Tensor]) -> None:
    state = {key: tensor for key, tensor in tiny.items() if ".trunk.blocks.11." not in key}
    with pytest.raises(ModelError, match="96 channels and 11 blocks"):
        recognise(state)


def test_nano_round_trip() -> None:
    network = Sam2Network(Sam2Spec.nano(128))
    found = recognise(network.weights(), image_size=128)
    assert found.layout is Layout.NANO
    assert found.spec == network.spec
    again = Sam2Network(found.spec, convert(network.weights(), found))
    image = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        assert torch.equal(again(image), network(image))


def test_network_refuses_weights_of_another_size() -> None:
    weights = Sam2Network(Sam2Spec.nano(128)).weights()
    weights.pop("mask_downsample.bias")
    with pytest.raises(ModelError, match=r"1 missing: mask_downsample\.bias"):
        Sam2Network(Sam2Spec.nano(128), weights)
