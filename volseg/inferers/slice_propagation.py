"""Covers a volume with SAM 2: prompts are decoded on their slices and the masks are tracked through the others."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.inferers import Inferer
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from volseg.data.modality import Modality
from volseg.data.object_mask import ObjectMask
from volseg.geometry import Grid, Plane
from volseg.inferers.batch import segment_batch
from volseg.inferers.slices.assemble import PlaneLogits, assemble
from volseg.inferers.slices.crop import Crop
from volseg.inferers.slices.encoding import SliceEncoding
from volseg.inferers.slices.frames import FrameFormat
from volseg.inferers.slices.plan import PlanePrompts, plan_object
from volseg.inferers.slices.shown import frame_prompts
from volseg.inferers.slices.zoom import Extent, ZoomSettings, choose_crop, widened
from volseg.inferers.tracking import FramePrompts, Track, Tracker, TrackRequest, TrackSettings, TrackUpdate
from volseg.progress import Part, ProgressCallback
from volseg.prompts import PromptedObject, PromptSet

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from volseg.networks.sam2.network import Sam2Network

logger = logging.getLogger(__name__)

PREVIEW_SECONDS = 0.3
"""Masks are shown as they grow no more often than this."""

MIDDLE = 0.8
"""A click is in the middle of a mask if it is so far from its border, as a part of the furthest that one can be."""


@dataclass(frozen=True, eq=False)
class _Job:
    """One object in one plane."""

    item: PromptedObject
    prompts: PlanePrompts
    crop: Crop
    widenings: int = 0

    @property
    def key(self) -> tuple[int, Plane, Crop]:
        return self.item.object_id, self.prompts.view.plane, self.crop


class SlicePropagationInferer(Inferer):  # type: ignore[misc]
    """SAM 2 over a volume, as a MONAI inferer.

    Works on the image's native grid and gives labels there, so a bundle needs no inverse transforms. ``__call__`` is
    ``encode`` followed by ``segment``; an interactive program calls the two itself and keeps the encoding.

    Args:
        frame_format: how the network wants its images.
        zoom: when and how far to zoom.
        tracking: how slices are tracked.
        cache_bytes: encoded slices kept in memory per image.
        spill_folder: where encoded slices are also kept on disk, None for nowhere.
        weights_sha256: names the network's weights in that folder.
        window: a preset's name, ``"LO,HI"``, or None to choose by modality.
        plane: the plane to track along, or None to choose by prompts and spacing.
        modality: None reads it from the image or guesses.
    """

    def __init__(
        self,
        frame_format: FrameFormat,
        zoom: ZoomSettings | None = None,
        tracking: TrackSettings | None = None,
        *,
        cache_bytes: int = 64 << 20,
        spill_folder: Path | str | None = None,
        weights_sha256: str = "",
        window: str | None = None,
        plane: Plane | str | None = None,
        modality: Modality | str | None = None,
    ) -> None:
        super().__init__()
        self.frame_format = frame_format
        self.zoom = zoom or ZoomSettings()
        self.tracking = tracking or TrackSettings()
        self.cache_bytes = cache_bytes
        self.spill_folder = None if spill_folder is None else Path(spill_folder)
        self.weights_sha256 = weights_sha256
        self.window = window
        self.plane = None if plane is None else Plane(plane)
        self.modality = None if modality is None else Modality(modality)

    def with_choices(
        self, window: str | None, plane: Plane | None, modality: Modality | None
    ) -> SlicePropagationInferer:
        """The same inferer with another window, plane and modality."""
        return SlicePropagationInferer(
            self.frame_format,
            self.zoom,
            self.tracking,
            cache_bytes=self.cache_bytes,
            spill_folder=self.spill_folder,
            weights_sha256=self.weights_sha256,
            window=window,
            plane=plane,
            modality=modality,
        )

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Any],
        *args: Any,
        prompts: Sequence[str] | str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Segments a batch.

        Args:
            inputs: [B, 1, I, J, K] ``MetaTensor`` in the image's units.
            network: a ``Sam2Network``.
            args: not used; part of MONAI's signature.
            prompts: for each image its prompts as JSON (``PromptSet.dumps``), or None for those in its ``meta``.
            kwargs: not used; part of MONAI's signature.

        Returns:
            [B, 1, I, J, K] label values as floats, 0 is background; later objects win where objects overlap.

        Raises:
            PromptError: not one prompt string for each image, or a prompt that does not fit.
            GeometryError: the images have no affine.
        """

        def segment(image: MetaTensor, said: PromptSet) -> Sequence[ObjectMask]:
            return self.segment(self.encode(image, network), said)  # type: ignore[arg-type]

        return segment_batch(inputs, prompts, segment)

    def encode(self, image: MetaTensor, network: Sam2Network) -> SliceEncoding:
        """Prepares an image [1, I, J, K]; slices are encoded when a prompt needs them."""
        return SliceEncoding(
            image,
            network,
            self.frame_format,
            window=self.window,
            modality=self.modality,
            cache_bytes=self.cache_bytes,
            spill_folder=self.spill_folder,
            weights_sha256=self.weights_sha256,
        )

    def segment(
        self,
        encoding: SliceEncoding,
        prompts: PromptSet,
        *,
        exact: bool = False,
        progress: ProgressCallback | None = None,
        partial: Callable[[ObjectMask], None] | None = None,
    ) -> tuple[ObjectMask, ...]:
        """Segments every object.

        Args:
            encoding: of the image.
            prompts: checked, in voxel indices of the image's grid.
            exact: after a correction, compute all that it can change, not only outward until nothing changes.
            progress: told the part done; may cancel.
            partial: given masks as they grow.
        """
        planned = [(item, plan_object(item, encoding.grid, self.plane)) for item in prompts.objects]
        jobs = [_Job(item, plane, self._crop(encoding, plane)) for item, planes in planned for plane in planes]
        done: dict[tuple[int, Plane], PlaneLogits] = {}
        total = len(jobs)
        while jobs:
            by_source: defaultdict[tuple[Plane, Crop], list[_Job]] = defaultdict(list)
            for job in jobs:
                by_source[job.prompts.view.plane, job.crop].append(job)
            jobs = []
            for same_source in by_source.values():
                part = Part(progress, len(done) / total, len(same_source) / total)
                tracks = self._track(encoding, same_source, exact, part, partial)
                for job, track in zip(same_source, tracks, strict=True):
                    again = self._wider(job, track)
                    if again is None:
                        done[job.key[:2]] = _plane_logits(job, track)
                    else:
                        jobs.append(again)
        return tuple(
            assemble(item.object_id, encoding.grid, [done[item.object_id, plane.view.plane] for plane in planes])
            for item, planes in planned
        )

    def _crop(self, encoding: SliceEncoding, prompts: PlanePrompts) -> Crop:
        def decode_extent(crop: Crop) -> Extent | None:
            """Where the masks of the prompted slices are, each decoded for itself."""
            shown = self._shown(prompts, crop)
            tracker = Tracker(encoding.network, encoding.source(prompts.view, crop), self.tracking)
            requests = {i: TrackRequest({i: one}, first=i, last=i) for i, one in shown.items() if 1 in one.labels}
            masks = [track.mask(index).logits for index, track in tracker.track(requests).items()]
            return _logits_extent([mask for mask in masks if mask is not None], crop)

        return choose_crop(prompts, self.zoom, decode_extent)

    def _shown(self, prompts: PlanePrompts, crop: Crop) -> dict[int, FramePrompts]:
        size = self.frame_format.image_size
        frames = {index: frame_prompts(said, crop, size) for index, said in prompts.slices.items()}
        return {index: frame for index, frame in frames.items() if frame is not None}

    def _track(
        self,
        encoding: SliceEncoding,
        jobs: Sequence[_Job],
        exact: bool,
        progress: ProgressCallback,
        partial: Callable[[ObjectMask], None] | None,
    ) -> list[Track]:
        """Tracks objects that look at the same frames, as rows of one batch.

        The anchors come first, then one correction after the other, each on top of what was there before it: a click
        corrects the mask that the person saw. What was tracked before is remembered, so that a new click tracks once.
        """
        view, crop = jobs[0].prompts.view, jobs[0].crop
        tracker = Tracker(encoding.network, encoding.source(view, crop), self.tracking)
        preview = _Preview({job.item.object_id: job for job in jobs}, encoding.grid, partial)
        said = {job.item.object_id: self._shown(job.prompts, crop) for job in jobs}
        frames = {
            job.item.object_id: {i: one for i, one in said[job.item.object_id].items() if i in job.prompts.anchors}
            for job in jobs
        }
        rounds = 1 + max(len(job.prompts.corrections) for job in jobs)
        # What was there before this call: only a person's own correction is computed outward from the earlier result.
        known = {
            (job.item.object_id, count): encoding.track((*job.key, count)) for job in jobs for count in range(rounds)
        }
        tracks: dict[int, Track] = {}
        for corrections in range(rounds):
            requests = {}
            of = [job for job in jobs if len(job.prompts.corrections) >= corrections]
            for job in of:
                object_id, prompts = job.item.object_id, job.prompts
                before = tracks.get(object_id)
                if before is not None:
                    shown = {
                        i: said[object_id][i] for i in prompts.corrections[corrections - 1] if i in said[object_id]
                    }
                    frames[object_id] |= self._on_top_of(before, shown, encoding.network.spec.carry_mask)
                requests[object_id] = TrackRequest(
                    dict(frames[object_id]),
                    prompts.first,
                    prompts.last,
                    anchors=prompts.anchors,
                    previous=known[object_id, corrections] or known.get((object_id, corrections - 1)),
                    exact=exact,
                )
            steps = tracker.stream(requests, Part(progress, corrections / rounds, 1 / rounds))
            while True:
                try:
                    preview.add(next(steps))
                except StopIteration as end:
                    tracks.update(end.value)
                    break
            for job in of:
                encoding.remember((*job.key, corrections), tracks[job.item.object_id])
        return [tracks[job.item.object_id] for job in jobs]

    def _on_top_of(self, track: Track, said: Mapping[int, FramePrompts], anywhere: bool) -> dict[int, FramePrompts]:
        """Clicks with the masks they correct.

        Clicks that only take away are left out where there is no mask.

        Args:
            track: what was there before.
            said: the clicks, by slice.
            anywhere: where the object was not found, clicks correct the mask of the nearest slice that has one.
        """
        size = (self.frame_format.image_size, self.frame_format.image_size)
        result = {}
        for index, clicks in said.items():
            logits = track.mask(index).logits
            if logits is None and 1 not in clicks.labels:
                continue
            if logits is None and anywhere:
                nearest = sorted(track.reached(), key=lambda frame: abs(frame - index))
                logits = next((found for frame in nearest if (found := track.mask(frame).logits) is not None), None)
            if logits is None:
                result[index] = clicks
                continue
            mask = interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0] > 0
            result[index] = _corrected(clicks, mask.numpy())
        return result

    def _wider(self, job: _Job, track: Track) -> _Job | None:
        """The job in a larger crop, if the crop's border cuts the object."""
        if job.widenings >= self.zoom.max_widenings or job.crop.covers(job.prompts.view.slice_shape):
            return None
        masks = [track.mask(frame).logits for frame in track.reached()]
        if not any(mask is not None and _is_cut(mask, job) for mask in masks):
            return None
        crop = widened(job.crop, job.prompts, self.zoom)
        return None if crop == job.crop else dataclasses.replace(job, crop=crop, widenings=job.widenings + 1)


