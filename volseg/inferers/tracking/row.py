"""One object in one direction while it is being tracked: a row of the batch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

from volseg.inferers.tracking.memory import MemoryRecipe, memory_recipe
from volseg.inferers.tracking.plan import PassPlan
from volseg.inferers.tracking.reach import Reach
from volseg.inferers.tracking.settings import TrackSettings
from volseg.inferers.tracking.state import FrameResult, PromptedFrame, mask_dice


class PassRow:
    """Walks one pass frame by frame and holds the memories that SAM 2 still reads.

    Args:
        object_id: whose pass it is.
        plan: where it goes.
        prompted: the prompted frames.
        reach: how far the object is expected to go.
        device: the network's.
        settings: when to stop.
        memory_frames: see `Sam2Spec`.
        pointer_span: the most pointers a frame may read.
    """

    def __init__(
        self,
        object_id: Hashable,
        plan: PassPlan,
        prompted: Mapping[int, PromptedFrame],
        reach: Reach,
        device: torch.device,
        settings: TrackSettings,
        memory_frames: int,
        pointer_span: int,
    ) -> None:
        self.object_id = object_id
        self.direction = plan.direction
        self.results: dict[int, FrameResult] = dict(plan.kept)
        self.frame: int | None = None
        self._plan = plan
        self._conditioning = {
            frame: (one.memory.to(device), one.result.pointer.to(device)) for frame, one in prompted.items()
        }
        self._said = prompted
        self.reach = reach
        self._prompted = sorted(prompted)
        self._settings = settings
        self._memory_frames = memory_frames
        self._pointer_span = pointer_span
        self._memories: dict[int, Tensor] = {}
        self._pointers: dict[int, Tensor] = {}
        self._empty = 0
        self._unchanged = 0
        if plan.seeds:
            self._move_to(plan.seeds[0])

    @property
    def frames_left(self) -> int:
        """At most so many frames are still to be tracked."""
        return 0 if self.frame is None else (self._plan.end - self.frame) * self.direction + 1

    def recipe(self) -> MemoryRecipe:
        """What the current frame reads."""
        assert self.frame is not None
        return memory_recipe(
            self.frame,
            self.direction,
            self._prompted,
            self._pointers.keys(),
            max_conditioning_frames=self._settings.max_conditioning_frames,
            memory_frames=self._memory_frames,
            pointer_span=self._pointer_span,
        )

    def previous(self) -> FrameResult:
        """What is known of the frame before, in the order of the pass; of the nearest prompted one if nothing is."""
        assert self.frame is not None
        behind = self.frame - self.direction
        if behind in self.results and behind not in self._said:
            return self.results[behind]
        return self._said[min(self._prompted, key=lambda other: abs(other - behind))].result

    def memory(self, frame: int) -> Tensor:
        """The spatial memory ``[H * W, 64]`` of a frame in the recipe."""
        return self._conditioning[frame][0] if frame in self._conditioning else self._memories[frame]

    def pointer(self, frame: int) -> Tensor:
        """The object pointer ``[width]`` of a frame in the recipe."""
        return self._conditioning[frame][1] if frame in self._conditioning else self._pointers[frame]

    def forgotten(self) -> dict[int, FrameResult]:
        """Frames behind whose results were kept from an earlier run, and whose memories this frame would read."""
        assert self.frame is not None
        behind = (self.frame - self.direction * distance for distance in range(1, self._pointer_span))
        return {frame: self.results[frame] for frame in behind if frame in self.results and frame not in self._pointers}

    def within_memory(self, frame: int) -> bool:
        """Whether the current frame would read the spatial memory of a frame behind, not only its pointer."""
        assert self.frame is not None
        return (self.frame - frame) * self.direction < self._memory_frames

    def recall(self, frame: int, pointer: Tensor, memory: Tensor | None) -> None:
        """Puts a forgotten frame back into the bank; ``memory`` is None where only the pointer is read."""
        self._pointers[frame] = pointer
        if memory is not None:
            self._memories[frame] = memory

    def record(self, result: FrameResult, memory: Tensor, pointer: Tensor) -> None:
        """Takes the result of the current frame and goes to the next one.

        Args:
            result: what is kept.
            memory: spatial memory on the network's device.
            pointer: object pointer on the network's device.
        """
        frame = self.frame
        assert frame is not None
        before = self.results.get(frame)
        self.results[frame] = result
        self._memories[frame], self._pointers[frame] = memory, pointer
        self._empty = self._empty + 1 if result.logits is None or result.score <= 0 else 0
        same = before is not None and mask_dice(before.logits, result.logits) >= self._settings.unchanged_dice
        self._unchanged = self._unchanged + 1 if same else 0
        if self._settings.stop_after_empty is not None and self._empty >= self._settings.stop_after_empty:
            self._drop_after(frame)
            self._jump()
        elif self._plan.stops_unchanged and self._unchanged >= self._settings.stop_after_unchanged:
            self._jump()
        else:
            self._move_to(frame + self.direction)

    def _drop_after(self, frame: int) -> None:
        """The object ended here: older results up to the next prompted frame are void."""
        step = frame + self.direction
        while step not in self._conditioning and (self._plan.end - step) * self.direction >= 0:
            self.results.pop(step, None)
            step += self.direction

    def _jump(self) -> None:
        assert self.frame is not None
        ahead = [seed for seed in self._plan.seeds if (seed - self.frame) * self.direction > 0]
        if ahead:
            self._move_to(ahead[0])
            self._empty = self._unchanged = 0
        else:
            self._finish()

    def _move_to(self, frame: int) -> None:
        while frame in self._conditioning:
            frame += self.direction
            self._empty = self._unchanged = 0
        if (self._plan.end - frame) * self.direction < 0:
            self._finish()
            return
        self.frame = frame
        for bank, reach in ((self._memories, self._memory_frames), (self._pointers, self._pointer_span)):
            for old in [other for other in bank if (frame - other) * self.direction >= reach]:
                del bank[old]

    def _finish(self) -> None:
        self.frame = None
        self._memories.clear()
        self._pointers.clear()
