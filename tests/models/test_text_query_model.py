"""Words to masks, with a network whose answers are known; sides in every orientation; words and then clicks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from tests.grid_strategies import ORIENTATIONS
from tests.region_model import RegionModel, blocks_image
from volseg.data.labelmap import Label
from volseg.data.modality import Modality
from volseg.errors import CapabilityError, ModelError, PromptError
from volseg.geometry import Grid
from volseg.inferers.text_query.settings import SearchSettings
from volseg.inferers.text_query.volume import network_grid, to_network
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.models.text_query import NEGATIVE_PROMPTS, POSITIVE_PROMPTS, TextQueryModel
from volseg.models.text_then_clicks import TextThenClicks
from volseg.networks.text_query.network import WindowFeatures
from volseg.prompts import Box, Point, PromptedObject, PromptSet, Text
from volseg.sessions import Session
from volseg.transforms.windows import IntensityWindow

CONCEPTS = ("kidney_left", "kidney_right", "spleen")


class SidedNetwork:
    """Says that the left kidney is what is bright at low i of a window, the right one at high i; no spleen anywhere."""

    class spec:
        divisor = 4

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.encoded = 0

    def embeddings(self, concepts):
        assert set(concepts) <= set(CONCEPTS)
        return torch.tensor([[float(CONCEPTS.index(one))] for one in concepts])

    def encode(self, windows: Tensor, spacing_mm: float) -> WindowFeatures:
        self.encoded += len(windows)
        return WindowFeatures(windows[:, :1], torch.zeros(len(windows), 1, 1))

    def answers(self, features, queries, modality, spacing_mm):
        which = queries[..., 0].expand(len(features.tokens), -1)
        return which[..., None], torch.where(which == 2, -9.0, 9.0)

    @staticmethod
    def draw(masks: Tensor, embeddings: Tensor) -> Tensor:
        bright = masks[:, 0] * 4
        side = torch.linspace(-1, 1, masks.shape[2])[:, None, None]
        left, right = torch.where(side < 0, bright, -8.0), torch.where(side >= 0, bright, -8.0)
        answers = {0: left, 1: right, 2: torch.full_like(bright, -8.0)}
        return torch.stack([torch.stack([answers[int(q)][b] for q in row]) for b, row in enumerate(embeddings[..., 0])])


def text_model() -> TextQueryModel:
    labels = tuple(Label(n, name, (9, 9, 9)) for n, name in enumerate(("left kidney", "right kidney", "spleen"), 1))
    card = ModelCard("words", "1", "for tests", POSITIVE_PROMPTS, NEGATIVE_PROMPTS, labels=labels)
    search = SearchSettings(dict.fromkeys(CONCEPTS, 1.0), {1.0: (32, 32, 32)}, overlap=0.0)
    return TextQueryModel(SidedNetwork(), card, search)  # type: ignore[arg-type]


def ask(model, image, *phrases: str, negative: str = ""):
    prompts = [Text(phrase) for phrase in phrases] + ([Text(negative, False)] if negative else [])
    encoding = model.encode(image, EncodeOptions(window="0,150"))
    return model.segment(encoding, PromptSet.of(Grid.of(image), prompts)).masks[0]


def right_of(mask, x_ras_mm: float) -> bool:
    return bool(mask.centroid_ras_mm()[0] > x_ras_mm)


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
def test_left_stays_left_in_every_orientation(axcodes: str) -> None:
    image = blocks_image(axcodes, spacing_mm=(1.0, 1.0, 1.0))
    values = image[0].numpy()
    left, right = (ask(text_model(), image, f"{side} kidney") for side in ("left", "right"))
    # The blocks of 100 and 200 lie at i 1..3 and 6..9 of a RAS array: the patient's left and right.
    assert np.array_equal(left.full(), values == 100)
    assert np.array_equal(right.full(), values == 200)
    assert not right_of(left, -14.0)
    assert right_of(right, -14.0)


def test_both_sides_and_without() -> None:
    image = blocks_image(spacing_mm=(1.0, 1.0, 1.0))
    values = image[0].numpy()
    both = ask(text_model(), image, "both kidneys")
    assert np.array_equal(both.full(), values > 0)
    assert both.presence == pytest.approx(1.0, abs=1e-3)
    assert np.array_equal(ask(text_model(), image, "kidneys", negative="left kidney").full(), values == 200)
    assert np.array_equal(ask(text_model(), image, "left kidney", "right kidney").full(), values > 0)
    assert np.array_equal(ask(text_model(), image, "largest kidney").full(), values == 200)


def test_absent_structures_are_empty_and_say_so() -> None:
    mask = ask(text_model(), blocks_image(spacing_mm=(1.0, 1.0, 1.0)), "spleen")
    assert mask.voxels == 0
    assert mask.presence == pytest.approx(0.0, abs=1e-3)


def test_what_was_found_is_not_looked_for_again() -> None:
    model, image = text_model(), blocks_image(spacing_mm=(1.0, 1.0, 1.0))
    encoding = model.encode(image, EncodeOptions(window="0,150"))
    for phrase in ("left kidney", "left kidney", "right kidney", "kidneys"):
        model.segment(encoding, PromptSet.of(Grid.of(image), [Text(phrase)]))
    assert model.network.encoded == 2  # type: ignore[attr-defined]


def test_words_that_are_not_offered() -> None:
    model = text_model()
    with pytest.raises(CapabilityError, match=r"was not trained for 'liver'.*left kidney"):
        model.understand("liver")
    with pytest.raises(PromptError, match="xylofon"):
        model.understand("xylofon")
    image = blocks_image()
    with pytest.raises(CapabilityError, match="takes no positive point"):
        model.segment(model.encode(image), PromptSet.of(Grid.of(image), [Point((2, 2, 2), "ijk")]))


def both_sides_model(**search: object) -> TextQueryModel:
    """Offers kidneys without sides: whatever is bright."""

    class Unsided(SidedNetwork):
        def embeddings(self, concepts):
            return torch.zeros(len(concepts), 1)

        @staticmethod
        def draw(masks: Tensor, embeddings: Tensor) -> Tensor:
            return (masks[:, :1] * 4).expand(-1, embeddings.shape[1], -1, -1, -1)

    labels = (Label(1, "kidney", (9, 9, 9)),)
    card = ModelCard("words", "1", "for tests", POSITIVE_PROMPTS, NEGATIVE_PROMPTS, labels=labels)
    settings = SearchSettings({"kidney": 1.0}, {1.0: (32, 32, 32)}, **search)  # type: ignore[arg-type]
    return TextQueryModel(Unsided(), card, settings)  # type: ignore[arg-type]


def bright_boxes(*boxes: tuple[slice, slice, slice]) -> MetaTensor:
    values = torch.zeros(1, 48, 20, 16)
    for box in boxes:
        values[(0, *box)] = 100
    return MetaTensor(values, affine=torch.eye(4, dtype=torch.float64))


def test_a_body_far_from_the_middle_of_the_volume_keeps_its_sides() -> None:
    image = bright_boxes(np.s_[26:32, 4:12, 4:12], np.s_[38:44, 4:12, 4:12])
    left, right = (ask(both_sides_model(), image, f"{side} kidney") for side in ("left", "right"))
    np.testing.assert_array_equal(np.unique(np.argwhere(left.full())[:, 0]), np.arange(26, 32))
    np.testing.assert_array_equal(np.unique(np.argwhere(right.full())[:, 0]), np.arange(38, 44))
    assert left.presence == pytest.approx(1.0, abs=1e-3)


def test_a_side_that_cannot_be_told_is_said(caplog: pytest.LogCaptureFixture) -> None:
    values = torch.zeros(1, 24, 20, 16)
    values[0, 4:18, 4:12, 4:12] = torch.linspace(80, 100, 14)[:, None, None]
    values[0, 4:8, 4:8, 4:8] = 200
    image = MetaTensor(values, affine=torch.eye(4, dtype=torch.float64))
    model = both_sides_model()
    encoding = model.encode(image, EncodeOptions(window="0,150"))
    left = model.segment(encoding, PromptSet.of(Grid.of(image), [Text("left kidney")])).masks[0]
    assert np.array_equal(left.full(), values[0].numpy() > 0)
    assert left.presence == pytest.approx(0.5, abs=1e-3)
    assert "may be of the other side" in caplog.text
    assert any(name == "midline" and value.startswith("unsure") for name, value in encoding.settings)


def test_specks_are_left_out() -> None:
    image = bright_boxes(np.s_[4:14, 4:14, 4:12], np.s_[30:32, 4:6, 4:6])
    assert ask(both_sides_model(), image, "kidney").voxels == 808
    assert ask(both_sides_model(least_part=0.1), image, "kidney").voxels == 800


# ---- the network's grid


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR", "SAL"])
def test_the_network_sees_one_orientation(axcodes: str) -> None:
    image = blocks_image(axcodes, spacing_mm=(1.0, 1.0, 1.0))
    grid = Grid.of(image)
    target = network_grid(grid, 1.0)
    seen = to_network(image, grid, target, IntensityWindow(0, 100))
    assert target.axcodes == "RAS"
    torch.testing.assert_close(seen[0], blocks_image(spacing_mm=(1.0, 1.0, 1.0))[0].as_tensor().float() / 100)


def test_small_voxels_are_averaged() -> None:
    values = torch.arange(64.0).reshape(1, 4, 4, 4)
    grid = Grid((4, 4, 4), np.diag([0.5, 0.5, 0.5, 1.0]))
    seen = to_network(values, grid, network_grid(grid, 1.0), IntensityWindow(0, 10))
    expected = values[0].reshape(2, 2, 2, 2, 2, 2).mean(dim=(1, 3, 5)) / 10
    torch.testing.assert_close(seen[0], expected)


# ---- words, then clicks


def pipeline() -> TextThenClicks:
    return TextThenClicks(text_model(), RegionModel())


def test_the_pipeline_serves_what_its_parts_serve() -> None:
    card = pipeline().card
    assert {"text", "point", "mask"} <= {str(kind) for kind in card.positive}
    assert [label.name for label in card.labels] == ["left kidney", "right kidney", "spleen"]


def test_words_alone_and_clicks_alone() -> None:
    model, image = pipeline(), blocks_image(spacing_mm=(1.0, 1.0, 1.0))
    values = image[0].numpy()
    objects = (
        PromptedObject(1, (Text("left kidney"),)),
        PromptedObject(2, (Point((7, 6, 2), "ijk"),)),
    )
    result = model.segment(model.encode(image, EncodeOptions(window="0,150")), PromptSet(Grid.of(image), objects))
    assert [mask.object_id for mask in result.masks] == [1, 2]
    assert np.array_equal(result.masks[0].full(), values == 100)
    assert np.array_equal(result.masks[1].full(), values == 200)


def test_clicks_correct_what_words_found_and_undo_spans_both() -> None:
    image = blocks_image(spacing_mm=(1.0, 1.0, 1.0))
    values = image[0].numpy()
    with Session(pipeline(), image, EncodeOptions(window="0,150")) as session:
        kidney = session.add_object("left kidney")
        session.add_prompt(kidney, Text("left kidney"))
        words = session.predict().array.copy()
        # The other block is added by a click, then a part of the first is taken away, then words are added.
        session.add_prompt(kidney, Point((7, 6, 2), "ijk"))
        clicked = session.predict().array.copy()
        session.add_prompt(kidney, Point((2, 2, 3), "ijk", positive=False))
        corrected = session.predict().array.copy()
        assert np.array_equal(words > 0, values == 100)
        assert np.array_equal(clicked > 0, values > 0)
        assert np.array_equal(corrected > 0, values == 200)
        session.undo()
        assert np.array_equal(session.predict().array, clicked)
        session.undo()
        assert np.array_equal(session.predict().array, words)
        session.undo()
        assert not session.predict().array.any()


def test_words_can_come_after_clicks() -> None:
    model, image = pipeline(), blocks_image(spacing_mm=(1.0, 1.0, 1.0))
    encoding = model.encode(image, EncodeOptions(window="0,150"))
    said = (Point((7, 6, 2), "ijk"), Text("left kidney"))
    for order in (said, said[::-1]):
        mask = model.segment(encoding, PromptSet.of(Grid.of(image), order)).masks[0]
        assert np.array_equal(mask.full(), image[0].numpy() > 0)


def test_a_click_changes_nothing_far_away() -> None:
    """The other model redraws everything; only what a click touches, and within its reach, is taken over."""
    image = blocks_image(spacing_mm=(1.0, 1.0, 1.0))

    class Redraws(RegionModel):
        def _segment(self, encoding, prompts, **kwargs):
            everything = np.ones(encoding.grid.shape, dtype=bool)
            return tuple(
                type(mask).of(mask.object_id, mask.grid, everything)
                for mask in super()._segment(encoding, prompts, **kwargs)
            )

    model = TextThenClicks(text_model(), Redraws())
    wide = blocks_image(spacing_mm=(10.0, 10.0, 10.0))
    encoding = model.encode(wide, EncodeOptions(window="0,150"))
    said = [Text("left kidney"), Point((5, 5, 5), "ijk")]
    before = model.segment(encoding, PromptSet.of(Grid.of(wide), said[:1])).masks[0].full()
    after = model.segment(encoding, PromptSet.of(Grid.of(wide), said)).masks[0].full()
    changed = np.argwhere(before != after)
    assert np.abs(changed - (5, 5, 5)).max() <= 1
    assert after[5, 5, 5]
    # A box speaks of the whole object.
    boxed = model.segment(encoding, PromptSet.of(Grid.of(wide), [*said, Box((0, 0, 0), (11, 9, 7), "ijk")])).masks[0]
    assert boxed.full().all()
    assert image.shape == wide.shape


def test_scaled_intensities_are_taken_for_mr() -> None:
    """A CT's would show by their numbers; of anything else that an image or a person says, nothing is made."""
    scaled = blocks_image()
    scaled.meta.pop("modality", None)
    scaled = scaled / 1000

    def told(image: MetaTensor, options: EncodeOptions | None = None) -> Modality:
        return text_model().encode(image, options).search.modality

    assert told(scaled) is Modality.MR
    assert told(scaled, EncodeOptions(modality=Modality.OTHER)) is Modality.OTHER
    scaled.meta["modality"] = "PT"
    assert told(scaled) is Modality.OTHER


