"""The challenge's NPZ archives: ``imgs`` and ``gts`` [D, H, W], ``spacing``, and where given ``boxes`` and words."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import EvaluationError, GeometryError
from volseg.geometry import Grid

logger = logging.getLogger(__name__)

WINDOW = "0,255"
"""Intensities were windowed to this range when the archives were made."""

BOX_KEYS = ("z_min", "z_max", "z_mid_y_min", "z_mid_y_max", "z_mid_x_min", "z_mid_x_max")
"""Of one class's box; all inclusive, in-plane those of its middle slice."""

PLAIN_TYPES = frozenset(
    {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }
)
"""What the pickles of arrays of dictionaries name."""


@dataclass(frozen=True, eq=False)
class Archive:
    """One file's contents.

    Attributes:
        grid: axes of the arrays are x, y, z; directions are taken for LPS, as the files do not say.
        image: [I, J, K], None where the file has none.
        labels: [I, J, K] whole numbers, None where the file has none.
        boxes_ijk: by label id, first and last voxel, each [3].
        phrases: by label id, the words that ask for it.
        instances: whether the objects of a label are to be told apart (text track).
    """

    grid: Grid
    image: NDArray[Any] | None
    labels: NDArray[Any] | None
    boxes_ijk: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)
    phrases: Mapping[int, str] = field(default_factory=dict)
    instances: bool = False


def read_archive(path: Path) -> Archive:
    """Reads an archive. Boxes and words are Python objects there and unpickled with a reader that runs no code (P7).

    Raises:
        EvaluationError: it is no such archive, or its shapes do not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
            arrays = {name: file[name] for name in ("imgs", "gts", "spacing") if name in names}
        boxes, words = (_plain(path, name) if name in names else None for name in ("boxes", "text_prompts"))
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        AttributeError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise EvaluationError(f"{path} is no readable NPZ archive: {error}") from error
    shapes = {array.shape for name, array in arrays.items() if name != "spacing"}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise EvaluationError(
            f"{path}: expected imgs and gts of one shape [D, H, W], got {sorted(names)} with shapes {sorted(shapes)}"
        )
    depth, height, width = next(iter(shapes))
    spacing = spacing_xyz(arrays.get("spacing"), path)
    try:
        grid = Grid((width, height, depth), np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]))
    except GeometryError as error:
        raise EvaluationError(f"{path}: {error}") from error
    image, labels = (arrays[name].T if name in arrays else None for name in ("imgs", "gts"))
    ids = [] if labels is None else [int(one) for one in np.unique(labels) if one > 0]
    phrases = {int(key): _phrase(value) for key, value in (words or {}).items() if str(key).isdecimal()}
    return Archive(grid, image, labels, _boxes(boxes, ids, path), phrases,
                   instances=bool((words or {}).get("instance_label", 0)))  # fmt: skip


def spacing_xyz(values: Any, path: Path) -> tuple[float, float, float]:
    """The spacing along x, y, z, in mm.

    The files hold it as SimpleITK gives it, x first, while their arrays are z first; some were written z first. Two
    equal values and a third tell which: pixels are square in the slice.

    Args:
        values: three numbers, or None for 1 mm.
        path: for messages.
    """
    spacing = np.ones(3) if values is None else np.asarray(values, dtype=np.float64).ravel()
    if spacing.shape != (3,) or not np.isfinite(spacing).all() or spacing.min() <= 0:
        raise EvaluationError(f"{path}: a spacing is three positive numbers in mm, got {values!r}")
    x_first, z_first = np.isclose(spacing[0], spacing[1]), np.isclose(spacing[1], spacing[2])
    if z_first and not x_first:
        spacing = spacing[::-1]
    elif not x_first and not z_first:
        logger.warning("%s: the spacing %s has no two equal neighbours; taken as x, y, z", path, spacing.tolist())
    return float(spacing[0]), float(spacing[1]), float(spacing[2])


def _phrase(value: Any) -> str:
    return str(value[0] if isinstance(value, list | tuple) and value else value)


def _boxes(boxes: Any, ids: list[int], path: Path) -> dict[int, NDArray[np.int64]]:
    """Boxes by label id; the file lists them in the order of the ids."""
    if boxes is None:
        return {}
    try:
        listed = [[int(box[key]) for key in BOX_KEYS] for box in boxes]
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(f"{path}: a box has {', '.join(BOX_KEYS)}: {error}") from error
    if ids and len(listed) != len(ids):
        raise EvaluationError(f"{path}: there are {len(listed)} boxes for the labels {ids}; expected one a label")
    return {one: np.array([[b[4], b[2], b[0]], [b[5], b[3], b[1]]]) for one, b in zip(ids, listed, strict=bool(ids))}


def _plain(path: Path, name: str) -> Any:
    """An array of Python objects, made of plain types only."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        if not dtype.hasobject:
            raise ValueError(f"{name} holds {dtype}, expected Python objects")
        value = _PlainUnpickler(stream).load()
    return value.item() if shape == () else value.ravel().tolist()


class _PlainUnpickler(pickle.Unpickler):
    """Makes numpy arrays and numbers, dictionaries, lists and texts; anything else could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("._core", ".core"), name) not in PLAIN_TYPES:
            raise pickle.UnpicklingError(f"it holds a {module}.{name}, which is not plain data")
        return super().find_class(module, name)
