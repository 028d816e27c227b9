"""The text-query network: shapes, independence of queries, modality, and every backbone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from volseg.data.modality import Modality
from volseg.errors import ModelError
from volseg.networks.text_query.channels import make_channels
from volseg.networks.text_query.config import Backbone, TextQuerySpec
from volseg.networks.text_query.network import TextQueryNetwork

SMALL = TextQuerySpec(widths=(8, 8, 16), width=16, heads=2, layers=1, mask_levels=2, concepts=("a", "b", "c"))


def small_network() -> TextQueryNetwork:
    torch.manual_seed(0)
    return TextQueryNetwork(SMALL).eval()


@pytest.mark.parametrize(
    "spec",
    [
        SMALL,
        replace(SMALL, presence_layers=2),
        TextQuerySpec(Backbone.SEGRESNET, (8, 8, 8), width=16, heads=2, layers=1, concepts=("a",)),
        TextQuerySpec(Backbone.SWIN_UNETR, (12,) * 5, width=16, heads=2, layers=1, concepts=("a",)),
    ],
    ids=str,
)
def test_backbones(spec: TextQuerySpec) -> None:
    network = TextQueryNetwork(spec).eval()
    side = 2 * spec.divisor
    windows = torch.rand(1, 2, side, side, side)
    with torch.no_grad():
        features = network.pyramid(windows)
        output = network(windows, network.embeddings(["a"]), Modality.CT, 1.5)
    assert [level.shape[1] for level in features] == list(spec.level_widths)
    assert [level.shape[2] for level in features] == [side >> depth for depth in range(spec.levels)]
    assert output.mask_logits.shape == (1, 1, side, side, side)
    assert output.presence_logits.shape == (1, 1)
    assert TextQuerySpec.from_json(spec.to_json()) == spec
    # Everything learns: no part of the network is left out of the answer.
    total = network(windows, network.embeddings(["a"]), Modality.CT, 1.5)
    (total.mask_logits.mean() + total.presence_logits.mean()).backward()
    idle = {name for name, value in network.named_parameters() if value.grad is None}
    assert not {name for name in idle if not name.startswith("pyramid.net.")}


def test_an_answer_does_not_depend_on_other_queries() -> None:
    network = small_network()
    windows = torch.rand(2, 2, 8, 12, 16)
    with torch.no_grad():
        together = network(windows, network.embeddings(["a", "b", "c"]), Modality.MR, 1.0)
        alone = network(windows, network.embeddings(["b"]), Modality.MR, 1.0)
    torch.testing.assert_close(together.mask_logits[:, 1:2], alone.mask_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.presence_logits[:, 1:2], alone.presence_logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together.mask_logits[:, 0], together.mask_logits[:, 1])


def test_windows_of_a_batch_are_answered_for_themselves() -> None:
    network = small_network()
    windows = torch.rand(2, 2, 8, 8, 8)
    kinds = [Modality.CT, Modality.MR]
    with torch.no_grad():
        both = network(windows, network.embeddings(["a"]), kinds, 1.0)
        for row, kind in enumerate(kinds):
            one = network(windows[row : row + 1], network.embeddings(["a"]), kind, 1.0)
            torch.testing.assert_close(both.mask_logits[row : row + 1], one.mask_logits, rtol=1e-4, atol=1e-5)


def test_modality_and_spacing_change_the_answer() -> None:
    network = small_network()
    windows = torch.rand(1, 2, 8, 8, 8)
    query = network.embeddings(["a"])
    with torch.no_grad():
        answers = [
            network(windows, query, kind, spacing).presence_logits.item()
            for kind, spacing in ((Modality.CT, 1.0), (Modality.MR, 1.0), (Modality.CT, 3.0))
        ]
    assert len({round(value, 6) for value in answers}) == 3


def test_left_and_right_are_told_apart() -> None:
    """Mirroring a window must not simply mirror the answer: a query has to know which side is which."""
    network = small_network()
    windows = torch.rand(1, 2, 8, 8, 8)
    query = network.embeddings(["a"])
    with torch.no_grad():
        plain = network(windows, query, Modality.MR, 1.0).mask_logits
        mirrored = network(windows.flip(2), query, Modality.MR, 1.0).mask_logits.flip(2)
    assert not torch.allclose(plain, mirrored, atol=1e-3)


def test_masks_by_hand() -> None:
    masks = torch.arange(8.0).reshape(1, 2, 2, 2, 1)
    embeddings = torch.tensor([[[1.0, 0.0, 5.0], [2.0, -1.0, 0.0]]])
    drawn = TextQueryNetwork.draw(masks, embeddings)
    assert drawn[0, 0].flatten().tolist() == [5, 6, 7, 8]
    assert drawn[0, 1].flatten().tolist() == [2 * a - b for a, b in zip(range(4), range(4, 8), strict=True)]


def test_channels() -> None:
    # Units of the soft-tissue window of CT, -160 to 240 HU: air, black, white, bone.
    values = torch.tensor([-2.1, 0.0, 1.0, 3.35]).reshape(1, 1, 4)
    narrow, wide = make_channels(values)[0]
    assert narrow.tolist() == [-2.0, -2.0, 2.0, 2.0]
    assert wide[0].item() == pytest.approx(-2)
    assert wide[3].item() == pytest.approx(2)
    assert wide[1] < wide[2]
    assert values.flatten().tolist() == pytest.approx([-2.1, 0.0, 1.0, 3.35])


def test_what_does_not_fit_is_refused() -> None:
    network = small_network()
    with pytest.raises(ModelError, match="multiples of 4"):
        network.encode(torch.zeros(1, 2, 8, 8, 6), 1.0)
    with pytest.raises(ModelError, match="2 channels"):
        network.encode(torch.zeros(1, 1, 8, 8, 8), 1.0)
    with pytest.raises(ModelError, match="no query embedding for x"):
        network.embeddings(["a", "x"])
    with pytest.raises(ModelError, match="do not fit"):
        TextQueryNetwork(SMALL, {"bank": torch.zeros(1)})
    for wrong in ({"widths": (8,)}, {"heads": 3}, {"token_levels": 9}, {"concepts": ("a", "a")}):
        with pytest.raises(ModelError):
            TextQuerySpec(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="depth"):
        TextQuerySpec.from_json('{"depth": 3}')


def test_weights_come_back() -> None:
    network = small_network()
    copy = TextQueryNetwork(SMALL, network.state_dict())
    windows = torch.rand(1, 2, 8, 8, 8)
    with torch.no_grad():
        a = network(windows, network.embeddings(["c"]), Modality.MR, 1.0).mask_logits
        b = copy(windows, copy.embeddings(["c"]), Modality.MR, 1.0).mask_logits
    assert torch.equal(a, b)
