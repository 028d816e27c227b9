from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from monai.data import MetaTensor

from volseg.data.modality import Modality
from volseg.errors import WindowError
from volseg.geometry import all_orientations
from volseg.transforms.percentiles import percentiles
from volseg.transforms.windows import (
    CT_PRESETS,
    IntensityWindow,
    choose_window,
    guess_modality,
    parse_window,
    percentile_window,
)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("soft tissue", -160, 240),
        ("soft-tissue", -160, 240),
        ("Soft_Tissue", -160, 240),
        ("lung", -1350, 150),
        ("bone", -500, 1300),
        ("brain", 0, 80),
        ("liver", -45, 105),
        ("mediastinum", -125, 225),
        ("-160,240", -160, 240),
        (" -1e2 , 2.5", -100, 2.5),
    ],
)
def test_names_and_numbers(text: str, low: float, high: float) -> None:
    window = parse_window(text)
    assert (window.low, window.high) == (low, high)
    assert window.name


@pytest.mark.parametrize("text", ["", "livr", "1", "1,2,3", "240,-160", "5,5", "nan,3", "0,inf", "a,b"])
def test_bad_windows_are_refused_with_what_arrived(text: str) -> None:
    with pytest.raises(WindowError, match="got"):
        parse_window(text)


def test_every_preset_is_a_window_with_a_source() -> None:
    for name, preset in CT_PRESETS.items():
        assert parse_window(name).name == name
        assert preset.source.startswith("https://")


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float16, np.float32, np.float64, bool]
)
def test_a_window_maps_every_dtype_and_slices_give_the_volume(dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 2 if dtype is bool else 100, (1, 5, 6, 7)).astype(dtype)
    kept = values.copy()
    window = IntensityWindow(-10, 60)
    result = window.apply(values)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.clip((values.astype(np.float64) + 10) / 70, 0, 1), atol=1e-7)
    assert np.array_equal(values, kept)
    assert np.array_equal(np.stack([window.apply(values[:, i]) for i in range(5)], axis=1), result)
    tensor = torch.from_numpy(values)
    by_torch = window.apply(tensor)
    assert by_torch.dtype == torch.float32
    assert np.array_equal(by_torch.numpy(), result)
    assert np.array_equal(tensor.numpy(), kept)


def test_wide_integers_keep_their_digits() -> None:
    values = np.array([2**40, 2**40 + 1, 2**40 + 2])
    assert IntensityWindow(2**40, 2**40 + 2).apply(values).tolist() == [0, 0.5, 1]


@settings(max_examples=200, deadline=None)
@given(
    npst.arrays(
        dtype=st.sampled_from([np.float32, np.float64, np.int16, np.uint8, np.int8, np.uint16, np.int32]),
        shape=npst.array_shapes(min_dims=1, max_dims=4, max_side=6),
        elements={"min_value": 0, "max_value": 100},
    ),
    st.lists(st.floats(0, 100), min_size=1, max_size=3),
    st.booleans(),
    st.integers(-100, 100),
)
def test_percentiles_are_numpys(array: np.ndarray, percents: list[float], skip_zeros: bool, shift: int) -> None:
    array = (array.astype(np.float64) + shift).astype(array.dtype)
    # Numbers that float32 cannot tell from zero are zero here.
    floats = array.astype(np.float32)
    kept = floats[floats != 0] if skip_zeros else floats
    found = percentiles(array, percents, skip_zeros=skip_zeros)
    if kept.size == 0:
        assert found is None
    else:
        expected = np.percentile(kept.astype(np.float64), percents)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint16, np.float64])
def test_the_window_does_not_depend_on_the_order_on_disk(dtype: type) -> None:
    values = np.random.default_rng(1).gamma(2, 150, (11, 13, 17)).astype(dtype)
    expected = percentile_window(torch.from_numpy(values)[None])
    for axcodes in all_orientations():
        axes = ["RLAPSI".index(letter) // 2 for letter in axcodes]
        flipped = [axis for axis, letter in enumerate(axcodes) if letter in "LPI"]
        other = np.flip(values.transpose(axes), flipped)
        assert percentile_window(torch.from_numpy(other.copy())[None]) == expected
        assert percentile_window(np.asfortranarray(other)[None]) == expected
    kept = values[values != 0]
    assert expected.low == pytest.approx(np.percentile(kept, 0.5), rel=1e-6)
    assert expected.high == pytest.approx(np.percentile(kept, 99.5), rel=1e-6)


@pytest.mark.parametrize(
    "name", ["tptbox/sub-mri_label-6_T2w", "tptbox/sub-ct_label-22_ct", "ts_example/example_mr_sm"]
)
def test_a_real_volume_gives_one_window_in_every_orientation(shared_data: Path, name: str) -> None:
    import nibabel as nib

    image = nib.load(shared_data / "small" / f"{name}.nii.gz")
    source = nib.io_orientation(image.affine)
    found = set()
    for axcodes in ("RAS", "LPS", "PIR", "SAR"):
        ornt = nib.orientations.ornt_transform(source, nib.orientations.axcodes2ornt(tuple(axcodes)))
        values = np.asanyarray(image.as_reoriented(ornt).dataobj)
        found.add(choose_window(MetaTensor(torch.from_numpy(values.copy())[None])))
    assert len(found) == 1


def test_finding_percentiles_takes_memory_for_a_slice() -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(100, 20, (1, 192, 160, 160)).astype(np.float32))
    tracemalloc.start()
    try:
        percentile_window(image)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.2 * image.numel() * 4


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("value", [0, 1, 37])
def test_a_constant_image_becomes_black(dtype: type, value: int) -> None:
    image = MetaTensor(torch.from_numpy(np.full((1, 4, 5, 6), value, dtype=dtype)))
    window = choose_window(image)
    assert torch.isfinite(window.apply(image)).all()
    assert window.apply(image).max() == 0
    assert window.reason


