"""The same prompt in millimetres gives the same tissue, however the file stores the volume."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from volseg.data import read_image
from volseg.geometry import Frame, Grid
from volseg.models.registry import load_model
from volseg.prompts import Box, Point, Prompt, PromptSet

STORED = ("RAS", "LPS", "PIR", "SAR")


def in_ras(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.bool_]:
    """The voxels with axes towards R, A and S, turned by nibabel, which knows nothing of volseg."""
    turned = nib.as_closest_canonical(nib.Nifti1Image(mask.astype(np.uint8), grid.affine_ras))
    return np.asarray(turned.dataobj) > 0


@pytest.mark.parametrize("model_name", ["random-walker", "sam2-nano"])
def test_a_real_ct_stored_in_four_orientations(model_name: str, shared_data: Path, tmp_path: Path) -> None:
    original = nib.load(shared_data / "small" / "ts_example" / "example_ct_sm.nii.gz")
    centre = nib.affines.apply_affine(original.affine, np.array(original.shape[:3]) / 2)
    low, high, beside = (centre + offset for offset in ((-30, -25, -20), (30, 25, 20), (20, 0, 5)))
    prompts: list[Prompt] = [
        Box(tuple(low), tuple(high), Frame.RAS),
        Point(tuple(centre), Frame.RAS),
        Point(tuple(beside), Frame.RAS, positive=False),
    ]
    model = load_model(model_name, device="cpu")
    found = {}
    for axcodes in STORED:
        turn = nib.orientations.ornt_transform(
            nib.io_orientation(original.affine), nib.orientations.axcodes2ornt(tuple(axcodes))
        )
        path = tmp_path / f"{axcodes}.nii.gz"
        nib.save(original.as_reoriented(turn), path)
        image = read_image(path)
        grid = Grid.of(image)
        assert grid.axcodes == axcodes
        with model.encode(image) as encoding:
            mask = model.segment(encoding, PromptSet.of(grid, prompts)).masks[0]
        found[axcodes] = in_ras(mask.full(), grid)
    assert found["RAS"].sum() > 200
    for axcodes in STORED[1:]:
        both = found["RAS"].sum() + found[axcodes].sum()
        assert 2 * (found["RAS"] & found[axcodes]).sum() / both >= 0.98, axcodes
