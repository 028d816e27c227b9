"""What every transform promises, whichever it is."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, Invertd, InvertibleTransform, MapTransform
from monai.transforms.traits import LazyTrait
from scipy.ndimage import binary_erosion
from transform_phantom import prompts_on, stored

import volseg.transforms
from volseg.errors import GeometryError, VolsegError
from volseg.geometry import Frame, Grid
from volseg.prompts import Point, PromptedObject, PromptSet
from volseg.transforms import (
    AutoWindowd,
    CropAroundPromptsd,
    PercentileScaled,
    ReorientWithPromptsd,
    ResampleWithPromptsd,
    WindowIntensityd,
    replay,
)

SPATIAL_KEYS = {"keys": "image", "label_keys": "label", "prompts_key": "prompts"}
TRANSFORMS: dict[str, dict[str, Any]] = {
    "AutoWindowd": {"keys": "image"},
    "CropAroundPromptsd": {**SPATIAL_KEYS, "margin_mm": 3.0},
    "PercentileScaled": {"keys": "image"},
    "ReorientWithPromptsd": {**SPATIAL_KEYS, "axcodes": "PIR"},
    "ResampleWithPromptsd": {**SPATIAL_KEYS, "spacing_mm": 1.2},
    "WindowIntensityd": {"keys": "image", "window": "bone"},
}
"""Every transform with settings that change the phantom."""
INTENSITY = {"AutoWindowd", "PercentileScaled", "WindowIntensityd"}
EXACT = {*INTENSITY, "ReorientWithPromptsd"}
"""Those whose inverse gives every value back."""


def make(name: str, **changes: Any) -> Any:
    return getattr(volseg.transforms, name)(**{**TRANSFORMS[name], **changes})


def sample(axcodes: str = "LPS", as_text: bool = False) -> dict[str, Any]:
    image, label = stored(axcodes)
    prompts = prompts_on(Grid.of(image))
    return {"image": image, "label": label, "prompts": prompts.dumps() if as_text else prompts, "name": "case 1"}


def text_of(prompts: PromptSet | str) -> str:
    return prompts if isinstance(prompts, str) else prompts.dumps()


def assert_same_image(found: MetaTensor, expected: MetaTensor) -> None:
    assert found.dtype == expected.dtype
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    assert torch.equal(found.affine, expected.affine)


def every(*names: str) -> Callable[..., Any]:
    return pytest.mark.parametrize("name", sorted(names or TRANSFORMS))


def test_the_list_is_complete() -> None:
    values = {name: getattr(volseg.transforms, name) for name in volseg.transforms.__all__}
    exported = {name for name, kind in values.items() if isinstance(kind, type) and issubclass(kind, MapTransform)}
    assert exported == set(TRANSFORMS)
    assert {name for name in volseg.transforms.__all__ if name.endswith("d") and name[0].isupper()} == exported


@every()
def test_it_is_monai_s_kind_of_transform(name: str) -> None:
    transform = make(name)
    assert isinstance(transform, MapTransform)
    assert isinstance(transform, InvertibleTransform)
    assert not isinstance(transform, LazyTrait)
    assert type(transform).__doc__


@every()
@pytest.mark.parametrize("as_text", [False, True], ids=["prompt set", "json"])
def test_what_was_given_is_left_alone(name: str, as_text: bool) -> None:
    data = sample(as_text=as_text)
    kept = copy.deepcopy({key: data[key] for key in ("image", "label")})
    prompts, entries = text_of(data["prompts"]), dict(data)
    transform = make(name)
    result = transform(data)
    forward = copy.deepcopy({key: result[key] for key in ("image", "label")})
    transform.inverse(result)
    for before, after in ((kept, data), (forward, result)):
        for key, image in before.items():
            assert_same_image(after[key], image)
            assert after[key].meta.keys() == image.meta.keys()
            assert len(after[key].applied_operations) == len(image.applied_operations)
    assert all(data[key] is entries[key] for key in entries)
    assert data.keys() == entries.keys()
    assert text_of(data["prompts"]) == prompts


@every()
@pytest.mark.parametrize("as_text", [False, True], ids=["prompt set", "json"])
@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "AIL", "SAR"])
def test_the_inverse_restores(name: str, as_text: bool, axcodes: str) -> None:
    data, transform = sample(axcodes, as_text), make(name)
    result = transform(data)
    assert not torch.equal(result["image"], data["image"]) if result["image"].shape == data["image"].shape else True
    assert type(result["prompts"]) is type(data["prompts"])
    back = transform.inverse(result)
    for key in ("image", "label"):
        assert back[key].applied_operations == []
        assert back[key].shape == data[key].shape
        assert torch.equal(back[key].affine, data[key].affine)
        assert back[key].meta.keys() == data[key].meta.keys()
        if name in EXACT:
            assert_same_image(back[key], data[key])
    assert back["label"].dtype == data["label"].dtype
    assert text_of(back["prompts"]) == text_of(data["prompts"])
    assert back["prompts"] is data["prompts"]
    assert back["name"] == "case 1"


@every()
def test_the_same_again_and_the_replayed_history_are_identical(name: str) -> None:
    data, transform = sample(), make(name)
    first = transform(data)
    for key in ("image", "label"):
        assert_same_image(transform(data)[key], first[key])
        assert_same_image(make(name)(data)[key], first[key])
        replayed = replay(data[key], first[key].applied_operations)
        assert_same_image(replayed, first[key])
        assert len(replayed.applied_operations) == len(first[key].applied_operations)
    (operation,) = first["image"].applied_operations
    assert (operation["class"], operation["id"]) == (name, id(transform))


def pipeline() -> Compose:
    return Compose(
        [
            ReorientWithPromptsd(**SPATIAL_KEYS, axcodes="RAS"),
            CropAroundPromptsd(**SPATIAL_KEYS, margin_mm=4),
            ResampleWithPromptsd(**SPATIAL_KEYS, spacing_mm=1.0),
            AutoWindowd("image"),
        ]
    )


@pytest.mark.parametrize("as_text", [False, True], ids=["prompt set", "json"])
def test_a_compose_goes_there_back_and_there_again(as_text: bool) -> None:
    data, compose = sample("SAL", as_text), pipeline()
    result = compose(data)
    assert [operation["class"] for operation in result["image"].applied_operations] == [
        "ReorientWithPromptsd",
        "CropAroundPromptsd",
        "ResampleWithPromptsd",
        "AutoWindowd",
    ]
    for key in ("image", "label"):
        replayed = replay(data[key], result[key].applied_operations)
        assert_same_image(replayed, result[key])
    undone = compose.inverse({**result, "image": replay(data["image"], result["image"].applied_operations)})
    for back in (compose.inverse(result), undone):
        for key in ("image", "label"):
            assert back[key].shape == data[key].shape
            assert torch.equal(back[key].affine, data[key].affine)
            assert back[key].applied_operations == []
        assert back["prompts"] is data["prompts"]
        # The new voxels are smaller, so the inside of a blob, a voxel away from its border, is interpolated within it.
        inside = binary_erosion(data["label"][0].numpy() > 0, np.ones((3, 3, 3)))
        assert inside.sum() == 15
        np.testing.assert_allclose(back["image"][0].numpy()[inside], data["image"][0].numpy()[inside], atol=1e-2)
        assert (back["label"] == data["label"]).float().mean() > 0.97


def test_a_lazy_compose_gives_the_same() -> None:
    data = sample("SAL")
    eager, lazy = pipeline()(data), Compose(pipeline().transforms, lazy=True)(data)
    assert_same_image(lazy["image"], eager["image"])
    assert text_of(lazy["prompts"]) == text_of(eager["prompts"])


@every()
def test_it_is_made_from_a_bundle_configuration(name: str, tmp_path: Path) -> None:
    settings = "".join(f"      {key}: {value}\n" for key, value in TRANSFORMS[name].items())
    path = tmp_path / "inference.yaml"
    path.write_text(
        f"preprocessing:\n  _target_: Compose\n  transforms:\n    - _target_: volseg.transforms.{name}\n{settings}",
        encoding="utf-8",
    )
    parser = ConfigParser()
    parser.read_config(str(path))
    compose = parser.get_parsed_content("preprocessing")
    data = sample()
    assert_same_image(compose(data)["image"], make(name)(data)["image"])


@every()
def test_it_survives_a_data_loader(name: str) -> None:
    check_data_loader(name, workers=0)


@pytest.mark.parametrize("name", ["CropAroundPromptsd", "WindowIntensityd"])
def test_it_survives_a_data_loader_with_a_worker(name: str) -> None:
    """One transform of each family is enough for a process of its own."""
    check_data_loader(name, workers=1)


def check_data_loader(name: str, workers: int) -> None:
    data = [sample("LPS", as_text=True), sample("LPS", as_text=True)]
    transform = make(name)
    (batch,) = DataLoader(Dataset(data, transform), batch_size=2, num_workers=workers)
    assert batch["image"].shape[0] == 2
    for item, source in zip(decollate_batch(batch), data, strict=True):
        expected = transform(source)
        assert_same_image(item["image"], expected["image"])
        assert item["prompts"] == expected["prompts"]
        back = transform.inverse(item)
        assert back["prompts"] == source["prompts"]
        assert torch.equal(back["image"].affine, source["image"].affine)
        if name in EXACT:
            assert_same_image(back["image"], source["image"])


@every()
def test_it_can_be_pickled_for_workers_that_are_spawned(name: str) -> None:
    data = sample()
    assert_same_image(pickle.loads(pickle.dumps(make(name)))(data)["image"], make(name)(data)["image"])


@every()
def test_missing_keys(name: str) -> None:
    with pytest.raises(KeyError):
        make(name)({"other": 1})
    assert make(name, allow_missing_keys=True)({"other": 1}) == {"other": 1}


@pytest.mark.parametrize("nearest", [True, False])
@every()
def test_invertd_brings_a_prediction_back(name: str, nearest: bool) -> None:
    """A network's labels or probabilities must come back as they are, never turned into intensities."""
    data, transform = sample("PIR"), make(name)
    result = transform(data)
    result["pred"] = MetaTensor((result["label"] == 2).as_tensor().float())
    if name in INTENSITY:
        result["pred"] = MetaTensor((data["label"] == 2).as_tensor().float())
    back = Invertd("pred", transform, orig_keys="image", nearest_interp=nearest)(result)["pred"]
    assert back.shape == data["image"].shape
    assert torch.equal(back.affine, data["image"].affine)
    wanted = (data["label"] == 2).as_tensor()
    assert back.min() >= 0
    assert back.max() <= 1
    dice = 2 * ((back > 0.5).as_tensor() & wanted).sum() / ((back > 0.5).sum() + wanted.sum())
    assert dice > (0.8 if name == "ResampleWithPromptsd" else 0.999)
    if nearest:
        assert set(back.unique().tolist()) <= {0.0, 1.0}