def test_a_huge_constant_still_has_a_window() -> None:
    window = percentile_window(np.full((3, 4, 5), -1e20, dtype=np.float32))
    assert window.low < window.high
    assert window.apply(np.full(3, -1e20, dtype=np.float32)).tolist() == [0, 0, 0]


def test_negative_mr_keeps_its_dark_side() -> None:
    values = np.random.default_rng(0).normal(0, 1, (1, 9, 10, 11)).astype(np.float32)
    window = choose_window(MetaTensor(torch.from_numpy(values)))
    assert window.low == pytest.approx(np.percentile(values, 0.5), rel=1e-5)
    assert window.high == pytest.approx(np.percentile(values, 99.5), rel=1e-5)


def test_an_image_without_voxels_is_refused() -> None:
    with pytest.raises(WindowError, match="without voxels"):
        percentile_window(np.zeros((1, 0, 4, 4)))
    with pytest.raises(WindowError, match="ascend"):
        percentile_window(np.zeros((1, 4, 4, 4)), 99, 1)


@pytest.mark.parametrize(
    ("stated", "modality"),
    [("CT", Modality.CT), ("ct", Modality.CT), ("MR", Modality.MR), ("MRI", Modality.MR), ("PT", Modality.OTHER)],
)
def test_the_stated_modality_counts(stated: str, modality: Modality) -> None:
    image = MetaTensor(torch.zeros(1, 3, 3, 3), meta={"modality": stated})
    found, reason = guess_modality(image)
    assert found is modality
    assert stated.upper() in reason


@pytest.mark.parametrize(
    ("path", "modality"),
    [
        ("small/tptbox/sub-ct_label-22_ct.nii.gz", Modality.CT),
        ("small/tptbox/sub-mri_label-6_T2w.nii.gz", Modality.MR),
        ("small/ts_example/example_ct.nii.gz", Modality.CT),
        ("small/ts_example/ct_cropped.nii.gz", Modality.CT),
        ("small/ts_example/example_mr_sm.nii.gz", Modality.MR),
        ("small/sct/t1w.nii.gz", Modality.MR),
        ("small/sct/t2.nii.gz", Modality.MR),
        ("small/debian_colin27/ch2.nii.gz", Modality.MR),
        ("sts/STS_001/CT_image.nii.gz", Modality.CT),
        ("sts/STS_001/MR_T1_image.nii.gz", Modality.MR),
        ("sts/STS_003/CT_image.nii.gz", Modality.CT),
        ("hippocampus/images/hippocampus_001.nii.gz", Modality.MR),
    ],
)
def test_real_volumes_are_recognised_by_their_values(shared_data: Path, path: str, modality: Modality) -> None:
    import nibabel as nib

    values = np.asanyarray(nib.load(shared_data / path).dataobj)
    assert guess_modality(values[None])[0] is modality


def test_the_choice_and_its_reason_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    values = np.random.default_rng(0).integers(-1000, 1500, (1, 8, 8, 8)).astype(np.int16)
    window = choose_window(MetaTensor(torch.from_numpy(values)))
    assert (window.low, window.high, window.name) == (-160, 240, "soft tissue")
    assert "Hounsfield" in window.reason
    assert window.reason in caplog.text
    assert choose_window(values, modality=Modality.MR).name == "percentile"
    assert choose_window(values, "percentile") != choose_window(values)
    assert choose_window(values, "lung").low == -1350
    assert choose_window(values, "0,10").high == 10


def test_windows_need_no_torch() -> None:
    code = (
        "import sys, numpy as np; from volseg.transforms.windows import choose_window; "
        "choose_window(np.arange(27.0).reshape(1, 3, 3, 3)); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'monai')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
