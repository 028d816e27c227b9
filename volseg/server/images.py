"""The images a server holds, by the hash of their content."""

from __future__ import annotations

import math
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import GeometryError
from volseg.geometry import Grid
from volseg.server.limits import ServerLimits
from volseg.server.refusal import Refusal
from volseg.server.wire import SERVER_FULL, UNKNOWN_IMAGE

if TYPE_CHECKING:
    from monai.data import MetaTensor

TYPES = ("|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<f2", "<f4", "<f8", "|b1")
"""Types of voxels that torch has; little-endian."""

PIECE_BYTES = 1 << 20
"""Unpacked at a time."""


@dataclass(frozen=True)
class ImageHead:
    """What is known of an image before its voxels come.

    Attributes:
        grid: of the image.
        dtype: of the voxels, one of ``TYPES``.
    """

    grid: Grid
    dtype: str

    @property
    def voxel_bytes(self) -> int:
        """Of all voxels, uncompressed."""
        return math.prod(self.grid.shape) * np.dtype(self.dtype).itemsize

    @classmethod
    def from_json(cls, data: Any) -> ImageHead:
        """Reads ``{"shape", "affine_ras", "dtype"}``."""
        try:
            grid = Grid.from_json(data)
        except GeometryError as error:
            raise Refusal(422, "GeometryError", f"the image's grid: {error}") from error
        dtype = data.get("dtype")
        if dtype not in TYPES:
            raise Refusal(422, "GeometryError", f"voxels are of one of the types {', '.join(TYPES)}, got {dtype!r:.40}")
        return cls(grid, dtype)


@dataclass(eq=False)
class HeldImage:
    """An image in memory.

    Attributes:
        head: its grid and type.
        voxels: [I, J, K].
        used: by how many sessions.
        last_used: by the monotonic clock.
    """

    head: ImageHead
    voxels: NDArray[Any] = field(repr=False)
    used: int = 0
    last_used: float = field(default_factory=time.monotonic)

    def tensor(self, grid: Grid, modality: str) -> MetaTensor:
        """[1, I, J, K] on a client's grid, which may differ from ours by less than float32 shows; no copy."""
        import torch
        from monai.data import MetaTensor

        meta = {"modality": modality} if modality else {}
        return MetaTensor(torch.from_numpy(self.voxels)[None], affine=torch.tensor(grid.affine_ras), meta=meta)


class Upload:
    """Voxels that are arriving, compressed; never more than was said."""

    def __init__(self, head: ImageHead) -> None:
        self.head = head
        self._voxels = np.empty(head.voxel_bytes, dtype=np.uint8)
        self._filled = 0
        self._stream = zlib.decompressobj()

    def unpack(self, data: bytes) -> bytes:
        """Takes a piece; what is returned is to be given again."""
        try:
            raw = self._stream.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            raise Refusal(400, "ImageReadError", f"the voxels are not zlib data: {error}") from error
        stop = self._filled + len(raw)
        if stop > len(self._voxels) or self._stream.unused_data:
            raise Refusal(
                413, "ImageReadError", f"more voxels arrive than the {len(self._voxels)} bytes that were announced"
            )
        self._voxels[self._filled : stop] = np.frombuffer(raw, dtype=np.uint8)
        self._filled = stop
        return self._stream.unconsumed_tail

    def finished(self) -> HeldImage:
        """The image, once everything has come."""
        before = -1
        while before != self._filled and not self._stream.eof:  # what zlib still holds back
            before = self._filled
            self.unpack(b"")
        if self._filled != len(self._voxels) or not self._stream.eof:
            raise Refusal(
                400, "ImageReadError", f"{len(self._voxels)} bytes of voxels were announced, {self._filled} came"
            )
        return HeldImage(self.head, self._voxels.view(self.head.dtype).reshape(self.head.grid.shape))


class ImageStore:
    """Images by hash, within a limit of memory; those that no session uses make room."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._images: dict[str, HeldImage] = {}
        self._arriving_bytes = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Of all images, with those that are arriving."""
        with self._lock:
            return self._held_bytes()

    def __contains__(self, sha256: str) -> bool:
        """Whether the image is here."""
        with self._lock:
            return sha256 in self._images

    def begin(self, head: ImageHead) -> Upload:
        """Makes room for an image; ``end`` must follow."""
        wanted = head.voxel_bytes
        if wanted > self._limits.image_bytes:
            raise Refusal(
                413,
                "ImageReadError",
                f"the image has {_mb(wanted)} of voxels, this server takes {_mb(self._limits.image_bytes)}; "
                "crop it, or start the server with a larger --max-image-mb",
            )
        with self._lock:
            for sha256, image in sorted(self._images.items(), key=lambda item: item[1].last_used):
                if self._held_bytes() + wanted > self._limits.memory_bytes and image.used == 0:
                    del self._images[sha256]
            if self._held_bytes() + wanted > self._limits.memory_bytes:
                raise Refusal(
                    503, SERVER_FULL, f"the server's memory for images is full, {_mb(wanted)} do not fit; try later"
                )
            self._arriving_bytes += wanted
        try:
            return Upload(head)
        except MemoryError as error:
            with self._lock:
                self._arriving_bytes -= wanted
            raise Refusal(503, SERVER_FULL, f"the server has no {_mb(wanted)} of memory left; try later") from error

    def end(self, upload: Upload, sha256: str | None, image: HeldImage | None) -> None:
        """Keeps the image of an upload, or gives back its room."""
        with self._lock:
            self._arriving_bytes -= upload.head.voxel_bytes
            if sha256 is not None and image is not None:
                self._images.setdefault(sha256, image)

    def take(self, sha256: str, grid: Grid) -> HeldImage:
        """An image for a session; ``give_back`` must follow."""
        with self._lock:
            image = self._images.get(sha256)
            if image is None:
                raise Refusal(404, UNKNOWN_IMAGE, "the server does not have this image (any more); send it")
            same = np.array_equal(image.head.grid.affine_ras.astype("f4"), grid.affine_ras.astype("f4"))
            if image.head.grid.shape != grid.shape or not same:
                raise Refusal(422, "GeometryError", "the session's grid is not that of the image it names")
            image.used += 1
            return image

    def give_back(self, image: HeldImage) -> None:
        """Ends what ``take`` began."""
        with self._lock:
            image.used -= 1
            image.last_used = time.monotonic()

    def forget_idle(self, before: float) -> None:
        """Drops images that no session has used since."""
        with self._lock:
            self._images = {
                sha256: image for sha256, image in self._images.items() if image.used or image.last_used >= before
            }

    def _held_bytes(self) -> int:
        return self._arriving_bytes + sum(image.head.voxel_bytes for image in self._images.values())


def _mb(count: int) -> str:
    return f"{count / 2**20:.1f} MB"
