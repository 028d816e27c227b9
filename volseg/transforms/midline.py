"""Where left and right part: the plane that the image is its own mirror image in."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volseg.geometry import Grid

if TYPE_CHECKING:
    from torch import Tensor

    from volseg.transforms.windows import IntensityWindow

logger = logging.getLogger(__name__)

COARSE_MM = 5.0
"""Voxels are averaged to about this size first: the halves of a body are alike in the large."""

FOREGROUND = 0.15
"""Only voxels brighter than this part of the window are compared; air is like air everywhere."""

POINTS = 4000
"""So many voxels, drawn once, say enough."""

MIN_MIRRORED = 0.5
"""The mirror image of at least this part of the foreground lies within the volume."""

FIRST_ANGLES_DEG = (-16.0, 0.0, 16.0)
MAX_ANGLE_DEG = 30.0
"""How far the plane may be turned out of the scanner's sagittal one."""

STEP_MM = 6.0
"""Distance between the first planes that are tried."""

SURE_CORRELATION = 0.75
SURE_LEAD = 0.25
"""Heads reach 0.9 and lead by 0.3 over planes 20 mm away; half a head, a limb or a small crop do not."""

FAR_MM = 20.0


@dataclass(frozen=True)
class Midline:
    """The plane between left and right, and whether it can be relied upon.

    Attributes:
        normal_ras: unit vector, near the axis to the right.
        offset_mm: a point lies right of the plane if its product with the normal is larger.
        sure: whether something in the image says where the plane is. An unsure plane parts nothing.
        reason: what it rests on, for a person.
    """

    normal_ras: tuple[float, float, float]
    offset_mm: float
    sure: bool = True
    reason: str = "as given"

    @classmethod
    def at(cls, right_mm: float) -> Midline:
        """The plane at a place on the axis to the right, not turned."""
        return cls((1.0, 0.0, 0.0), right_mm)

    @classmethod
    def middle_of(cls, grid: Grid, *, sure: bool = True, reason: str = "the middle of the volume") -> Midline:
        """The plane through the middle of a volume, not turned."""
        return cls((1.0, 0.0, 0.0), float(grid.to_ras_mm((np.array(grid.shape) - 1) / 2)[0]), sure, reason)

    @cached_property
    def normal(self) -> NDArray[np.float64]:
        """The normal as an array."""
        return np.array(self.normal_ras, dtype=np.float64)

    def right_of(self, points_ras_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Signed distances [N] of points [N, 3] from the plane in mm, positive to the right."""
        return points_ras_mm @ self.normal - self.offset_mm

    def __str__(self) -> str:
        x, y, z = self.normal_ras
        place = f"{self.offset_mm:.1f} mm along ({x:.3f}, {y:.3f}, {z:.3f})"
        return f"{place}; {self.reason}" if self.sure else f"unsure; {self.reason}"


def find_midline(image: Tensor, grid: Grid, window: IntensityWindow) -> Midline:
    """Finds the plane that maps an image best onto itself.

    The correlation of the image with its mirror image is largest there (Ardekani et al., IEEE Transactions on Medical
    Imaging 1997, take the same measure). Planes are tried near the scanner's sagittal direction; the best are refined.

    Args:
        image: [1, I, J, K] in the file's units, axes near right, anterior, superior.
        grid: of the image.
        window: the intensities that matter.

    Returns:
        The plane; the middle of the volume, not sure, where the image is not like its mirror image in any of them, or
        nearly as much in others.
    """
    mirror = _Mirror.of(image, grid, window)
    if mirror is None:
        return Midline.middle_of(grid, sure=False, reason="hardly anything is in the image")
    tried = mirror.first_planes()
    best = max((mirror.refined(plane) for _, plane in tried[:3]), key=mirror.correlation)
    correlation = mirror.correlation(best)
    elsewhere = max((c for c, plane in tried if abs(plane[0] - best[0]) > FAR_MM), default=-1.0)
    found = f"correlation with the mirror image {correlation:.2f}, elsewhere {elsewhere:.2f}"
    turned = np.degrees(np.abs(best[1:])).max()
    if correlation < SURE_CORRELATION or correlation - elsewhere < SURE_LEAD or turned > MAX_ANGLE_DEG:
        return Midline.middle_of(grid, sure=False, reason=f"the volume's middle; {found}")
    normal = _normal(best[1], best[2])
    return Midline((float(normal[0]), float(normal[1]), float(normal[2])), float(best[0]), True, found)


@dataclass(frozen=True, eq=False)
class _Mirror:
    """A coarse image that can be compared with its mirror images.

    Attributes:
        values: [I, J, K] in units of the window.
        to_voxel: RAS mm to its voxels, [4, 4].
        points_mm: [N, 3] voxels of the foreground.
        seen: their values.
    """

    values: NDArray[np.float32]
    to_voxel: NDArray[np.floating[Any]]
    points_mm: NDArray[np.float64]
    seen: NDArray[np.float32]

    @classmethod
    def of(cls, image: Tensor, grid: Grid, window: IntensityWindow) -> _Mirror | None:
        from torch.nn.functional import avg_pool3d

        factors = [min(n, max(1, round(COARSE_MM / s))) for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
        scaled = (image.float().nan_to_num() - window.low).div_(window.high - window.low).clamp_(0, 1)
        values = avg_pool3d(scaled[None], factors)[0, 0].numpy()
        pooled = np.diag([*map(float, factors), 1.0])
        pooled[:3, 3] = [(f - 1) / 2 for f in factors]
        affine = grid.affine_ras @ pooled
        where = np.argwhere(values > FOREGROUND)
        if len(where) < 100:
            return None
        if len(where) > POINTS:
            where = where[np.random.default_rng(0).choice(len(where), POINTS, replace=False)]
        points_mm = where @ affine[:3, :3].T + affine[:3, 3]
        return cls(values, np.linalg.inv(affine), points_mm, values[tuple(where.T)])

    def correlation(self, plane: NDArray[np.float64]) -> float:
        """Of the foreground with its mirror image in a plane (offset in mm, two angles); -1 with too little left."""
        from scipy.ndimage import map_coordinates

        normal = _normal(plane[1], plane[2])
        mirrored = self.points_mm - 2 * (self.points_mm @ normal - plane[0])[:, None] * normal
        voxels = (mirrored @ self.to_voxel[:3, :3].T + self.to_voxel[:3, 3]).T
        inside = ((voxels >= -0.5) & (voxels <= np.array(self.values.shape)[:, None] - 0.5)).all(axis=0)
        if inside.mean() < MIN_MIRRORED:
            return -1.0
        there = map_coordinates(self.values, voxels[:, inside], order=1, mode="nearest")
        here = self.seen[inside]
        if min(here.std(), there.std()) < 1e-6:
            return -1.0
        return float(np.corrcoef(here, there)[0, 1])

    def first_planes(self) -> list[tuple[float, NDArray[np.float64]]]:
        """Correlations and planes on a coarse raster, the best first."""
        tried = []
        for yaw in np.radians(FIRST_ANGLES_DEG):
            for roll in np.radians(FIRST_ANGLES_DEG):
                low, high = np.quantile(self.points_mm @ _normal(yaw, roll), [0.1, 0.9])
                planes = [np.array([offset, yaw, roll]) for offset in np.arange(low, high + STEP_MM, STEP_MM)]
                tried += [(self.correlation(plane), plane) for plane in planes]
        return sorted(tried, key=lambda one: -one[0])

    def refined(self, plane: NDArray[np.float64]) -> NDArray[np.float64]:
        """The best plane near another."""
        from scipy.optimize import minimize

        corners = plane + np.vstack([np.zeros(3), np.diag([STEP_MM, 0.15, 0.15])])
        result = minimize(
            lambda values: -self.correlation(values),
            plane,
            method="Nelder-Mead",
            options={"initial_simplex": corners, "xatol": 0.02, "fatol": 1e-5, "maxiter": 150},
        )
        found: NDArray[np.float64] = result.x
        return found


def _normal(yaw: float, roll: float) -> NDArray[np.float64]:
    """The axis to the right, turned towards anterior by ``yaw`` and towards superior by ``roll``."""
    return np.array([np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)])
