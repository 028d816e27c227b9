"""A rough mask."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from volseg.errors import GeometryError, PromptError
from volseg.geometry import POSITION_TOLERANCE, Grid
from volseg.prompts.base import Prompt, PromptKind, as_sign

MAX_VOXELS = 2**31
"""A mask is refused beyond this size: no image is larger, and its bits would not fit a workstation's memory."""

LATTICE_TOLERANCE = 1e-2
"""Voxels whose centres differ by less than this part of their spacing are the same voxels."""


@dataclass(frozen=True, eq=False)
class MaskPrompt(Prompt):
    """Voxels that belong (positive) or do not belong (negative) to the object, roughly.

    Only the block around the voxels is kept, so a small mask costs little whatever the image.

    Attributes:
        mask: bool [I, J, K] on ``grid``; read-only copy.
        grid: where the mask's voxels are, in RAS mm. It need not be the image's.
        positive: whether the voxels belong to the object.

    Raises:
        PromptError: the mask is empty, its shape is not the grid's, or its values are not finite numbers.
    """

    tag: ClassVar[str] = "mask"

    mask: NDArray[np.bool_] = field(repr=False)
    grid: Grid
    positive: bool = True

    def __post_init__(self) -> None:
        array = np.asarray(self.mask)
        if array.shape != self.grid.shape:
            raise PromptError(f"a mask has its grid's shape {self.grid.shape}, got {array.shape}")
        if array.dtype.kind not in "buif" or not np.isfinite(array).all():
            raise PromptError(f"a mask is an array of truth values or finite numbers, got {array.dtype}")
        if array.dtype != np.bool_:
            array = array != 0
        start, stop = _bounds(array)
        block = array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].copy()
        block.setflags(write=False)
        object.__setattr__(self, "mask", block)
        object.__setattr__(self, "grid", self.grid.cropped(start, block.shape))
        object.__setattr__(self, "positive", as_sign(self.positive, "mask"))

    @property
    def kind(self) -> PromptKind:
        """Always ``PromptKind.MASK``."""
        return PromptKind.MASK

    @cached_property
    def digest(self) -> str:
        """Hash of the voxels and their place."""
        return sha256(np.packbits(self.mask).tobytes() + self.grid.fingerprint.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        """Equal when the voxels, their place and the sign are."""
        return (
            isinstance(other, MaskPrompt)
            and self.positive == other.positive
            and self.grid == other.grid
            and bool(np.array_equal(self.mask, other.mask))
        )

    def __hash__(self) -> int:
        """Agrees with ``__eq__``."""
        return hash((self.grid, self.positive))

    def moved(self, source: Grid, target: Grid) -> MaskPrompt:
        """The mask on the part of ``target``'s lattice that it covers (``source`` is not needed).

        Exact where both lattices coincide up to flips, axis order and whole-voxel shifts; else the nearest voxel.

        Raises:
            PromptError: nothing is left, as the voxels of ``target`` are larger than the mask, or the mask would have
                more than ``MAX_VOXELS`` voxels there.
        """
        same_voxels = self._reordered(target)
        if same_voxels is not None:
            return same_voxels
        corners = target.to_ijk(self.grid.to_ras_mm(self.grid.corners_ijk()))
        start = np.floor(corners.min(axis=0)).astype(int) - 1
        shape = np.ceil(corners.max(axis=0)).astype(int) + 2 - start
        if math.prod(shape.tolist()) > MAX_VOXELS:
            size = "x".join(map(str, shape.tolist()))
            raise PromptError(
                f"the mask would span {size} voxels of {target.spacing_mm} mm; check its affine; {self!r}"
            )
        window = target.cropped(start.tolist(), shape.tolist())
        moved = _nearest(self.mask, self.grid, window)
        if not moved.any():
            raise PromptError(f"no voxel of the mask is left on voxels of {target.spacing_mm} mm; {self!r}")
        return MaskPrompt(moved, window, self.positive)

    def _reordered(self, target: Grid) -> MaskPrompt | None:
        """The mask with its axes in ``target``'s order and direction where both lattices coincide, else None."""
        to_target = target.ijk_from(self.grid)
        axes = np.round(to_target[:3, :3])
        if not (np.abs(axes).sum(axis=0) == 1).all() or not (np.abs(axes).sum(axis=1) == 1).all():
            return None
        corners = target.to_ijk(self.grid.to_ras_mm(self.grid.corners_ijk()))
        start = np.round(corners.min(axis=0))
        from_axis = np.abs(axes).argmax(axis=1)
        mask = self.mask.transpose(from_axis)
        mask = np.flip(mask, axis=tuple(np.flatnonzero(axes.sum(axis=1) < 0).tolist()))
        window = target.cropped(start.astype(int).tolist(), mask.shape)
        exact = axes @ self.grid.corners_ijk().T
        exact += (start - exact.min(axis=1))[:, None]
        return MaskPrompt(mask, window, self.positive) if np.abs(corners - exact.T).max() <= LATTICE_TOLERANCE else None

    def voxels_ijk(self, grid: Grid) -> NDArray[np.int64]:
        """See ``Prompt.voxels_ijk``; needs the lattice of ``grid`` (``moved``)."""
        start = self.start_ijk(grid)
        voxels = np.argwhere(self.mask) + start
        inside = ((voxels >= 0) & (voxels < np.array(grid.shape))).all(axis=1)
        result: NDArray[np.int64] = voxels[inside]
        return result

    def start_ijk(self, grid: Grid) -> NDArray[np.int64]:
        """The index in ``grid`` of the mask's first voxel, [3].

        Raises:
            PromptError: the mask does not lie on the lattice of ``grid``.
        """
        offset = grid.to_ijk(self.grid.affine_ras[:3, 3])
        start = np.round(offset)
        if not grid.cropped(start.astype(int).tolist(), self.grid.shape).same_as(
            self.grid, tolerance=LATTICE_TOLERANCE
        ):
            raise PromptError("the mask does not lie on the image's voxels; move it there first (moved)")
        return start.astype(np.int64)

    def on(self, grid: Grid) -> NDArray[np.bool_]:
        """The mask as a bool array of ``grid``'s shape."""
        full = np.zeros(grid.shape, dtype=bool)
        full[tuple(self.voxels_ijk(grid).T)] = True
        return full

    def to_json(self) -> dict[str, Any]:
        """See ``Prompt.to_json``: bits in C order, zlib, base64."""
        bits = zlib.compress(np.packbits(self.mask).tobytes(), level=6)
        return {
            "type": self.tag,
            "grid": self.grid.to_json(),
            "bits": base64.b64encode(bits).decode("ascii"),
            "positive": self.positive,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MaskPrompt:
        """See ``Prompt.from_json``."""
        if "grid" not in data or "bits" not in data:
            raise PromptError("a mask has a grid and bits")
        try:
            grid = Grid.from_json(data["grid"])
        except GeometryError as error:
            raise PromptError(f"the mask's grid: {error}") from error
        count = math.prod(grid.shape)
        if count > MAX_VOXELS:
            raise PromptError(f"a mask has at most {MAX_VOXELS} voxels, got a grid of shape {grid.shape}")
        needed = -(-count // 8)
        try:
            decompressor = zlib.decompressobj()
            # One byte more than the grid holds: a hostile file cannot make us unpack gigabytes.
            raw = decompressor.decompress(base64.b64decode(data["bits"], validate=True), needed + 1)
        except (ValueError, TypeError, zlib.error) as error:
            raise PromptError(f"a mask's bits are zlib in base64: {error}") from error
        if len(raw) != needed:
            raise PromptError(f"a mask of shape {grid.shape} has {needed} bytes of bits, got {len(raw)}")
        mask = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=count).astype(bool).reshape(grid.shape)
        return cls(mask, grid, data.get("positive", True))


def _bounds(mask: NDArray[Any]) -> tuple[list[int], list[int]]:
    start, stop = [], []
    for axis in range(3):
        occupied = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if occupied.size == 0:
            raise PromptError("the mask is empty: no voxel is set")
        start.append(int(occupied[0]))
        stop.append(int(occupied[-1]) + 1)
    return start, stop


def _nearest(mask: NDArray[np.bool_], source: Grid, target: Grid) -> NDArray[np.bool_]:
    from scipy.ndimage import affine_transform

    matrix = source.ijk_from(target)
    # Halfway between two voxels the one further right, anterior or superior counts, as in Grid.nearest_voxels; all the
    # more than rounding errors of the affine do.
    towards_ras = POSITION_TOLERANCE * np.array(source.axis_signs)
    moved = affine_transform(
        mask.astype(np.uint8),
        matrix[:3, :3],
        matrix[:3, 3] + towards_ras,
        output_shape=target.shape,
        order=0,
        mode="grid-constant",
    )
    result: NDArray[np.bool_] = moved.astype(bool)
    return result