class _Preview:
    """Shows masks as they grow, now and then."""

    def __init__(self, jobs: Mapping[int, _Job], grid: Grid, partial: Callable[[ObjectMask], None] | None) -> None:
        self._jobs, self._grid, self._partial = jobs, grid, partial
        self._logits: defaultdict[int, dict[int, Tensor]] = defaultdict(dict)
        self._last = 0.0

    def add(self, update: TrackUpdate) -> None:
        if self._partial is None:
            return
        object_id = int(str(update.object_id))
        if update.result.logits is not None:
            self._logits[object_id][update.frame] = update.result.logits
        now = time.monotonic()
        # The prompted slice is what a person waits for: it is shown at once.
        if update.direction is None or now - self._last >= PREVIEW_SECONDS:
            self._last = now
            job, logits = self._jobs[object_id], dict(self._logits[object_id])
            plane = PlaneLogits(job.prompts.view, job.crop, logits, {update.frame: update.result.score}, [update.frame])
            self._partial(assemble(object_id, self._grid, [plane]))


def _plane_logits(job: _Job, track: Track) -> PlaneLogits:
    masks = {frame: track.mask(frame) for frame in track.reached()}
    logits = {frame: mask.logits.half() for frame, mask in masks.items() if mask.logits is not None}
    score = {frame: mask.score for frame, mask in masks.items()}
    return PlaneLogits(job.prompts.view, job.crop, logits, score, sorted(track.prompted))