def test_an_empty_prediction_on_a_black_image_stays_empty() -> None:
    """The one case in which a label map is equal, voxel by voxel, to the scaled image."""
    image = MetaTensor(torch.full((1, 4, 5, 6), -1000, dtype=torch.int16))
    transform = WindowIntensityd("image", "soft tissue")
    result = transform({"image": image})
    result["pred"] = MetaTensor(torch.zeros(1, 4, 5, 6))
    assert Invertd("pred", transform, orig_keys="image")(result)["pred"].abs().max() == 0
    assert_same_image(transform.inverse(transform({"image": image}))["image"], image)


@every(*INTENSITY)
def test_intensities_that_changed_stay_as_they_are(name: str) -> None:
    transform = make(name)
    for result in (transform(sample()), make(name, keep_source=False)(sample())):
        changed = result["image"] * 0.5
        for operation in changed.applied_operations:
            operation["id"] = id(transform)
        back = transform.inverse({"image": changed})["image"]
        assert torch.equal(back.as_tensor(), changed.as_tensor())
        assert back.applied_operations == []


@every(*INTENSITY)
def test_the_window_stands_in_meta_until_it_is_undone(name: str) -> None:
    transform = make(name)
    result = transform(sample())
    window = result["image"].meta["intensity_window"]
    assert set(window) == {"low", "high", "name", "reason"}
    assert window["reason"]
    np.testing.assert_allclose(
        result["image"][0].numpy(),
        np.clip((sample()["image"][0].numpy() - window["low"]) / (window["high"] - window["low"]), 0, 1),
        atol=1e-6,
    )
    twice = transform(result)
    assert transform.inverse(twice)["image"].meta["intensity_window"] == window


