"""Cases for batch tests: two blocks in every format, and images that nobody can read.

Block 100 has 3 * 4 * 4 = 48 voxels, block 200 has 4 * 4 * 4 = 64; a voxel is 6 cubic mm.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from dicom_files import write_series
from phantom import Phantom, sitk_image
from region_model import blocks_image

from volseg.geometry import Frame, Grid
from volseg.prompts import Point, PromptedObject, PromptSet

VOXELS = {"first": 48, "second": 64}
SIZES = {1: 48, 2: 64}


def phantom(number: int = 0) -> Phantom:
    """The blocks, with a voxel of noise far from them that makes each image differ from the others."""
    image = blocks_image()
    array = image[0].numpy().copy()
    array[11, 9, 7] = number
    return Phantom(array, image.affine.numpy(), {})


def points(first: str = "first", second: str = "second") -> PromptSet:
    """A click into each block."""
    shape, affine = (12, 10, 8), phantom().affine_ras
    return PromptSet(
        Grid(shape, affine),
        (
            PromptedObject(1, (Point(affine[:3] @ (2, 3, 4, 1), Frame.RAS),), first),
            PromptedObject(2, (Point(affine[:3] @ (8, 6, 3, 1), Frame.RAS),), second),
        ),
    )


def make_case(folder: Path, name: str, kind: str, number: int = 0, prompts: PromptSet | None = None) -> Path:
    """One image with its prompt file beside it.

    Args:
        folder: there already.
        name: of the image, without ending.
        kind: ``.nii.gz``, ``.nrrd``, ``.mha`` or ``dicom``.
        number: makes the image differ from others.
        prompts: clicks into both blocks if not given.
    """
    made = phantom(number)
    said = (prompts or points()).dumps()
    if kind == "dicom":
        path = folder / name
        write_series(path, made.array, made.affine_ras, uid=f"1.2.3.{number}", Modality="MR")
        (path / "prompts.json").write_text(said)
        return path
    path = folder / f"{name}{kind}"
    if kind == ".nii.gz":
        nibabel.save(nibabel.Nifti1Image(made.array, made.affine_ras), path)
    else:
        SimpleITK.WriteImage(sitk_image(made), str(path), useCompression=True)
    (folder / f"{name}.json").write_text(said)
    return path


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x13\x37" * 500)


def _outside(path: Path) -> None:
    item = PromptedObject(1, (Point((900.0, 0.0, 0.0), Frame.RAS),), "nowhere")
    sibling = path.parent / f"{path.name.split('.')[0]}.json"
    sibling.write_text(PromptSet(points().grid, (item,)).dumps())


def _not_json(path: Path) -> None:
    (path.parent / f"{path.name.split('.')[0]}.json").write_text("{")


def _without_a_slice(path: Path) -> None:
    (path / "0004.dcm").unlink()


def _damaged_slice(path: Path) -> None:
    file = path / "0004.dcm"
    file.write_bytes(file.read_bytes()[:150] + b"\xff" * 40)


def _short_slice(path: Path) -> None:
    file = path / "0004.dcm"
    file.write_bytes(file.read_bytes()[:-60])


# What is done to a case of that kind, and the kind of error its report has.
BAD: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "truncated-nifti": (".nii.gz", _truncated, "image"),
    "garbage-nifti": (".nii.gz", _garbage, "image"),
    "empty-nrrd": (".nrrd", lambda path: path.write_bytes(b""), "image"),
    "truncated-nrrd": (".nrrd", _truncated, "image"),
    "garbage-mha": (".mha", _garbage, "image"),
    "outside": (".mha", _outside, "prompt"),
    "not-json": (".nii.gz", _not_json, "prompt"),
    "missing-slice": ("dicom", _without_a_slice, "image"),
    "damaged-slice": ("dicom", _damaged_slice, "image"),
    "short-slice": ("dicom", _short_slice, "image"),
}


def make_bad(folder: Path, names: list[str] | None = None) -> dict[str, str]:
    """Bad cases.

    Returns:
        The kind of error of each.
    """
    expected = {}
    for number, (name, (kind, spoil, error)) in enumerate(BAD.items()):
        if names is None or name in names:
            spoil(make_case(folder, name, kind, 9000 + number))
            expected[name] = error
    return expected


def make_good(folder: Path, count: int, kinds: tuple[str, ...] = (".nii.gz", ".nrrd", ".mha", "dicom")) -> None:
    """Cases of all formats in turn."""
    for number in range(count):
        make_case(folder, f"case{number:03d}", kinds[number % len(kinds)], number)


def label_arrays(output: Path) -> dict[str, np.ndarray]:
    """The label map of every case that has one."""
    return {
        path.name.removesuffix("_seg.nii.gz"): np.asarray(nibabel.load(path).dataobj)
        for path in sorted(output.glob("*_seg.nii.gz"))
    }


def sidecars(output: Path) -> dict[str, dict]:
    """Every sidecar, parsed."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((output / "cases").glob("*.json"))}