def _logits_extent(logits: Sequence[Tensor], crop: Crop) -> Extent | None:
    """Outer faces, in pixels of the view, of what is above zero in any of the masks."""
    found = [mask.numpy() > 0 for mask in logits]
    if not any(mask.any() for mask in found):
        return None
    union = np.logical_or.reduce(found)
    rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
    height, width = crop.rows / union.shape[0], crop.columns / union.shape[1]
    return (
        crop.row - 0.5 + rows[0] * height,
        crop.column - 0.5 + columns[0] * width,
        crop.row - 0.5 + (rows[-1] + 1) * height,
        crop.column - 0.5 + (columns[-1] + 1) * width,
    )


def _corrected(clicks: FramePrompts, mask: NDArray[np.bool_]) -> FramePrompts:
    """Clicks on a mask; where only clicks outside lie in the middle of a part of it, that part is taken away."""
    from scipy.ndimage import distance_transform_edt, label

    if 1 in clicks.labels:
        return FramePrompts(clicks.points_xy, clicks.labels, mask)
    parts, _ = label(mask)
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    rest, kept = mask.copy(), []
    for place, (column, row) in enumerate(np.clip(np.round(clicks.points_xy).astype(int), 0, len(mask) - 1)):
        part = (parts == parts[row, column]) & mask
        if part[row, column] and depth[row, column] >= MIDDLE * depth[part].max():
            rest &= ~part
        else:
            kept.append(place)
    return FramePrompts(clicks.points_xy[kept], clicks.labels[kept], rest)


def _is_cut(logits: Tensor, job: _Job) -> bool:
    """Whether the mask touches a border of the crop that lies inside the slice."""
    mask = logits > 0
    shape, crop = job.prompts.view.slice_shape, job.crop
    return (
        (crop.row > 0 and bool(mask[0].any()))
        or (crop.column > 0 and bool(mask[:, 0].any()))
        or (crop.row + crop.rows < shape[0] and bool(mask[-1].any()))
        or (crop.column + crop.columns < shape[1] and bool(mask[:, -1].any()))
    )
