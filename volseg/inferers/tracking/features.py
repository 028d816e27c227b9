"""Encoded frames, computed when first needed and kept within a budget."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from volseg.networks.sam2.features import FrameFeatures
from volseg.networks.sam2.network import Sam2Network

logger = logging.getLogger(__name__)


class FrameSource(Protocol):
    """Where a tracker gets its frames."""

    @property
    def key(self) -> str:
        """Says which frames of which image under which network these are."""

    @property
    def frame_count(self) -> int:
        """How many frames there are."""

    @property
    def step_pixels(self) -> float:
        """The distance between neighbouring frames, in pixels of the frame."""

    def features(self, frames: Sequence[int]) -> FrameFeatures:
        """The features of frames, in the order asked for, on the network's device."""


class FeatureCache:
    """A `FrameSource` that encodes lazily, keeps the latest frames up to a number of bytes, and may spill to disk.

    Frames are encoded one at a time, so that a frame's features never depend on what was asked for with it.

    Args:
        network: encodes the frames.
        load_frame: gives frame ``i`` as ``[3, S, S]`` float32, normalised as the network wants it.
        frame_count: how many frames there are.
        key: the hash of image, network and plane; names the files on disk.
        byte_budget: bytes of features kept in memory; 0 keeps none.
        spill_folder: where features are also written, to be read instead of encoded; None writes nothing.
        step_pixels: see `FrameSource`.

    Attributes:
        encodes: how many frames have been encoded.
        hits: how many were found in memory.
        disk_hits: how many were read from disk.
    """

    def __init__(
        self,
        network: Sam2Network,
        load_frame: Callable[[int], Tensor],
        frame_count: int,
        *,
        key: str,
        byte_budget: int = 2 << 30,
        spill_folder: Path | None = None,
        step_pixels: float = 1.0,
    ) -> None:
        self.step_pixels = step_pixels
        self.network = network
        self.encodes = self.hits = self.disk_hits = 0
        self._load_frame = load_frame
        self._frame_count = frame_count
        self._key = key
        self._byte_budget = byte_budget
        self._bytes = 0
        self._kept: OrderedDict[int, FrameFeatures] = OrderedDict()
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        self._spill_folder = None if spill_folder is None else Path(spill_folder) / name

    @property
    def key(self) -> str:
        """See `FrameSource`."""
        return self._key

    @property
    def frame_count(self) -> int:
        """See `FrameSource`."""
        return self._frame_count

    @property
    def nbytes(self) -> int:
        """Bytes of features now in memory."""
        return self._bytes

    def features(self, frames: Sequence[int]) -> FrameFeatures:
        """See `FrameSource`."""
        return FrameFeatures.concatenate([self._one(frame) for frame in frames])

    def _one(self, frame: int) -> FrameFeatures:
        found = self._kept.get(frame)
        if found is not None:
            self._kept.move_to_end(frame)
            self.hits += 1
            return found
        features = self._read(frame)
        if features is not None:
            self.disk_hits += 1
        else:
            features = self._encode(frame)
            self._write(frame, features)
        self._keep(frame, features)
        return features

    def _encode(self, frame: int) -> FrameFeatures:
        self.encodes += 1
        with self.network.inference():
            pixels = self._load_frame(frame).to(self.network.device, torch.float32)
            return self.network.encode_frames(pixels[None])

    def _keep(self, frame: int, features: FrameFeatures) -> None:
        if features.nbytes > self._byte_budget:
            return
        self._kept[frame] = features
        self._bytes += features.nbytes
        while self._bytes > self._byte_budget:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes

    def _file(self, frame: int) -> Path | None:
        return None if self._spill_folder is None else self._spill_folder / f"{frame:06d}.safetensors"

    def _read(self, frame: int) -> FrameFeatures | None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = self._file(frame)
        if file is None or not file.exists():
            return None
        try:
            return FrameFeatures(**load_file(file)).to(self.network.device)
        except (OSError, SafetensorError, TypeError) as error:
            logger.warning("cannot read the cached features %s (%s); the frame is encoded again", file, error)
            return None

    def _write(self, frame: int, features: FrameFeatures) -> None:
        from safetensors.torch import save_file

        file = self._file(frame)
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
            os.close(handle)
            save_file({name: tensor.contiguous().cpu() for name, tensor in features.tensors().items()}, temporary)
            Path(temporary).replace(file)
        except OSError as error:
            logger.warning("cannot write the cached features %s (%s); going on without", file, error)
