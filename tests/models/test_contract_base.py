"""What every model inherits: prompts are checked, named when refused, and never dropped."""

from __future__ import annotations

import numpy as np
import pytest
from grid_strategies import CUBIC, OBLIQUE
from monai.data import MetaTensor

from volseg.data.object_mask import ObjectMask
from volseg.errors import Cancelled, CapabilityError, PromptError
from volseg.geometry import Frame, Grid
from volseg.models.base import Encoding, Model
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.progress import report
from volseg.prompts import Box, MaskPrompt, Point, Prompt, PromptedObject, PromptKind, PromptSet, Text

POINT = Point((2, 3, 4), Frame.IJK)


class PromptEcho(Model):
    """Returns the voxels of the positive prompts, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[PromptSet] = []
        self.exact: list[bool] = []

    @property
    def card(self) -> ModelCard:
        return ModelCard(
            "echo",
            "1",
            "Returns its prompts.",
            positive=frozenset({PromptKind.POINT, PromptKind.BOX_3D, PromptKind.MASK}),
            negative=frozenset({PromptKind.POINT}),
        )

    def encode(self, image, options=None, progress=None) -> Encoding:
        return Encoding(image, options or EncodeOptions())

    def _segment(self, encoding, prompts, *, exact, progress, partial) -> tuple[ObjectMask, ...]:
        self.asked.append(prompts)
        self.exact.append(exact)
        masks = []
        for number, item in enumerate(prompts.objects):
            report(progress, number / len(prompts.objects), f"echoing {item.title}")
            full = np.zeros(encoding.grid.shape, dtype=bool)
            for prompt in item.prompts:
                if prompt.positive:
                    full[tuple(prompt.voxels_ijk(encoding.grid).T)] = True
            masks.append(ObjectMask.of(item.object_id, encoding.grid, full))
            if partial is not None:
                partial(masks[-1])
        return tuple(masks)


def image_on(grid: Grid, dtype: type = np.float32) -> MetaTensor:
    values = np.arange(np.prod(grid.shape)).reshape(1, *grid.shape).astype(dtype)
    return MetaTensor(values, affine=grid.affine_ras)


@pytest.fixture
def model() -> PromptEcho:
    return PromptEcho()


def test_prompts_arrive_on_the_images_grid(model: PromptEcho) -> None:
    turned = OBLIQUE.reoriented("PIR")
    prompts = PromptSet(OBLIQUE, (PromptedObject(4, (POINT,)), PromptedObject(2, (Point((5, 1, 1), Frame.IJK),))))
    with model.encode(image_on(turned)) as encoding:
        result = model.segment(encoding, prompts)
    assert [mask.object_id for mask in result.masks] == [4, 2]
    assert len(result.seconds) == 2
    assert min(result.seconds) >= 0
    for mask, ijk in zip(result.masks, [(2, 3, 4), (5, 1, 1)], strict=True):
        assert mask.grid.same_as(turned)
        assert mask.voxels == 1
        np.testing.assert_allclose(mask.centroid_ras_mm(), OBLIQUE.to_ras_mm(ijk), atol=1e-4)
    assert all(prompt.frame is Frame.IJK for item in model.asked[0].objects for prompt in item.prompts)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (
            Box((1, 1, 1), (3, 3, 1), Frame.IJK),
            "model echo takes no positive box_2d; its positive prompts are: box_3d,",
        ),
        (Text("liver"), "model echo takes no positive text; its positive prompts are: box_3d, mask, point"),
        (
            Box((1, 1, 1), (3, 3, 3), Frame.IJK, positive=False),
            "model echo takes no negative box_3d; its negative prompts are: point",
        ),
    ],
)
def test_a_kind_the_model_does_not_serve_is_refused_by_name(model: PromptEcho, prompt: Prompt, message: str) -> None:
    prompts = PromptSet(CUBIC, (PromptedObject(1, (POINT,)), PromptedObject(2, (POINT, prompt), "spleen")))
    with pytest.raises(CapabilityError) as error:
        model.segment(model.encode(image_on(CUBIC)), prompts)
    assert f"prompt 2 ({prompt.kind}) of spleen: {message}" in str(error.value)
    assert model.asked == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_prompts_on_values_that_are_not_finite_are_refused_by_name(model: PromptEcho, value: float) -> None:
    image = image_on(CUBIC)
    image[0, 2, 3, 4] = value
    prompts = PromptSet.of(CUBIC, [Point((1, 1, 1), Frame.IJK), POINT], "spleen")
    with pytest.raises(PromptError, match=r"prompt 2 \(point\) of spleen: lies on image values that are not finite"):
        model.segment(model.encode(image), prompts)
    assert model.asked == []
    # A box that also holds good values says enough.
    model.segment(model.encode(image), PromptSet.of(CUBIC, [Box((1, 1, 1), (4, 4, 4), Frame.IJK)]))


def test_whole_number_images_need_no_check(model: PromptEcho) -> None:
    result = model.segment(model.encode(image_on(CUBIC, np.int16)), PromptSet.of(CUBIC, [POINT]))
    assert result.masks[0].voxels == 1


@pytest.mark.parametrize("position", [(-1, 0, 0), (0, 0, 6), (1e6, 0, 0)])
def test_prompts_outside_are_refused_by_name(model: PromptEcho, position: tuple[float, float, float]) -> None:
    prompts = PromptSet.of(CUBIC, [POINT, Point(position, Frame.IJK)])
    with pytest.raises(PromptError, match=r"prompt 2 \(point\) of object 1: lies outside the volume of 8x7x6 voxels"):
        model.segment(model.encode(image_on(CUBIC)), prompts)
    assert model.asked == []


def test_an_object_without_prompts_is_refused(model: PromptEcho) -> None:
    prompts = PromptSet(CUBIC, (PromptedObject(1, (POINT,)), PromptedObject(2, (), "spleen")))
    with pytest.raises(PromptError, match="spleen has no prompt; give it at least one"):
        model.segment(model.encode(image_on(CUBIC)), prompts)


def test_progress_runs_from_nothing_to_done_and_can_cancel(model: PromptEcho) -> None:
    seen: list[float] = []
    prompts = PromptSet(CUBIC, (PromptedObject(1, (POINT,)), PromptedObject(2, (POINT,), "spleen")))
    model.segment(model.encode(image_on(CUBIC)), prompts, progress=lambda part, text: seen.append(part))
    assert seen[0] == 0
    assert seen[-1] == 1
    assert seen == sorted(seen)

    def stop_at_spleen(part: float, text: str) -> bool:
        return "spleen" not in text

    with pytest.raises(Cancelled, match="cancelled while echoing spleen"):
        model.segment(model.encode(image_on(CUBIC)), prompts, progress=stop_at_spleen)


def test_previews_and_exactness_reach_the_model(model: PromptEcho) -> None:
    previews: list[ObjectMask] = []
    prompts = PromptSet.of(CUBIC, [MaskPrompt(np.ones(CUBIC.shape, dtype=bool), CUBIC)])
    result = model.segment(model.encode(image_on(CUBIC)), prompts, exact=True, partial=previews.append)
    assert previews == list(result.masks)
    assert model.exact == [True]
    assert result.masks[0].voxels == 8 * 7 * 6


def test_the_image_is_not_changed(model: PromptEcho) -> None:
    image = image_on(CUBIC)
    before = image.clone()
    model.segment(model.encode(image), PromptSet.of(CUBIC, [POINT]))
    assert (image == before).all()
