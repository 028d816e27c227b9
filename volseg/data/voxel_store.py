"""Voxels as they lie in a file, and how they come into memory once, without copies (P5)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from volseg.data.voxel_array import VoxelArray, tensor_dtype
from volseg.errors import ImageReadError

MAX_DEFLATE_RATIO = 1032
"""No deflate stream unpacks to more than this many times its size (zlib's own statement)."""

CHUNK_BYTES = 8 << 20
_PACKED_CHUNK_BYTES = 1 << 16


class Codec(StrEnum):
    """How the bytes of the voxels are packed."""

    RAW = "raw"
    DEFLATE = "deflate"
    """zlib or gzip, of one or several members."""


@dataclass(frozen=True)
class VoxelStore:
    """Where the voxels of a volume are in a file, first axis fastest.

    Attributes:
        path: the file.
        start: bytes of the file before the stream of voxels.
        skip: bytes of the unpacked stream before the first voxel.
        codec: how the stream is packed.
        dtype: the numbers as stored, with their byte order.
        shape: number of voxels along i, j, k.
        channels: number of channels or time points.
        interleaved: whether the channels of one voxel lie side by side; else one volume comes after the other.
        slope: stored numbers are multiplied by this,
        intercept: and this is added.
    """

    path: Path
    start: int
    skip: int
    codec: Codec
    dtype: np.dtype[Any]
    shape: tuple[int, int, int]
    channels: int = 1
    interleaved: bool = False
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def voxels(self) -> int:
        """Number of voxels of one channel."""
        i, j, k = self.shape
        return i * j * k

    def check_size(self) -> None:
        """Raises ``ImageReadError`` if the file is too small for the voxels its header declares."""
        needed = self.skip + self.voxels * self.channels * self.dtype.itemsize
        there = max(0, self.path.stat().st_size - self.start)
        limit = there * MAX_DEFLATE_RATIO if self.codec is Codec.DEFLATE else there
        if needed > limit:
            size = " x ".join(str(n) for n in (*self.shape, *((self.channels,) if self.channels > 1 else ())))
            raise ImageReadError(
                f"{self.path}: truncated, or its header is wrong: it declares {size} voxels of {self.dtype.itemsize} "
                f"bytes, which need {needed} bytes, and the file holds {there}"
                + (" compressed" if self.codec is Codec.DEFLATE else "")
            )

    def read(self, channel: int = 0, *, torch_safe: bool = True) -> NDArray[Any]:
        """Reads one channel.

        Args:
            channel: which one, from 0.
            torch_safe: widen unsigned integers of more than 8 bits to the next signed type, as torch cannot compute
                with them; else they stay as stored.

        Returns:
            [I, J, K] in Fortran order. Integers stay integers, also under a slope and intercept that are whole numbers;
            all else becomes float32.

        Raises:
            ImageReadError: the file is truncated or damaged, or a voxel is NaN or infinite.
        """
        self.check_size()
        scaled = (self.slope, self.intercept) != (1.0, 0.0)
        whole = self.dtype.kind in "iub" and float(self.slope).is_integer() and float(self.intercept).is_integer()
        if not scaled:
            kept = tensor_dtype(self.dtype) if torch_safe else self.dtype.newbyteorder("=")
        else:
            kept = np.dtype(np.int16 if whole else np.float32)
        array = VoxelArray(self.path, self.shape, kept)
        if not scaled and kept == self.dtype and self.channels == 1:
            self._read_in_place(array)
            return array.finished()
        for start, stored in self._chunks(channel):
            if not scaled:
                array.put(start, stored)
            elif whole:
                array.put(start, stored.astype(np.int64) * int(self.slope) + int(self.intercept))
            else:
                array.put(start, stored.astype(np.float64) * self.slope + self.intercept)
        return array.finished()

    def _read_in_place(self, array: VoxelArray) -> None:
        step = max(1, CHUNK_BYTES // self.dtype.itemsize)
        with self.path.open("rb") as file:
            stream = _open(self, file)
            stream.skip(self.skip)
            for start in range(0, self.voxels, step):
                chunk = array.flat[start : start + step]
                stream.fill(chunk.view(np.uint8).data)
                array.check(start, chunk)
            stream.finish()

    def _chunks(self, channel: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Pairs of (index of the first voxel, the stored numbers from there on)."""
        together = self.channels if self.interleaved else 1
        step = max(1, CHUNK_BYTES // (self.dtype.itemsize * together))
        before = 0 if self.interleaved else channel * self.voxels * self.dtype.itemsize
        with self.path.open("rb") as file:
            stream = _open(self, file)
            stream.skip(self.skip + before)
            buffer = np.empty(min(step, self.voxels) * together, dtype=self.dtype)
            for start in range(0, self.voxels, step):
                part = buffer[: min(step, self.voxels - start) * together]
                stream.fill(part.view(np.uint8).data)
                yield start, part[channel::together] if self.interleaved else part
            if self.interleaved or channel == self.channels - 1:
                stream.finish()


class _Stream:
    """Bytes of a file from a place on, without packing."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file

    def skip(self, count: int) -> None:
        self._file.seek(count, 1)

    def fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            got = self._file.readinto(view[done:])  # type: ignore[attr-defined]
            if not got:
                raise ImageReadError(f"{self._path}: truncated; the file ends before its last voxel")
            done += got

    def finish(self) -> None:
        """Checks what comes after the last voxel."""


class _InflatingStream(_Stream):
    """Unpacks zlib or gzip."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(path, file)
        self._inflater = zlib.decompressobj(wbits=47)  # 47: zlib or gzip, told apart by the stream's first bytes
        self._packed = b""

    def _next(self, most: int) -> bytes:
        """At most ``most`` unpacked bytes; none at the end of the stream."""
        while True:
            if self._inflater.eof:
                self._packed = self._inflater.unused_data or self._file.read(_PACKED_CHUNK_BYTES)
                if not self._packed.startswith(b"\x1f\x8b"):  # padding after the last gzip member
                    return b""
                self._inflater = zlib.decompressobj(wbits=47)
            packed = self._packed or self._file.read(_PACKED_CHUNK_BYTES)
            try:
                unpacked = self._inflater.decompress(packed, most)
            except zlib.error as error:
                raise ImageReadError(f"{self._path}: the compressed voxels are damaged: {error}") from error
            self._packed = self._inflater.unconsumed_tail
            if unpacked:
                return unpacked
            if not packed and not self._inflater.eof:
                raise ImageReadError(f"{self._path}: truncated; the compressed voxels end too early")

    def skip(self, count: int) -> None:
        while count > 0:
            got = len(self._next(min(count, CHUNK_BYTES)))
            if got == 0:
                raise ImageReadError(f"{self._path}: truncated; the file ends before its first voxel")
            count -= got

    def fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            part = self._next(len(view) - done)
            if not part:
                raise ImageReadError(f"{self._path}: truncated; the file ends before its last voxel")
            view[done : done + len(part)] = part
            done += len(part)

    def finish(self) -> None:
        # A gzip checksum follows the data: one more read makes zlib compare it.
        self._next(1)


def _open(store: VoxelStore, file: BinaryIO) -> _Stream:
    file.seek(store.start)
    return (_InflatingStream if store.codec is Codec.DEFLATE else _Stream)(store.path, file)
