"""The picture: same for every orientation, right side on the left, objects in their colours."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
from matplotlib.image import imread
from region_model import blocks_image

from volseg.data.labelmap import Label, LabelMap
from volseg.errors import GeometryError
from volseg.geometry import Frame, Grid
from volseg.overlay import MAX_ROWS, draw_overlay
from volseg.overlay.display import PANELS, to_display
from volseg.prompts import Box, Lasso, MaskPrompt, Point, PromptSet, Scribble

RED, BLUE = (255, 0, 0), (0, 0, 255)


def labels_of(image):
    values = image[0].numpy()
    layer = np.where(values == 100, 1, np.where(values == 200, 2, 0)).astype(np.uint8)
    return LabelMap(Grid.of(image), (layer,), (Label(1, "right", RED), Label(2, "left", BLUE)))


def prompts():
    grid = Grid.of(blocks_image())
    mask = np.zeros(grid.shape, dtype=bool)
    mask[2:3, 2:4, 2:5] = True
    said = [
        Point((2, 2, 3), Frame.IJK),
        Point((5, 5, 5), Frame.IJK, positive=False),
        Box((0, 0, 1), (5, 6, 6), Frame.IJK),
        Scribble(((1, 1, 3), (3, 4, 3)), Frame.IJK),
        Lasso(((1, 1, 3), (3, 1, 3), (3, 4, 3)), Frame.IJK),
        MaskPrompt(mask, grid),
    ]
    return PromptSet.of(grid, said, "right")


def pixels(png):
    return imread(io.BytesIO(png), format="png")


@pytest.mark.parametrize("axcodes", ["LPS", "PIR", "SAR", "IAL"])
def test_the_same_picture_for_every_orientation(axcodes):
    reference, other = blocks_image(), blocks_image(axcodes)
    first = draw_overlay(reference, labels_of(reference), prompts(), window="0,200")
    second = draw_overlay(other, labels_of(other), prompts(), window="0,200")
    difference = np.abs(pixels(first) - pixels(second)).max(axis=2)
    # Positions go through another affine, so anti-aliased lines may differ in their last bit.
    assert (difference > 0.05).mean() < 1e-4


def test_display_order_is_left_posterior_inferior():
    image = blocks_image("SAR")
    volume = to_display(image[0].numpy(), Grid.of(image))
    assert volume.shape == (12, 10, 8)
    # In RAS the block of 100 begins at i 1, j 1, k 2; the display runs the other way on all axes.
    np.testing.assert_array_equal(np.argwhere(volume == 100).max(axis=0), (11 - 1, 9 - 1, 7 - 2))
    axial, coronal, sagittal = PANELS
    assert axial.slice_of(volume, 0).shape == (10, 12)
    assert coronal.slice_of(volume, 0).shape == (8, 12)
    assert sagittal.slice_of(volume, 0).shape == (8, 10)
    assert np.shares_memory(volume, image[0].numpy())


def test_the_patients_right_is_on_the_left_and_sizes_are_in_mm():
    """The object at the patient's right (small R) appears right of the middle only in a flipped picture."""
    image = blocks_image(spacing_mm=(4.0, 4.0, 12.0))
    picture = pixels(draw_overlay(image, labels_of(image), window="0,400"))
    rows, columns = picture.shape[:2]
    axial = picture[: rows // 2, : columns // 3, :3]
    reddish = (axial[..., 0] > axial[..., 1] + 0.15) & (axial[..., 0] > axial[..., 2] + 0.15)
    bluish = (axial[..., 2] > axial[..., 1] + 0.05) & (axial[..., 2] > axial[..., 0] + 0.05)
    reddish[:40], bluish[:40] = False, False  # the title
    # The red block has the smaller RAS x, so it lies further left in the patient: on the right of the picture.
    assert np.argwhere(reddish)[:, 1].mean() > np.argwhere(bluish)[:, 1].mean()
    # And the smaller y: posterior, at the bottom.
    assert np.argwhere(reddish)[:, 0].mean() > np.argwhere(bluish)[:, 0].mean()
    height, width = np.ptp(np.argwhere(reddish), axis=0) + 1
    assert width / height == pytest.approx((3 * 4) / (4 * 4), rel=0.1)


def test_slices_thicker_than_wide_are_drawn_thick():
    image = blocks_image(spacing_mm=(4.0, 4.0, 12.0))
    picture = pixels(draw_overlay(image, labels_of(image), window="0,400"))
    rows, columns = picture.shape[:2]
    coronal = picture[40 : rows // 2, columns // 3 : 2 * columns // 3, :3]
    reddish = (coronal[..., 0] > coronal[..., 1] + 0.15) & (coronal[..., 0] > coronal[..., 2] + 0.15)
    height, width = np.ptp(np.argwhere(reddish), axis=0) + 1
    assert width / height == pytest.approx((3 * 4) / (4 * 12), rel=0.15)


def test_an_empty_object_and_no_object_are_drawn_too():
    image = blocks_image()
    empty = LabelMap(Grid.of(image), (np.zeros(image.shape[1:], np.uint8),), (Label(1, "absent", RED, presence=0.01),))
    assert draw_overlay(image, empty, prompts()).startswith(b"\x89PNG")
    nothing = LabelMap(Grid.of(image), (np.zeros(image.shape[1:], np.uint8),), ())
    assert draw_overlay(image, nothing).startswith(b"\x89PNG")


def test_many_objects_are_cut_off_with_a_word(caplog):
    image = blocks_image()
    count = MAX_ROWS + 5
    layer = np.zeros(image.shape[1:], np.uint8)
    layer.reshape(-1)[:count] = np.arange(1, count + 1)
    labels = tuple(Label(value, f"n{value}", RED) for value in range(1, count + 1))
    with caplog.at_level(logging.WARNING):
        picture = pixels(draw_overlay(image, LabelMap(Grid.of(image), (layer,), labels), window="0,200"))
    assert picture.shape[0] < 5000
    assert "5 more are not drawn" in caplog.text


def test_overlapping_layers_are_drawn():
    image = blocks_image()
    one = (image[0].numpy() == 100).astype(np.uint8)
    labelmap = LabelMap(Grid.of(image), (one, one * 2), (Label(1, "a", RED), Label(2, "b", BLUE, layer=1)))
    assert draw_overlay(image, labelmap).startswith(b"\x89PNG")


def test_another_grid_is_refused():
    with pytest.raises(GeometryError, match="one grid"):
        draw_overlay(blocks_image(), labels_of(blocks_image("LPS")))


def test_no_figure_is_left_behind():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    draw_overlay(blocks_image(), labels_of(blocks_image()))
    assert pyplot.get_fignums() == before
