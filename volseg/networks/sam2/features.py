"""The tensors that pass between the steps of the network. A row is one object in one direction on one frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FrameFeatures:
    """What the image encoder says about frames; independent of objects and prompts.

    Attributes:
        level0: ``[N, width / 8, S / 4, S / 4]``, finest features for the mask decoder.
        level1: ``[N, width / 4, S / 8, S / 8]``.
        embedding: ``[N, width, S / 16, S / 16]``, the image embedding.
        looked: ``[N, S / 16 * S / 16, width]``, the embedding after its first look at itself, before any memory is read
            (see `memory_attention.first_look`); None while training.
    """

    level0: Tensor
    level1: Tensor
    embedding: Tensor
    looked: Tensor | None = None

    def __len__(self) -> int:
        """The number of frames (or rows)."""
        return int(self.embedding.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes the tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def rows(self, frame_of_row: Sequence[int]) -> FrameFeatures:
        """The features of frame ``frame_of_row[r]`` for every row; rows that share one frame share its memory."""
        if len(set(frame_of_row)) == 1:
            only, count = frame_of_row[0], len(frame_of_row)
            return self._each(lambda tensor: tensor[only : only + 1].expand(count, *tensor.shape[1:]))
        if list(frame_of_row) == list(range(len(self))):
            return self
        index = torch.tensor(list(frame_of_row), device=self.embedding.device)
        return self._each(lambda tensor: tensor.index_select(0, index))

    def to(self, device: torch.device | str) -> FrameFeatures:
        """The same features on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    @staticmethod
    def concatenate(parts: Sequence[FrameFeatures]) -> FrameFeatures:
        """Stacks frames of several features in order."""
        if len(parts) == 1:
            return parts[0]
        several = [part.tensors() for part in parts]
        return FrameFeatures(**{name: torch.cat([one[name] for one in several]) for name in several[0]})

    def tensors(self) -> dict[str, Tensor]:
        """What there is, by name."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: tensor for name, tensor in named if tensor is not None}

    def _each(self, change: Callable[[Tensor], Tensor]) -> FrameFeatures:
        return FrameFeatures(**{name: change(tensor) for name, tensor in self.tensors().items()})


@dataclass(frozen=True, eq=False)
class FrameOutput:
    """What the mask decoder says about rows.

    Attributes:
        low_res_logits: ``[R, 1, S / 4, S / 4]``, the chosen mask; -1024 everywhere where the object is absent.
        object_pointer: ``[R, width]``, a vector that stands for the object on this frame.
        object_score_logits: ``[R, 1]``, above zero where the object is on the frame.
        iou: ``[R, 1]``, the network's own estimate of the chosen mask's IoU.
        candidate_logits: ``[R, M, S / 4, S / 4]``, every mask it could have chosen (M is 1 or 3), without regard to
            the object score; training looks at these.
        candidate_iou: ``[R, M]``.
    """

    low_res_logits: Tensor
    object_pointer: Tensor
    object_score_logits: Tensor
    iou: Tensor
    candidate_logits: Tensor
    candidate_iou: Tensor


@dataclass(frozen=True, eq=False)
class MemoryRows:
    """The memories that rows read, as many for each row.

    Attributes:
        spatial: ``[R, M, H * W, 64]``, spatial memories, ``H = W = S / 16``.
        offsets: ``[R, M]`` integers: 0 for a conditioning frame, else how many frames before (in the direction of
            tracking) the memory lies, up to ``memory_frames - 1``.
        pointers: ``[R, K, width]``, object pointers.
        pointer_offsets: ``[R, K]``, how many frames before the pointer lies.
        pointer_span: the most pointers that a frame of this volume could read, ``min(frames, max_object_pointers)``;
            pointer offsets are scaled by it.
    """

    spatial: Tensor
    offsets: Tensor
    pointers: Tensor
    pointer_offsets: Tensor
    pointer_span: int
