"""An asymmetric phantom whose truth is known in millimetres without volseg.

Blocks of different sizes and values lie off every plane of symmetry, so that any flip, swapped axis or shift moves at
least one of them. Orientations are made with nibabel, physical positions with plain numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from volseg.geometry import Grid

SHAPE = (11, 13, 9)
SPACING_MM = (0.7, 1.1, 2.3)
ORIGIN_RAS_MM = (-31.5, 17.25, -104.0)

# value: first voxel, number of voxels, along the axes of the RAS phantom
BLOCKS: dict[int, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    1: ((1, 1, 1), (2, 3, 2)),
    2: ((7, 2, 1), (3, 2, 1)),
    3: ((2, 8, 3), (2, 4, 3)),
    5: ((6, 9, 6), (4, 1, 2)),
}


@dataclass(frozen=True, eq=False)
class Phantom:
    """Attributes: array, [I, J, K] int16; affine_ras, [4, 4]; centroids_ras_mm, for each value its block's centre."""

    array: NDArray[np.int16]
    affine_ras: NDArray[np.float64]
    centroids_ras_mm: dict[int, NDArray[np.float64]]

    @property
    def grid(self) -> Grid:
        i, j, k = self.array.shape
        return Grid((i, j, k), self.affine_ras)

    def check(self, measured: dict[int, NDArray[np.float64]], tolerance_mm: float = 1e-3) -> None:
        """Fails unless ``measured`` has the same values at the same places."""
        assert sorted(measured) == sorted(self.centroids_ras_mm)
        for value, centroid in self.centroids_ras_mm.items():
            np.testing.assert_allclose(measured[value], centroid, rtol=0, atol=tolerance_mm, err_msg=f"value {value}")


def make_phantom(axcodes: str = "RAS", *, oblique: bool = False) -> Phantom:
    """The phantom with its array's axes running towards ``axcodes`` (before the oblique turn)."""
    array = np.zeros(SHAPE, dtype=np.int16)
    affine = np.diag((*SPACING_MM, 1.0))
    affine[:3, 3] = ORIGIN_RAS_MM
    if oblique:
        affine = _turn() @ affine
    centroids = {}
    for value, (start, size) in BLOCKS.items():
        array[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = value
        centre = np.array(start) + (np.array(size) - 1) / 2
        centroids[value] = affine[:3, :3] @ centre + affine[:3, 3]
    change = nibabel.orientations.axcodes2ornt(axcodes)
    turned = nibabel.orientations.apply_orientation(array, _moves(change))
    back = nibabel.orientations.inv_ornt_aff(_moves(change), SHAPE)
    return Phantom(np.ascontiguousarray(turned), affine @ back, centroids)


def centroids_ras_mm(array: Any, affine_ras: Any) -> dict[int, NDArray[np.float64]]:
    """Mean position of each value's voxels, by plain numpy."""
    voxels, matrix = np.asarray(array), np.asarray(affine_ras, dtype=np.float64)
    values = [int(value) for value in np.unique(voxels) if value != 0]
    return {v: matrix[:3, :3] @ np.argwhere(voxels == v).mean(axis=0) + matrix[:3, 3] for v in values}


def sitk_centroids_ras_mm(image: Any) -> dict[int, NDArray[np.float64]]:
    """The same, where SimpleITK says the voxels are."""
    import SimpleITK

    voxels = SimpleITK.GetArrayViewFromImage(image).T  # [z, y, x] to [i, j, k]
    values = [int(value) for value in np.unique(voxels) if value != 0]
    centres = {v: np.argwhere(voxels == v).mean(axis=0).tolist() for v in values}
    return {v: np.array(image.TransformContinuousIndexToPhysicalPoint(c)) * (-1, -1, 1) for v, c in centres.items()}


def sitk_image(phantom: Phantom, array: Any = None) -> Any:
    """The phantom (or another array on its grid) as a SimpleITK image."""
    import SimpleITK

    voxels = phantom.array if array is None else array
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T))
    lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ phantom.affine_ras
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(axis=0))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def _moves(wanted: Any) -> Any:
    """nibabel's orientation transform from RAS axes to ``wanted`` ones."""
    return nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), wanted)


def _turn() -> NDArray[np.float64]:
    """A rotation by angles that leave the nearest anatomical axes as they are."""
    a, b, c = np.radians((13.0, -9.0, 21.0))
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turn = np.eye(4)
    turn[:3, :3] = z @ y @ x
    return turn
