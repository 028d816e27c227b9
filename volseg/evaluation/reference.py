"""The image and the reference objects of a case, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.errors import EvaluationError, ImageReadError, VolsegError
from volseg.evaluation.archive import WINDOW, read_archive
from volseg.evaluation.cases import ARCHIVE_SUFFIX, EvaluationCase, ObjectSpec
from volseg.geometry import Grid

if TYPE_CHECKING:
    from monai.data import MetaTensor

GRID_TOLERANCE = 0.1
"""Part of a voxel by which the corners of image and label may differ: headers round, and nobody's voxels move by it."""


@dataclass(frozen=True, eq=False)
class ReferenceObject:
    """One object as people drew it.

    Attributes:
        object_id: its number in the case, from 1 in ascending order of label ids.
        name: what it is called.
        truth: its voxels, on the image's grid; never empty.
        phrase: the words that ask for it.
        box_ijk: the archive's own box, first and last voxel [2, 3], where it has one.
        instances: its instances, where they are to be told apart; scores are then those of instances.
    """

    object_id: int
    name: str
    truth: ObjectMask
    phrase: str = ""
    box_ijk: NDArray[np.int64] | None = None
    instances: tuple[ObjectMask, ...] = ()


@dataclass(frozen=True, eq=False)
class Reference:
    """What a case's label file says.

    Attributes:
        grid: of image and labels.
        objects: those to score that are there.
        has_boxes: False where an archive gives no boxes, so that a protocol starts without.
        instances: whether the objects of a label are to be told apart (text track).
    """

    grid: Grid
    objects: tuple[ReferenceObject, ...]
    has_boxes: bool = True
    instances: bool = False


def read_reference(case: EvaluationCase) -> Reference:
    """Reads a case's labels and checks that they can be scored.

    Raises:
        EvaluationError: labels and image lie on different grids, labels are not whole numbers from 0, or none of the
            objects is there. The case is named.
    """
    try:
        return _read_reference(case)
    except VolsegError as error:
        raise EvaluationError(f"case {case.case_id}: {error}") from error


def read_case_image(case: EvaluationCase) -> MetaTensor:
    """The image [1, I, J, K] of a case.

    Raises:
        ImageReadError: it cannot be read.
        EvaluationError: an archive is damaged.
    """
    from volseg.data import read_image

    if not _is_archive(case.image):
        return read_image(case.image, channel=case.channel, modality=case.modality)
    import torch
    from monai.data import MetaTensor

    archive = read_archive(case.image)
    if archive.image is None:
        raise EvaluationError(f"{case.image} has no imgs")
    affine = torch.from_numpy(archive.grid.affine_ras.copy())
    meta = {} if case.modality is None else {"modality": case.modality}
    return MetaTensor(torch.from_numpy(_torch_safe(archive.image))[None], affine=affine, meta=meta)


def case_window(case: EvaluationCase) -> str | None:
    """The intensity window a case is bound to, None for the model's choice."""
    return WINDOW if _is_archive(case.image) else None


def case_sha256(case: EvaluationCase) -> str:
    """Hash of the bytes of image and label files and of what is scored."""
    digest = hashlib.sha256(repr((case.objects, case.modality, case.channel)).encode())
    for path in (case.image, case.label):
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _read_reference(case: EvaluationCase) -> Reference:
    boxes: Mapping[int, NDArray[np.int64]] = {}
    phrases: Mapping[int, str] = {}
    has_boxes, instances = True, False
    names: dict[int, str] = {}
    if _is_archive(case.label):
        archive = read_archive(case.label)
        if archive.labels is None:
            raise EvaluationError(f"{case.label} has no gts")
        grid, layers = archive.grid, [_whole(archive.labels, case.label)]
        boxes, phrases, instances = archive.boxes_ijk, archive.phrases, archive.instances
        has_boxes = bool(boxes)
    else:
        from volseg.data import read_labelmap

        labelmap = read_labelmap(case.label)
        grid, layers = labelmap.grid, list(labelmap.layers)
        names = {label.value: label.name for label in labelmap.labels}
    image_grid = grid if case.image == case.label else _image_grid(case)
    if not image_grid.same_as(grid, tolerance=GRID_TOLERANCE):
        raise EvaluationError(
            f"image and label lie on different grids: {case.image.name} has {_text(image_grid)}, {case.label.name} has "
            f"{_text(grid)}; resample the label to the image"
        )
    found = sorted({int(value) for layer in layers for value in np.unique(layer)} - {0})
    specs = case.objects or tuple(ObjectSpec(names.get(one, f"label {one}"), (one,)) for one in found)
    objects: list[ReferenceObject] = []
    for spec in specs:
        mask = np.zeros(grid.shape, dtype=bool)
        for layer in layers:
            mask |= np.isin(layer, spec.label_ids)
        if mask.any():
            number, first = len(objects) + 1, spec.label_ids[0]
            truth = ObjectMask.of(number, image_grid, mask)
            objects.append(ReferenceObject(number, spec.name, truth, phrases.get(first, spec.name), boxes.get(first)))
    if not objects:
        wanted = f"none of {', '.join(spec.name for spec in specs)} is there" if specs else "no voxel is labelled"
        raise EvaluationError(f"{case.label.name} is empty: {wanted}; leave the case out")
    return Reference(image_grid, tuple(objects), has_boxes, instances)


def _image_grid(case: EvaluationCase) -> Grid:
    """The image's grid, without its voxels where they are not needed."""
    from volseg.data.formats import FileFormat, format_to_read
    from volseg.data.images import open_volume

    if _is_archive(case.image):
        return read_archive(case.image).grid
    if format_to_read(case.image) is FileFormat.DICOM:
        from volseg.data.dicom_reader import open_dicom

        return open_dicom(case.image, None).grid
    file = open_volume(case.image)
    if file.store.channels > 1 and case.channel is None:
        raise ImageReadError(f"{case.image} holds {file.store.channels} channels, expected one volume")
    return file.grid


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVE_SUFFIX)


def _whole(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        raise EvaluationError(f"{path}: holds fractions; expected labels, whole numbers from 0")
    if array.dtype.kind not in "buif" or array.min() < 0:
        raise EvaluationError(f"{path}: holds {array.dtype} from {array.min()}; expected labels, whole numbers from 0")
    return array


def _torch_safe(array: NDArray[Any]) -> NDArray[Any]:
    wider = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}.get(array.dtype.name)
    return array.copy() if wider is None else array.astype(wider)


def _text(grid: Grid) -> str:
    spacing = "x".join(f"{one:.4g}" for one in grid.spacing_mm)
    return f"{'x'.join(map(str, grid.shape))} voxels of {spacing} mm, {grid.axcodes}, fingerprint {grid.fingerprint}"
