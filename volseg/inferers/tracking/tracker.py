"""Tracks objects through frames: every object and direction is a row of one batch.

Each pass is what SAM 2's own predictor does in a fresh session with that one object and direction and all prompts given
before it starts. A prompted frame is always a conditioning frame decoded from all its prompts, so a click on a frame
that was already tracked counts.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor

from volseg.errors import PromptError
from volseg.inferers.tracking.features import FrameSource
from volseg.inferers.tracking.plan import PassPlan, fresh_pass, outward_pass
from volseg.inferers.tracking.prompts import FramePrompts
from volseg.inferers.tracking.reach import Reach
from volseg.inferers.tracking.row import PassRow
from volseg.inferers.tracking.settings import TrackSettings
from volseg.inferers.tracking.state import Direction, FrameResult, PromptedFrame, Track
from volseg.networks.sam2.carry import carried_mask
from volseg.networks.sam2.features import FrameFeatures, FrameOutput, MemoryRows
from volseg.networks.sam2.network import ABSENT_LOGIT, MEMORY_BIAS, Sam2Network
from volseg.progress import ProgressCallback, report

ObjectId = TypeVar("ObjectId", bound=Hashable)


@dataclass(frozen=True, eq=False)
class TrackRequest:
    """What is wanted for one object.

    Attributes:
        prompts: what was said, by frame. Empty gives an empty track.
        first: first frame to track to.
        last: last one, or None for the end.
        anchors: the prompted frames that say what the object is, None for all; the others are corrections. It matters
            to networks that expect ends (see `networks.sam2.carry`).
        previous: the earlier track of the object, to compute only what changed.
        exact: with ``previous``, compute every frame that the change can reach, so that the result is that of a fresh
            run; else start at the changed frames and stop where the masks do not change.
    """

    prompts: Mapping[int, FramePrompts]
    first: int = 0
    last: int | None = None
    anchors: frozenset[int] | None = None
    previous: Track | None = None
    exact: bool = False


@dataclass(frozen=True, eq=False)
class TrackUpdate:
    """A frame that one pass (or a prompt, then ``direction`` is None) has just finished."""

    object_id: Hashable
    frame: int
    direction: Direction | None
    result: FrameResult


class Tracker:
    """Tracks objects through the frames of one source.

    Args:
        network: SAM 2.
        source: the frames.
        settings: when to stop, and how much to read.
    """

    def __init__(self, network: Sam2Network, source: FrameSource, settings: TrackSettings | None = None) -> None:
        self.network = network
        self.source = source
        self.settings = settings or TrackSettings()
        self._pointer_span = min(source.frame_count, network.spec.max_object_pointers)

    def track(
        self, requests: Mapping[ObjectId, TrackRequest], progress: ProgressCallback | None = None
    ) -> dict[ObjectId, Track]:
        """Tracks all objects.

        Args:
            requests: what is wanted, by object.
            progress: told how far it is; may cancel.

        Raises:
            PromptError: a prompt lies on no frame or does not fit the network's input.
            Cancelled: ``progress`` asked to stop. Earlier tracks are as they were.
        """
        steps = self.stream(requests, progress)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                tracks: dict[ObjectId, Track] = end.value
                return tracks

    def stream(
        self, requests: Mapping[ObjectId, TrackRequest], progress: ProgressCallback | None = None
    ) -> Generator[TrackUpdate, None, dict[ObjectId, Track]]:
        """Like `track`, and yields every frame as it is made; the tracks are the generator's return value."""
        for object_id, request in requests.items():
            self._check(object_id, request)
        todo = {object_id: r for object_id, r in requests.items() if not self._is_current(r)}
        report(progress, 0.0, "decoding prompts")
        prompted = yield from self._decode_prompts(todo)
        rows: dict[tuple[ObjectId, Direction], PassRow] = {}
        for object_id, request in todo.items():
            reach = self._reach(request, prompted[object_id])
            for direction in Direction:
                plan = self._plan(request, direction)
                if plan is not None:
                    spans = (self.network.spec.memory_frames, self._pointer_span)
                    rows[object_id, direction] = PassRow(
                        object_id, plan, prompted[object_id], reach, self.network.device, self.settings, *spans
                    )
        yield from self._run(list(rows.values()), progress)
        tracks: dict[ObjectId, Track] = {}
        for object_id, request in requests.items():
            if object_id not in todo:
                assert request.previous is not None
                tracks[object_id] = request.previous
                continue
            passes = {d: rows[object_id, d].results if (object_id, d) in rows else {} for d in Direction}
            tracks[object_id] = Track(
                source_key=self.source.key,
                frame_count=self.source.frame_count,
                first=request.first,
                last=self._last(request),
                prompted=MappingProxyType(prompted[object_id]),
                forward=MappingProxyType(passes[Direction.FORWARD]),
                backward=MappingProxyType(passes[Direction.BACKWARD]),
            )
        report(progress, 1.0, "tracked")
        return tracks

    def _check(self, object_id: Hashable, request: TrackRequest) -> None:
        count, side = self.source.frame_count, self.network.spec.image_size
        for frame, prompts in request.prompts.items():
            if not 0 <= frame < count:
                raise PromptError(f"object {object_id} is prompted on frame {frame}; expected 0 to {count - 1}")
            if prompts.mask is not None and prompts.mask.shape != (side, side):
                raise PromptError(
                    f"object {object_id} has a mask of shape {prompts.mask.shape} on frame {frame}; "
                    f"expected the network's input, {(side, side)}"
                )
        if not 0 <= request.first <= self._last(request) < count:
            raise PromptError(
                f"object {object_id} is limited to frames {request.first} to {self._last(request)}; "
                f"expected a range within 0 to {count - 1}"
            )

    def _last(self, request: TrackRequest) -> int:
        return self.source.frame_count - 1 if request.last is None else request.last

    def _comparable(self, request: TrackRequest) -> Track | None:
        """The earlier track, if it is of these frames."""
        previous = request.previous
        return previous if previous is not None and previous.source_key == self.source.key else None

    def _is_current(self, request: TrackRequest) -> bool:
        previous = self._comparable(request)
        return (
            previous is not None
            and (previous.first, previous.last) == (request.first, self._last(request))
            and not _changed_frames(request.prompts, previous)
        )

    def _plan(self, request: TrackRequest, direction: Direction) -> PassPlan | None:
        frames = sorted(request.prompts)
        if not frames:
            return None
        limits = (request.first, self._last(request))
        previous = self._comparable(request)
        if previous is None or not previous.prompted or request.exact:
            return fresh_pass(direction, frames, *limits)
        return outward_pass(direction, frames, *limits, previous, _changed_frames(request.prompts, previous))

    def _decode_prompts(
        self, requests: Mapping[ObjectId, TrackRequest]
    ) -> Generator[TrackUpdate, None, dict[ObjectId, dict[int, PromptedFrame]]]:
        """Decodes every prompted frame whose prompts are new, all objects of a frame in one batch."""
        prompted: dict[ObjectId, dict[int, PromptedFrame]] = {object_id: {} for object_id in requests}
        todo: dict[int, list[ObjectId]] = {}
        for object_id, request in requests.items():
            previous = self._comparable(request)
            for frame, prompts in request.prompts.items():
                known = previous.prompted.get(frame) if previous is not None else None
                if known is not None and known.prompts == prompts:
                    prompted[object_id][frame] = known
                else:
                    todo.setdefault(frame, []).append(object_id)
        for frame, object_ids in sorted(todo.items()):
            features = self.source.features([frame])
            same: dict[tuple[int, bool], list[ObjectId]] = {}
            for object_id in object_ids:
                same.setdefault(requests[object_id].prompts[frame].signature, []).append(object_id)
            for group in same.values():
                for chunk in _chunks(group, self.settings.rows_per_batch):
                    prompts_of_row = [requests[object_id].prompts[frame] for object_id in chunk]
                    for object_id, one in zip(chunk, self._prompted_frames(features, prompts_of_row), strict=True):
                        prompted[object_id][frame] = one
                        yield TrackUpdate(object_id, frame, None, one.result)
        return prompted

    def _prompted_frames(self, features: FrameFeatures, prompts: Sequence[FramePrompts]) -> list[PromptedFrame]:
        network, device = self.network, self.network.device
        points_xy = torch.stack([torch.tensor(one.points_xy, device=device) for one in prompts])
        labels = torch.stack([torch.tensor(one.labels, device=device) for one in prompts])
        masks = [torch.tensor(one.mask, device=device)[None].float() for one in prompts if one.mask is not None]
        rows = features.rows([0] * len(prompts))
        with network.inference():
            mask_logits: Tensor | None = None
            if masks:
                output = network.use_mask(rows, torch.stack(masks))
                mask_logits = output.low_res_logits
            if points_xy.shape[1]:
                output = network.decode(rows, points_xy=points_xy, labels=labels, mask_logits=mask_logits)
            memory = network.encode_memory(rows, output.low_res_logits, output.object_score_logits, prompted=True).cpu()
        results = self._results(output)
        return [
            PromptedFrame(one, result, row.clone()) for one, result, row in zip(prompts, results, memory, strict=True)
        ]

    def _run(self, rows: Sequence[PassRow], progress: ProgressCallback | None) -> Generator[TrackUpdate, None, None]:
        """Moves all rows to their ends; rows of one direction go abreast, so that each frame is encoded once."""
        done = 0
        while active := [row for row in rows if row.frame is not None]:
            left = sum(row.frames_left for row in active)
            report(progress, done / (done + left), f"tracking {len(active)} passes")
            abreast: list[PassRow] = []
            for direction in Direction:
                same_way = [row for row in active if row.direction is direction]
                if same_way:
                    front = min(row.frame * direction for row in same_way if row.frame is not None) * direction
                    abreast += [row for row in same_way if row.frame == front]
            for update in self._step(abreast):
                done += 1
                yield update

    def _step(self, rows: Sequence[PassRow]) -> list[TrackUpdate]:
        """Tracks the current frame of each row."""
        frames = sorted({row.frame for row in rows if row.frame is not None})
        features = self.source.features(frames)
        self._recall(rows)
        groups: dict[tuple[int, int], list[PassRow]] = {}
        for row in rows:
            groups.setdefault(row.recipe().signature, []).append(row)
        updates = []
        for group in groups.values():
            for chunk in _chunks(group, self.settings.rows_per_batch):
                at = [row.frame for row in chunk if row.frame is not None]
                rows_features = features.rows([frames.index(frame) for frame in at])
                with self.network.inference():
                    conditioned = self.network.condition_on_memory(rows_features, self._memories(chunk))
                    carried, known = self._carried(chunk)
                    output = self._decode(rows_features, conditioned, carried, known)
                    memory = self.network.encode_memory(
                        rows_features, output.low_res_logits, output.object_score_logits, prompted=False
                    )
                for index, (row, frame, result) in enumerate(zip(chunk, at, self._results(output), strict=True)):
                    row.record(result, memory[index], output.object_pointer[index])
                    updates.append(TrackUpdate(row.object_id, frame, row.direction, result))
        return updates

    def _reach(self, request: TrackRequest, prompted: Mapping[int, PromptedFrame]) -> Reach:
        first, last = request.first, self._last(request)
        return Reach(
            prompted,
            prompted.keys() if request.anchors is None else request.anchors & prompted.keys(),
            first if first > 0 else None,
            last if last < self.source.frame_count - 1 else None,
            self.source.step_pixels,
        )

    def _decode(
        self, features: FrameFeatures, conditioned: Tensor, carried: Tensor | None, known: Tensor | None
    ) -> FrameOutput:
        if carried is None:
            return self.network.decode(features, conditioned=conditioned)
        return self.network.decode(features, conditioned=conditioned, mask_logits=carried, known=known)

    def _carried(self, rows: Sequence[PassRow]) -> tuple[Tensor | None, Tensor | None]:
        """What networks that were trained with it are also told: the masks of the frames before, and what is known."""
        if not self.network.spec.carry_mask:
            return None, None
        logits = torch.stack([self._kept_logits(row.previous()) for row in rows])[:, None]
        frames = [row.frame for row in rows if row.frame is not None]
        travelled = [row.reach.travelled(frame) for row, frame in zip(rows, frames, strict=True)]
        known = [row.reach.is_between(frame) for row, frame in zip(rows, frames, strict=True)]
        faded = carried_mask(logits, torch.tensor(travelled, device=logits.device))
        return faded, torch.tensor(known, device=logits.device)

    def _kept_logits(self, result: FrameResult) -> Tensor:
        """``[S / 4, S / 4]`` on the network's device, also of an empty mask."""
        device, side = self.network.device, self.network.spec.mask_size
        if result.logits is None:
            return torch.full((side, side), MEMORY_BIAS if result.score > 0 else ABSENT_LOGIT, device=device)
        return result.logits.to(device).float()

    def _memories(self, rows: Sequence[PassRow]) -> MemoryRows:
        recipes = [row.recipe() for row in rows]
        count, pointers = recipes[0].signature
        spatial = [row.memory(frame) for row, r in zip(rows, recipes, strict=True) for _, frame in r.spatial]
        vectors = [row.pointer(frame) for row, r in zip(rows, recipes, strict=True) for _, frame in r.pointers]
        device = self.network.device
        width = self.network.spec.width
        return MemoryRows(
            spatial=torch.stack(spatial).reshape(len(rows), count, *spatial[0].shape),
            offsets=torch.tensor([[offset for offset, _ in r.spatial] for r in recipes], device=device),
            pointers=torch.stack(vectors).reshape(len(rows), pointers, width)
            if vectors
            else torch.zeros(len(rows), 0, width, device=device),
            pointer_offsets=torch.tensor([[offset for offset, _ in r.pointers] for r in recipes], device=device),
            pointer_span=self._pointer_span,
        )

    def _recall(self, rows: Iterable[PassRow]) -> None:
        """Encodes again the memories that a row would read of frames it kept from an earlier run.

        Keeping them all would take 128 bytes a memory pixel and frame; most are never read again.
        """
        for row in rows:
            for frame, result in row.forgotten().items():
                memory = self._memory_again(frame, result) if row.within_memory(frame) else None
                row.recall(frame, result.pointer.to(self.network.device), memory)

    def _memory_again(self, frame: int, result: FrameResult) -> Tensor:
        device = self.network.device
        logits = self._kept_logits(result)
        score = torch.tensor([[result.score]], device=device)
        with self.network.inference():
            features = self.source.features([frame])
            return self.network.encode_memory(features, logits[None, None], score, prompted=False)[0]

    def _results(self, output: FrameOutput) -> list[FrameResult]:
        """What is kept of each row, on the CPU."""
        occupied = output.low_res_logits.flatten(1).gt(0).any(dim=1).tolist()
        dtype = torch.float16 if self.settings.keep_logits == "float16" else torch.float32
        logits = output.low_res_logits[:, 0].to(dtype).cpu()
        pointers = output.object_pointer.cpu()
        scores = output.object_score_logits[:, 0].tolist()
        return [
            FrameResult(row_logits.clone() if some else None, score, pointer.clone())
            for row_logits, some, score, pointer in zip(logits, occupied, scores, pointers, strict=True)
        ]


def _changed_frames(prompts: Mapping[int, FramePrompts], previous: Track) -> set[int]:
    """Frames on which prompts came, went or changed."""
    before = {frame: one.prompts for frame, one in previous.prompted.items()}
    return {frame for frame in {*before, *prompts} if before.get(frame) != prompts.get(frame)}


Item = TypeVar("Item")


def _chunks(items: Sequence[Item], size: int) -> Iterable[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