def test_an_image_of_another_modality_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = text_model()
    for_mr = TextQueryModel(model.network, replace(model.card, modalities=frozenset({Modality.MR})), model.search)
    with caplog.at_level("WARNING"):
        for_mr.encode(blocks_image(), EncodeOptions(modality=Modality.MR))
        assert caplog.messages == []
        for_mr.encode(blocks_image(), EncodeOptions(modality=Modality.CT))
    assert "made for MR" in caplog.text
    assert "CT (stated by the user)" in caplog.text
    with caplog.at_level("WARNING"):
        for_mr.encode(blocks_image(), EncodeOptions(modality=Modality.OTHER))
    assert "is not known (stated by the user)" in caplog.text


def test_where_a_whole_is_its_parts_are_what_is_drawn_of_them() -> None:
    search = SearchSettings(
        dict.fromkeys(CONCEPTS, 1.0),
        {1.0: (32, 32, 32)},
        overlap=0.0,
        whole={"kidney_left": "kidney_right", "spleen": "kidney_right"},
    )

    class Doubting(SidedNetwork):
        """Sure of the right kidney alone."""

        def answers(self, features, queries, modality, spacing_mm):
            which = queries[..., 0].expand(len(features.tokens), -1)
            return which[..., None], torch.where(which == 1, 2.0, -9.0)

    model = TextQueryModel(Doubting(), text_model().card, search)  # type: ignore[arg-type]
    image = blocks_image(spacing_mm=(1.0, 1.0, 1.0))
    whole, drawn, not_drawn = (ask(model, image, phrase) for phrase in ("right kidney", "left kidney", "spleen"))
    assert drawn.presence == whole.presence == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert np.array_equal(drawn.full(), image[0].numpy() == 100)
    assert (not_drawn.presence, not_drawn.voxels) == (0.0, 0)