def test_the_reason_of_an_automatic_window_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = sample()
    result = AutoWindowd("image")(data)
    assert result["image"].meta["intensity_window"]["reason"] in caplog.text
    assert "the image says its modality is CT" in caplog.text
    as_mr = AutoWindowd("image", modality="MR")(data)
    assert_same_image(as_mr["image"], PercentileScaled("image")(data)["image"])


@every("CropAroundPromptsd", "ReorientWithPromptsd", "ResampleWithPromptsd")
@pytest.mark.parametrize("as_text", [False, True], ids=["prompt set", "json"])
def test_a_click_added_on_the_new_grid_is_moved_back(name: str, as_text: bool) -> None:
    data, transform = sample(as_text=as_text), make(name)
    result = transform(data)
    grid = Grid.of(result["image"])
    prompts = PromptSet.loads(result["prompts"]) if as_text else result["prompts"]
    added = PromptSet(grid, (*prompts.objects, PromptedObject(99, (Point((2, 3, 1), Frame.IJK),))))
    back = transform.inverse({**result, "prompts": added.dumps() if as_text else added})["prompts"]
    back = PromptSet.loads(back) if as_text else back
    assert back.grid.same_as(Grid.of(data["image"]))
    position = back.objects[-1].prompts[0].position
    np.testing.assert_allclose(back.grid.to_ras_mm(position), grid.to_ras_mm((2, 3, 1)), atol=1e-6)
    assert len(back.objects) == len(prompts.objects) + 1


