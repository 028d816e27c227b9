"""Damaged files: a valid image or a VolsegError, whatever the damage."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicom_files import write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from phantom import make_phantom, sitk_image

from volseg.data import Label, LabelMap, describe_image, read_image, read_labelmap, write_labelmap
from volseg.errors import VolsegError

PHANTOM = make_phantom("LPS", oblique=True)
INSERTED = [b"-", b"9999999999", b"nan", b"1e400", b"\n", b" ", b"="]
DAMAGE = st.tuples(
    st.one_of(st.none(), st.floats(0, 1)),  # where to cut
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255), st.booleans()), max_size=6),  # bytes to change
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from(INSERTED)), max_size=2),
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    labels = (Label(1, "one", (1, 2, 3)), Label(5, "five", (3, 2, 1)))
    labelmap = LabelMap(PHANTOM.grid, (PHANTOM.array,), labels)
    names = ["a.nii", "a.nii.gz", "a.nrrd", "a.seg.nrrd", "a.mha"]
    for name in names:
        write_labelmap(labelmap, folder / name)
    SimpleITK.WriteImage(sitk_image(PHANTOM), str(folder / "raw.nrrd"))
    SimpleITK.WriteImage(sitk_image(PHANTOM), str(folder / "raw.mha"))
    nibabel.Nifti2Image(PHANTOM.array, PHANTOM.affine_ras).to_filename(folder / "two.nii")
    write_series(folder / "series", PHANTOM.array[..., :1], PHANTOM.affine_ras)
    files = {name: (folder / name).read_bytes() for name in [*names, "raw.nrrd", "raw.mha", "two.nii"]}
    files["slice.dcm"] = (folder / "series" / "0001.dcm").read_bytes()
    return files


KINDS = ["a.nii", "a.nii.gz", "a.nrrd", "a.seg.nrrd", "a.mha", "raw.nrrd", "raw.mha", "two.nii", "slice.dcm"]


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=120, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(damage=DAMAGE)
def test_damage(kind: str, originals: dict[str, bytes], tmp_path: Path, damage: tuple) -> None:
    path = tmp_path / kind
    path.write_bytes(damaged(originals[kind], damage))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns about odd values
        image = attempt(read_image, path)
        attempt(describe_image, path)
        labelmap = attempt(read_labelmap, path)
    if image is not None:
        assert image.ndim == 4
        assert np.isfinite(image.numpy()).all()
        assert np.isfinite(image.affine.numpy()).all()
    if labelmap is not None:
        assert labelmap.layers[0].shape == labelmap.grid.shape


def attempt(read: Callable, path: Path) -> object:
    try:
        return read(path)
    except VolsegError:
        return None


def damaged(data: bytes, damage: tuple) -> bytes:
    """Changes mostly the first kilobyte, where headers are."""
    cut, changes, insertions = damage
    changed = bytearray(data)
    for where, value, in_header in changes:
        changed[int(where * (min(1024, len(changed)) - 1 if in_header else len(changed) - 1))] = value
    for where, text in insertions:
        place = int(where * min(1024, len(changed)))
        changed[place:place] = text
    return bytes(changed if cut is None else changed[: int(cut * len(changed))])
