"""What is remembered about an image between prompts: encoded slices and tracks."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from volseg.geometry import Grid, Plane
from volseg.inferers.slices.crop import Crop
from volseg.inferers.slices.frames import FrameFormat, make_frames
from volseg.inferers.slices.view import SliceView
from volseg.inferers.tracking import FeatureCache, Track
from volseg.transforms.windows import IntensityWindow, choose_window

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from torch import Tensor

    from volseg.data.modality import Modality
    from volseg.networks.sam2.network import Sam2Network

MAX_TRACKS = 64
"""Tracks that are remembered for corrections; each is small beside the encoded slices."""

TrackKey: TypeAlias = tuple[int, Plane, Crop, int]
"""Object, plane, crop, and how many corrections were used."""


class SliceEncoding:
    """An image before a slice-wise network: nothing is computed until a prompt needs it.

    Args:
        image: [1, I, J, K], only read.
        network: encodes the slices.
        frame_format: how it wants them.
        window: a preset's name, ``"LO,HI"``, or None to choose by modality.
        modality: None reads it from the image or guesses.
        cache_bytes: encoded slices kept in memory, over all planes and crops.
        spill_folder: where encoded slices are kept on disk as well; None keeps none there.
        weights_sha256: names the network in that folder.
    """

    def __init__(
        self,
        image: MetaTensor,
        network: Sam2Network,
        frame_format: FrameFormat,
        *,
        window: str | None,
        modality: Modality | None,
        cache_bytes: int,
        spill_folder: Path | None = None,
        weights_sha256: str = "",
    ) -> None:
        self.image = image
        self.grid = Grid.of(image)
        self.network = network
        self.frame_format = frame_format
        self._window = window
        self._modality = modality
        self._cache_bytes = cache_bytes
        self._spill_folder = spill_folder
        self._weights_sha256 = weights_sha256
        self._sources: OrderedDict[tuple[Plane, Crop], FeatureCache] = OrderedDict()
        self._tracks: OrderedDict[TrackKey, Track] = OrderedDict()

    @cached_property
    def window(self) -> IntensityWindow:
        """The intensities that become black and white, chosen when first needed."""
        return choose_window(self.image, self._window, self._modality)

    @cached_property
    def _key(self) -> str:
        if self._spill_folder is None:
            return uuid.uuid4().hex
        from volseg.data import image_sha256

        return f"{image_sha256(self.image)} {self._weights_sha256} {self.window.low} {self.window.high}"

    def source(self, view: SliceView, crop: Crop) -> FeatureCache:
        """The encoded slices of a plane and crop; those not used for longest make room."""
        key = (view.plane, crop)
        if key not in self._sources:
            # Axes only: the encoding must not be kept alive by its own caches.
            slices, window, frame_format = view.array(self.image), self.window, self.frame_format

            def load_frame(index: int) -> Tensor:
                return make_frames(slices, [index], crop, window, frame_format)[0]

            self._sources[key] = FeatureCache(
                self.network,
                load_frame,
                view.count,
                key=f"{self._key} {view.plane} {crop} {frame_format}",
                # Half for the crop in use, half for those before it: together no more than the budget.
                byte_budget=self._cache_bytes // 2,
                spill_folder=self._spill_folder,
                step_pixels=crop.step_pixels(view.grid.spacing_mm, frame_format.image_size),
            )
        self._sources.move_to_end(key)
        others = [self._sources[other] for other in self._sources if other != key]
        while others and sum(other.nbytes for other in others) > self._cache_bytes // 2:
            self._sources.popitem(last=False)
            others.pop(0)
        return self._sources[key]

    def track(self, key: TrackKey) -> Track | None:
        """The latest track of an object in a plane and crop."""
        return self._tracks.get(key)

    def remember(self, key: TrackKey, track: Track) -> None:
        """Keeps a track as the start of later corrections."""
        self._tracks[key] = track
        self._tracks.move_to_end(key)
        while len(self._tracks) > MAX_TRACKS:
            self._tracks.popitem(last=False)

    @property
    def encodes(self) -> int:
        """How many slices the present sources have encoded."""
        return sum(source.encodes for source in self._sources.values())

    def close(self) -> None:
        """Frees everything that was computed."""
        self._sources.clear()
        self._tracks.clear()