def test_the_crop_s_inverse_is_zero_outside_and_exact_inside() -> None:
    data, transform = sample(), make("CropAroundPromptsd")
    result = transform(data)
    start = np.round(Grid.of(data["image"]).to_ijk(result["image"].affine[:3, 3].numpy())).astype(int)
    block = tuple(slice(a, a + n) for a, n in zip(start, result["image"].shape[1:], strict=True))
    for key in ("image", "label"):
        expected = torch.zeros_like(data[key].as_tensor())
        expected[(0, *block)] = data[key].as_tensor()[(0, *block)]
        back = transform.inverse(result)[key]
        assert torch.equal(back.as_tensor(), expected)
        assert back.dtype == data[key].dtype


def test_an_image_that_was_moved_since_cannot_be_undone() -> None:
    transform = make("ReorientWithPromptsd")
    result = transform(sample())
    result["image"].affine[0, 3] += 5
    with pytest.raises(GeometryError, match="cannot undo ReorientWithPromptsd"):
        transform.inverse(result)


def test_only_what_volseg_recorded_on_the_same_grid_is_replayed() -> None:
    data = sample()
    operations = make("ReorientWithPromptsd")(data)["image"].applied_operations
    with pytest.raises(GeometryError, match="cannot replay"):
        replay(stored("RAS")[0], operations)
    with pytest.raises(VolsegError, match="got Spacing"):
        replay(data["image"], [{"class": "Spacing"}])


def test_a_history_gives_another_sequence_the_same_treatment() -> None:
    data = sample("PIR")
    compose = pipeline()
    history = compose(data)["image"].applied_operations
    second = MetaTensor(data["image"].as_tensor() // 2, affine=data["image"].affine)
    result = replay(second, history)
    assert Grid.of(result).same_as(Grid.of(compose(data)["image"]))
    assert result.meta["intensity_window"] == compose(data)["image"].meta["intensity_window"]
    assert second.applied_operations == []


@every()
def test_the_order_in_memory_does_not_matter(name: str) -> None:
    """Readers give tensors whose first axis is the fastest, as files store them."""
    data, transform = sample("PIR"), make(name)
    other = dict(data)
    for key in ("image", "label"):
        values = data[key].as_tensor().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
        other[key] = MetaTensor(values, affine=data[key].affine, meta={"modality": "CT"})
    result, expected = transform(other), transform(data)
    for key in ("image", "label"):
        assert_same_image(result[key], expected[key])
        assert_same_image(transform.inverse(result)[key], transform.inverse(expected)[key])


def test_plain_arrays_can_be_windowed() -> None:
    values = np.arange(120, dtype=np.uint16).reshape(1, 4, 5, 6)
    result = WindowIntensityd("image", (10, 20))({"image": values})["image"]
    np.testing.assert_allclose(result.numpy(), np.clip((values - 10.0) / 10, 0, 1), atol=1e-7)
