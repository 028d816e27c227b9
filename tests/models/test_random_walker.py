"""The random walker on phantoms whose answer is known, and on one real volume in four orientations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.errors import CapabilityError, PromptError
from volseg.geometry import Frame, Grid
from volseg.models.options import EncodeOptions
from volseg.models.registry import list_models, load_model
from volseg.prompts import Box, Lasso, MaskPrompt, Point, Prompt, PromptKind, PromptSet, Scribble, Text

GRID = Grid((48, 40, 26), np.array([[-1.0, 0, 0, 30], [0, -1.0, 0, 20], [0, 0, 2.0, -26], [0, 0, 0, 1]]))
CENTRE_IJK = np.array([25.0, 18.0, 12.0])
RADIUS_MM = 9.0


def ball(grid: Grid) -> NDArray[np.bool_]:
    """Voxels whose centres lie within the radius of the ball's centre, by definition."""
    centre_mm = GRID.to_ras_mm(CENTRE_IJK)
    positions = grid.to_ras_mm(np.stack(np.indices(grid.shape), axis=-1))
    return np.linalg.norm(positions - centre_mm, axis=-1) <= RADIUS_MM


def phantom(grid: Grid = GRID):
    from monai.data import MetaTensor

    noise = np.random.default_rng(3).normal(0, 12, grid.shape)
    image = np.where(ball(grid), 140.0, 20.0) + noise
    return MetaTensor(image[None].astype(np.float32), affine=grid.affine_ras)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def segment(image, *prompts: Prompt) -> ObjectMask:
    model = load_model("random-walker")
    encoding = model.encode(image, EncodeOptions(window="-50,250"))
    return model.segment(encoding, PromptSet.of(Grid.of(image), prompts)).masks[0]


def around(offset: tuple[float, float, float]) -> tuple[float, float, float]:
    i, j, k = CENTRE_IJK + offset
    return float(i), float(j), float(k)


SLICE_12 = np.zeros(GRID.shape, dtype=bool)
SLICE_12[:, :, 12] = ball(GRID)[:, :, 12]

CASES = {
    "point": [Point(around((2, 1, 1)), Frame.IJK)],
    "box_3d": [Box(around((-10, -9, -5)), around((9, 10, 5)), Frame.IJK)],
    "box_2d": [Box(around((-10, -9, 0)), around((9, 10, 0)), Frame.IJK)],
    "scribble": [Scribble((around((-4, 0, 0)), around((4, 2, 1))), Frame.IJK, radius_mm=1)],
    "lasso": [
        Lasso(tuple(around((8 * np.cos(a), 8 * np.sin(a), 0)) for a in np.linspace(0, 6, 12)), Frame.IJK),
    ],
    "mask": [MaskPrompt(SLICE_12, GRID)],
}


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_prompt_finds_the_ball(name: str) -> None:
    assert {prompt.kind for prompt in CASES[name]} == {PromptKind(name)}
    assert dice(segment(phantom(), *CASES[name]).full(), ball(GRID)) > 0.9


def test_a_negative_scribble_takes_voxels_away() -> None:
    box = CASES["box_3d"][0]
    line = (around((-8, 6, 0)), around((8, 6, 0)))
    without = segment(phantom(), box).full()
    negative = Scribble(line, Frame.IJK, positive=False)
    with_scribble = segment(phantom(), box, negative).full()
    on_line = tuple(negative.voxels_ijk(GRID).T)
    assert without[on_line].sum() >= 8
    assert with_scribble[on_line].sum() == 0


def test_the_answer_does_not_depend_on_the_file_orientation() -> None:
    reference = segment(phantom(), CASES["box_3d"][0])
    for axcodes in ("RAS", "LPS", "PIR", "SAR"):
        grid = GRID.reoriented(axcodes)
        image = phantom()
        matrix = GRID.reorientation(axcodes)
        index = np.stack(np.indices(grid.shape), axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]
        values = image.numpy()[0][tuple(np.moveaxis(index.astype(int), -1, 0))]
        from monai.data import MetaTensor

        stored = MetaTensor(values[None].copy(), affine=grid.affine_ras)
        prompt = PromptSet.of(GRID, CASES["box_3d"]).on_grid(grid).objects[0].prompts[0]
        found = segment(stored, prompt)
        assert dice(found.full(), reference.full()[tuple(np.moveaxis(index.astype(int), -1, 0))]) > 0.999


def test_only_negative_prompts_and_words_are_refused() -> None:
    with pytest.raises(PromptError, match="only negative prompts"):
        segment(phantom(), Point(around((0, 0, 0)), Frame.IJK, positive=False))
    with pytest.raises(CapabilityError, match=r"prompt 1 \(text\) of object 1.*takes no positive text"):
        segment(phantom(), Text("liver"))


@pytest.mark.filterwarnings("error:invalid value")
@pytest.mark.parametrize("name", ["point", "box_3d"])
def test_where_all_is_alike_the_answer_lies_around_what_was_said(name: str) -> None:
    from monai.data import MetaTensor

    dark = MetaTensor(np.full((1, *GRID.shape), -50, np.float32), affine=GRID.affine_ras)
    found = segment(dark, *CASES[name]).full()
    assert 0 < found.sum() < found.size / 4
    middle = np.argwhere(found).mean(axis=0)
    assert np.abs(middle - CENTRE_IJK).max() < 3


def test_an_image_of_one_slice() -> None:
    from monai.data import MetaTensor

    grid = GRID.cropped((0, 0, 12), (48, 40, 1))
    image = MetaTensor(np.ascontiguousarray(phantom().numpy()[..., 12:13]), affine=grid.affine_ras)
    x, y, _ = CENTRE_IJK
    found = segment(image, Box((x - 10, y - 9, 0), (x + 9, y + 10, 0), Frame.IJK)).full()
    assert dice(found, ball(grid)) > 0.9


def test_a_real_sarcoma_from_a_box_and_a_click(shared_data: Path) -> None:
    from scipy.ndimage import distance_transform_edt

    from volseg.data import read_image

    folder = shared_data / "sts" / "STS_005"
    image = read_image(folder / "CT_image.nii.gz")
    label = read_image(folder / "CT_mask.nii.gz").numpy()[0] > 0
    voxels = np.argwhere(label)
    box = Box(tuple(voxels.min(axis=0)), tuple(voxels.max(axis=0)), Frame.IJK)
    deepest = np.unravel_index(distance_transform_edt(label).argmax(), label.shape)
    click = Point((float(deepest[0]), float(deepest[1]), float(deepest[2])), Frame.IJK)
    model = load_model("random-walker")
    found = model.segment(model.encode(image), PromptSet.of(Grid.of(image), [box, click])).masks[0]
    assert dice(found.full(), label) > 0.7


def test_the_registry_lists_what_it_loads() -> None:
    for card in list_models():
        assert load_model(card.name).card == card
