"""One volume in a file: what its header says, before any voxel is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volseg.data.formats import FileFormat
from volseg.data.voxel_store import VoxelStore
from volseg.errors import GeometryError, ImageReadError, VolsegError
from volseg.geometry import Grid


@dataclass(frozen=True)
class VolumeFile:
    """A file whose header makes sense and whose size fits what the header declares.

    Attributes:
        format: the kind of file.
        grid: where the voxels are.
        store: where their numbers are in the file.
        fields: texts of the header under their names: the label table and the like.
    """

    format: FileFormat
    grid: Grid
    store: VoxelStore
    fields: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store.check_size()

    @property
    def path(self) -> Path:
        """The file."""
        return self.store.path

    def read(self, channel: int | None = None, *, torch_safe: bool = True) -> NDArray[Any]:
        """The voxels of one channel, [I, J, K] in Fortran order; see ``VoxelStore.read``.

        Raises:
            ImageReadError: there are several channels and no choice, or the voxels cannot be read.
        """
        return self.store.read(chosen_channel(self.path, self.store.channels, channel), torch_safe=torch_safe)


def chosen_channel(path: Path, channels: int, channel: int | None) -> int:
    """Checks the choice of a channel.

    Raises:
        ImageReadError: there are several and no choice, or the choice is not among them.
    """
    if channel is None:
        if channels == 1:
            return 0
        raise ImageReadError(
            f"{path}: holds {channels} channels or time points, expected one volume; "
            f"choose one with --channel 0 ... {channels - 1} (channel= in Python)"
        )
    if not 0 <= channel < channels:
        raise ImageReadError(f"{path}: there is no channel {channel}; the file has {channels}, counted from 0")
    return channel


def grid_of(path: Path, shape: tuple[int, ...], affine_ras: ArrayLike) -> Grid:
    """The grid a header describes.

    Raises:
        ImageReadError: no image can have it.
    """
    try:
        return Grid((shape[0], shape[1], shape[2]), np.asarray(affine_ras, dtype=np.float64))
    except GeometryError as error:
        raise ImageReadError(f"{path}: {' '.join(str(error).split())}") from error


@contextmanager
def library_errors(path: Path, kind: FileFormat) -> Iterator[None]:
    """Turns whatever a parsing library raises on a broken file into one ``ImageReadError``."""
    try:
        yield
    except VolsegError:
        raise
    # Parsers raise anything from KeyError to their own classes on broken input; their list is not documented.
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ImageReadError(f"{path}: cannot be read as {kind}: {text:.300}") from error
