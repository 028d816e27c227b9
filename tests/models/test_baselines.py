"""Baselines through the model contract."""

from __future__ import annotations

import numpy as np
import pytest
from region_model import blocks_image

from volseg.errors import CapabilityError, ModelError
from volseg.geometry import Frame, Grid, all_orientations
from volseg.models.baselines import BASELINES, is_mobilesam
from volseg.models.registry import load_model
from volseg.prompts import Box, Point, PromptSet

SHAPE, SPACING_MM = (30, 34, 20), (1.0, 1.0, 2.0)


def _image(values, axcodes="RAS"):
    import torch
    from monai.data import MetaTensor

    grid = Grid(values.shape, np.diag([*SPACING_MM, 1.0]))
    matrix = grid.reorientation(axcodes)
    order = np.abs(matrix[:3, :3]).argmax(axis=0)
    flips = tuple(axis for axis in range(3) if matrix[order[axis], axis] < 0)
    stored = np.ascontiguousarray(np.flip(values.transpose(order), flips))
    return MetaTensor(
        torch.from_numpy(stored)[None], affine=torch.from_numpy(grid.reoriented(axcodes).affine_ras.copy())
    )


def _ball():
    rng = np.random.default_rng(0)
    i, j, k = np.indices(SHAPE)
    inside = (i - 14) ** 2 + (j - 17) ** 2 + (2 * (k - 10)) ** 2 <= 10**2
    return inside, (inside * 100 + rng.normal(0, 4, SHAPE)).astype(np.float32)


def _ask(model, image, *prompts):
    grid = Grid.of(image)
    with model.encode(image) as encoding:
        return model.segment(encoding, PromptSet.of(grid, prompts)).masks[0].full()


def _dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_the_ellipse_is_copied_and_the_ellipsoid_is_a_ball():
    truth, values = _ball()
    image = _image(values)
    flat, body = Box((4, 7, 10), (24, 27, 10), Frame.IJK), Box((4, 7, 5), (24, 27, 15), Frame.IJK)
    copied = _ask(load_model("ellipse"), image, flat)
    np.testing.assert_array_equal(copied.any(axis=(0, 1)), np.ones(20, dtype=bool))
    i, j = np.indices(SHAPE[:2])
    np.testing.assert_array_equal(copied[..., 3], (i - 14) ** 2 + (j - 17) ** 2 <= 10.5**2)
    limited = _ask(load_model("ellipse"), image, body)
    assert np.flatnonzero(limited.any(axis=(0, 1))).tolist() == list(range(5, 16))
    # The box reaches to the outer faces of its voxels: 21 x 21 mm, and 11 slices where it is 3D.
    k = np.arange(20)
    for box, half_slices in ((flat, 10.5 / SPACING_MM[2]), (body, 5.5)):
        filled = _ask(load_model("ellipsoid"), image, box)
        within = ((i - 14) ** 2 + (j - 17) ** 2)[..., None] / 10.5**2 + ((k - 10) / half_slices) ** 2 <= 1
        np.testing.assert_array_equal(filled, within)
        assert _dice(filled, truth) > 0.85


@pytest.mark.parametrize("name", BASELINES)
def test_every_orientation_gives_the_same_tissue(name):
    _, values = _ball()
    found = []
    for axcodes in ("RAS", "LPS", "PIR", *list(all_orientations())[7::17]):
        image = _image(values, axcodes)
        box = Box((4, 7, 20), (24, 27, 20), Frame.RAS)
        mask = _ask(load_model(name), image, box)
        grid = Grid.of(image)
        found.append((mask.sum(), grid.to_ras_mm(np.argwhere(mask)).mean(axis=0)))
    for voxels, centre in found[1:]:
        assert voxels == found[0][0]
        np.testing.assert_allclose(centre, found[0][1], atol=1e-6)


def test_region_growing_finds_the_ball_and_stays_out_of_what_is_negative():
    truth, values = _ball()
    model = load_model("region-growing")
    assert _dice(_ask(model, _image(values), Point((14, 17, 10), Frame.IJK)), truth) > 0.95
    cut = _ask(model, _image(values), Point((14, 17, 10), Frame.IJK), Point((20, 17, 10), Frame.IJK, False))
    assert cut[14, 17, 10]
    assert not cut[18:23, 17, 10].any()


def test_a_baseline_takes_only_what_it_serves():
    image = blocks_image()
    with pytest.raises(CapabilityError, match="ellipse takes no positive point"):
        _ask(load_model("ellipse"), image, Point((2, 2, 3), Frame.IJK))


def test_a_folder_of_weights_that_cannot_be_read(tmp_path):
    pytest.importorskip("onnxruntime")
    assert not is_mobilesam(tmp_path)
    for file in ("encoder.onnx", "sam.onnx"):
        (tmp_path / file).write_bytes(b"no network")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path)


@pytest.mark.accept
@pytest.mark.shared
def test_mobilesam_finds_the_ball(shared_data):
    folder = shared_data.parent / "weights" / "mobilesam_onnx"
    pytest.importorskip("onnxruntime")
    truth, values = _ball()
    model = load_model(folder)
    assert model.card.name == "mobilesam"
    image = _image(values)
    # Beyond the ball is nothing but noise, and what it finds there depends on how the processor rounds.
    found = _ask(model, image, Box((4, 7, 10), (24, 27, 10), Frame.IJK))
    assert _dice(found[..., 6:15], truth[..., 6:15]) > 0.95
    assert not _ask(model, image, Box((4, 7, 8), (24, 27, 12), Frame.IJK))[..., :8].any()


@pytest.mark.accept
@pytest.mark.shared
def test_mobilesam_is_not_asked_the_same_twice(shared_data, monkeypatch):
    pytest.importorskip("onnxruntime")
    model = load_model(shared_data.parent / "weights" / "mobilesam_onnx")
    image = _image(_ball()[1])
    grid = Grid.of(image)
    box, click = Box((4, 7, 10), (24, 27, 10), Frame.IJK), Point((14, 17, 13), Frame.IJK)
    asked = []
    run = model._decoder.run
    monkeypatch.setattr(model, "_decoder", type("Counted", (), {"run": lambda _, *a: (asked.append(1), run(*a))[1]})())
    with model.encode(image) as encoding:
        model.segment(encoding, PromptSet.of(grid, [box]))
        first = len(asked)
        again = model.segment(encoding, PromptSet.of(grid, [box, click])).masks[0].full()
    assert 0 < len(asked) - first < first
    np.testing.assert_array_equal(again, _ask(model, image, box, click))
