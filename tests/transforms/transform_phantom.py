"""An image without symmetry, with known places in mm, and one prompt of each kind on it."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from volseg.geometry import Frame, Grid
from volseg.prompts import Box, Lasso, MaskPrompt, Point, PromptedObject, PromptSet, Scribble, Text
from volseg.prompts.base import Prompt

SHAPE = (18, 22, 16)
SPACING_MM = (1.5, 1.0, 2.0)
BLOBS = {1: ((4, 5, 4), (9, 9, 7)), 2: ((10, 12, 6), (14, 17, 9)), 3: ((3, 14, 10), (6, 19, 13))}
"""Label: first voxel, one past the last voxel. Sizes and places differ along every axis."""


def affine_ras(oblique: bool) -> np.ndarray:
    affine = np.diag([*SPACING_MM, 1.0])
    if oblique:
        affine[:3, :3] = Rotation.from_euler("xyz", [17, -11, 8], degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = (-31.25, 12.5, 83.75)
    return affine


def labels() -> np.ndarray:
    array = np.zeros(SHAPE, dtype=np.uint8)
    for label, (start, stop) in BLOBS.items():
        array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = label
    return array


def blob_centroids_ras_mm(oblique: bool) -> dict[int, np.ndarray]:
    """By hand: the middle of a block of voxels lies half-way between its first and last centre."""
    affine = affine_ras(oblique)
    return {
        label: affine[:3, :3] @ ((np.array(start) + np.array(stop) - 1) / 2) + affine[:3, 3]
        for label, (start, stop) in BLOBS.items()
    }


def stored(axcodes: str, oblique: bool = True, dtype: type = np.int16) -> tuple[MetaTensor, MetaTensor]:
    """Image (-1000 outside, 100 x label in the blobs) and label map, stored as ``axcodes`` (nibabel does it)."""
    result = []
    for array in (np.where(labels() > 0, labels().astype(int) * 100, -1000).astype(dtype), labels()):
        image = nib.Nifti1Image(array, affine_ras(oblique))
        ornt = nib.orientations.ornt_transform(
            nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(axcodes))
        )
        image = image.as_reoriented(ornt)
        values = torch.from_numpy(np.ascontiguousarray(np.asanyarray(image.dataobj)))[None]
        result.append(MetaTensor(values, affine=torch.as_tensor(image.affine), meta={"modality": "CT"}))
    return result[0], result[1]


def prompts_on(grid: Grid) -> PromptSet:
    """One prompt of each kind in each object, in voxel indices of ``grid``, at physical places that never change."""
    home = Grid(SHAPE, affine_ras(oblique=grid.is_oblique))
    mask = np.zeros(SHAPE, dtype=bool)
    mask[4:9, 5:9, 4:7] = True
    mask[4:6, 5, 6] = False
    kinds: list[Prompt] = [
        Point((6.2, 7.4, 5.0), Frame.IJK),
        Point(tuple(home.to_ras_mm((12, 14, 7))), Frame.RAS, positive=False),
        Box((4, 5, 4), (8, 8, 6), Frame.IJK),
        Box((10, 12, 7), (13, 16, 7), Frame.IJK),
        Scribble(((4, 15, 11), (5, 17, 11.5), (5, 18, 12)), Frame.IJK, radius_mm=1.2),
        Lasso(((10, 12, 8), (13, 12.5, 8), (12, 16, 8)), Frame.IJK),
        MaskPrompt(mask, home),
        Text("the left kidney"),
    ]
    objects = tuple(PromptedObject(number, (prompt,)) for number, prompt in enumerate(kinds, start=1))
    return PromptSet(home, objects).moved(grid)


def places_ras_mm(prompts: PromptSet) -> list[Any]:
    """What each prompt's place is in RAS mm; the frame and grid it happens to be in no longer matter."""
    places: list[Any] = []
    for item in prompts.objects:
        (prompt,) = item.prompts
        match prompt:
            case Point():
                places.append(prompts.grid.to_ras_mm(prompt.position, prompt.frame))
            case Box():
                places.append((prompts.grid.to_ras_mm(prompt.low) + prompts.grid.to_ras_mm(prompt.high)) / 2)
                # The diagonals of a box whose axes are flipped end at other corners, but are as long.
                places.append(np.linalg.norm(prompts.grid.to_ras_mm(prompt.low) - prompts.grid.to_ras_mm(prompt.high)))
            case Scribble() | Lasso():
                places.append(prompts.grid.to_ras_mm(prompt.points, prompt.frame))
            case MaskPrompt():
                places.append(prompt.grid.to_ras_mm(np.argwhere(prompt.mask)).mean(axis=0))
            case Text():
                places.append(prompt.text)
    return places


def centroid_ras_mm(image: MetaTensor, weights: np.ndarray) -> np.ndarray:
    """The centroid of ``weights`` [I, J, K], by volseg's grid."""
    voxels = np.argwhere(weights > 0)
    return Grid.of(image).to_ras_mm(np.average(voxels, axis=0, weights=weights[tuple(voxels.T)]))


def as_simpleitk(image: MetaTensor, values: np.ndarray) -> Any:
    """The same volume for SimpleITK: LPS, axes reversed in memory."""
    import SimpleITK as sitk

    affine_lps = np.diag([-1, -1, 1, 1]) @ image.affine.numpy()
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    result = sitk.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
    result.SetSpacing(spacing.tolist())
    result.SetDirection((affine_lps[:3, :3] / spacing).ravel().tolist())
    result.SetOrigin(affine_lps[:3, 3].tolist())
    return result


def simpleitk_centroids_ras_mm(label_map: MetaTensor) -> dict[int, np.ndarray]:
    import SimpleITK as sitk

    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(as_simpleitk(label_map, label_map[0].numpy()))
    return {label: np.array(statistics.GetCentroid(label)) * (-1, -1, 1) for label in statistics.GetLabels()}