def test_windows_shrink_to_small_images_but_not_below_what_was_trained() -> None:
    seen = []

    class Seeing(SidedNetwork):
        def encode(self, windows: Tensor, spacing_mm: float) -> WindowFeatures:
            seen.append(tuple(windows.shape[2:]))
            return super().encode(windows, spacing_mm)

    plain = text_model()
    image = blocks_image(spacing_mm=(1.0, 1.0, 1.0))
    needed = tuple(max(8, -(-n // 4) * 4) for n in Grid.of(image).reoriented("RAS").shape)
    masks = []
    cases: tuple[tuple[dict[float, tuple[int, int, int]], tuple[int, ...]], ...]
    cases = (({}, needed), ({1.0: (8, 24, 8)}, (needed[0], 24, needed[2])), ({1.0: (64, 64, 64)}, (32, 32, 32)))
    for least, wanted in cases:
        model = TextQueryModel(Seeing(), plain.card, replace(plain.search, least=least))  # type: ignore[arg-type]
        masks.append(ask(model, image, "right kidney").full())
        assert set(seen) == {wanted}
        seen.clear()
    assert all(np.array_equal(one, image[0].numpy() == 200) for one in masks[:2])


def test_parts_are_not_looked_for_where_their_whole_is_not() -> None:
    model = text_model()
    search = SearchSettings(
        {"spleen": 2.0, "kidney_left": 1.0, "kidney_right": 1.0},
        {1.0: (32, 32, 32), 2.0: (32, 32, 32)},
        overlap=0.0,
        whole={"kidney_left": "spleen"},
    )
    spacings = []

    class Seeing(SidedNetwork):
        def encode(self, windows: Tensor, spacing_mm: float) -> WindowFeatures:
            spacings.append(spacing_mm)
            return super().encode(windows, spacing_mm)

    model = TextQueryModel(Seeing(), model.card, search)  # type: ignore[arg-type]
    image = blocks_image()
    assert ask(model, image, "right kidney").voxels > 0
    assert spacings == [1.0]
    mask = ask(model, image, "left kidney")
    assert mask.voxels == 0
    assert mask.presence is not None
    assert mask.presence < 0.01
    assert spacings == [1.0, 2.0], "the left kidney was not looked for"
    with pytest.raises(ModelError, match="no part has parts"):
        SearchSettings({"spleen": 1.0}, {1.0: (8, 8, 8)}, whole={"kidney_left": "spleen"})
