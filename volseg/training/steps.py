"""What one optimiser step shows the network: conversations about single images, and clips through memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from volseg.networks.sam2.carry import carried_mask
from volseg.networks.sam2.features import FrameFeatures, FrameOutput, MemoryRows
from volseg.networks.sam2.network import MEMORY_BIAS, MEMORY_SCALE, Sam2Network
from volseg.training import prompts
from volseg.training.config import Precision
from volseg.training.half import in_half
from volseg.training.losses import Loss, frame_loss
from volseg.training.travel import Travel

PREVIOUS_LOGITS_PART = 0.5
"""Part of the corrections that are given the earlier mask; half of these get only the new clicks with it."""
MASK_START_PART, CLICK_START_PART = 0.25, 0.25
CORRECTED_FRAMES = 2
"""Tracked frames of a clip that are corrected."""
MAX_POINTER_SPAN = 16
IMAGE_CONVERSATIONS = ("box", "other")


class Tally:
    """Adds up losses of one step and what the log says about them."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self._weight = 0.0
        self._parts: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, loss: Loss, weight: float = 1.0) -> None:
        """Adds a decoded batch of rows."""
        weighted = weight * loss.total
        self.total = weighted if self.total is None else self.total + weighted
        self._weight += weight
        self._parts[f"dice {name}"].append(loss.dice)
        for part in ("mask", "iou", "presence"):
            self._parts[part].append(getattr(loss, part))

    def mean(self) -> Tensor:
        """The loss to go down on."""
        assert self.total is not None
        return self.total / self._weight

    def numbers(self) -> Mapping[str, float]:
        """Means by name."""
        return {name: float(np.mean(values)) for name, values in self._parts.items()}


def encode(network: Sam2Network, frames: Tensor, precision: Precision) -> FrameFeatures:
    """Encodes normalised frames [N, 3, S, S]; on the CPU this alone runs in bfloat16."""
    cpu = frames.device.type == "cpu"
    with torch.autocast(frames.device.type, torch.bfloat16, enabled=in_half(precision, frames.device)):
        if cpu:
            frames = frames.contiguous(memory_format=torch.channels_last)
        features = network.encode_frames(frames)
    if not cpu:
        return features
    return FrameFeatures(*(one.float() for one in (features.level0, features.level1, features.embedding)))


def image_step(
    network: Sam2Network, frames: Tensor, targets: Tensor, rng: np.random.Generator, precision: Precision
) -> Tally:
    """Two conversations about each image: one that starts with a box and one that does not, each with corrections.

    Args:
        network: in training mode.
        frames: [N, 3, S, S], normalised.
        targets: [N, S, S]; each has the object.
        rng: of the prompts.
        precision: of the image encoder.
    """
    tally = Tally()
    features = encode(network, frames, precision)
    masks = prompts.solid(targets)
    for start in IMAGE_CONVERSATIONS:
        mask_logits: Tensor | None = None
        if start == "box":
            points, labels = prompts.boxes(rng, masks)
            if rng.random() < 0.25:
                points, labels = _joined(points, labels, *prompts.first_clicks(rng, masks))
            name = "box"
        else:
            points, labels, mask_logits, name = _other_start(rng, targets, masks)
        output = decode_prompts(network, features, points, labels, mask_logits)
        tally.add(name, frame_loss(output, targets))
        for _ in range(1 if rng.random() < 0.75 else 2):
            found = full_size(output.low_res_logits, targets.shape[-1]) > 0
            new = prompts.correction_clicks(rng, masks, found.cpu().numpy(), int(rng.choice([1, 1, 2])))
            alone = False
            mask_logits = None
            if rng.random() < PREVIOUS_LOGITS_PART:
                mask_logits = _as_prompt(output.low_res_logits, targets.shape[-1])
                alone = rng.random() < 0.5
            points, labels = new if alone else _joined(points, labels, *new)
            output = decode_prompts(network, features, points, labels, mask_logits)
            tally.add(f"{name} + clicks", frame_loss(output, targets))
    return tally


def clip_step(
    network: Sam2Network,
    frames: Tensor,
    targets: Tensor,
    travel: Travel,
    rng: np.random.Generator,
    precision: Precision,
) -> Tally:
    """Prompts the first frame of clips, tracks the others through memory, and corrects some of them.

    Args:
        network: in training mode.
        frames: [N, T, 3, S, S], normalised, in the order of tracking.
        targets: [N, T, S, S]; the first frame has the object.
        travel: how far the clips have come.
        rng: of the prompts.
        precision: of the image encoder.
    """
    tally = Tally()
    count, length, side = targets.shape[0], targets.shape[1], targets.shape[-1]
    encoded = encode(network, frames.flatten(0, 1), precision)
    at = frames_of_clips(encoded, count, length)
    masks = prompts.solid(targets[:, 0])
    output = _first_frame(network, at[0], targets[:, 0], masks, rng, tally)
    span = int(rng.integers(length, MAX_POINTER_SPAN + 1)) if rng.random() < 0.3 else MAX_POINTER_SPAN
    tracked = []
    for frame, answer in enumerate(track_clip(network, at, output, travel, span), 1):
        tally.add("tracked", frame_loss(answer, targets[:, frame]))
        tracked.append(answer.low_res_logits.detach())
    first = output.low_res_logits.detach()
    for corrected in rng.choice(np.arange(1, length), min(CORRECTED_FRAMES, length - 1), replace=False).tolist():
        wanted = targets[:, corrected]
        # Where tracking lost the object, a correction starts from the nearest mask; so does taking away one that
        # should have ended.
        lost = ~(tracked[corrected - 1] > 0).flatten(1).any(dim=1)
        before = torch.where(lost[:, None, None, None], first, tracked[corrected - 1])
        found = full_size(before, side) > 0
        points, labels = prompts.correction_clicks(
            rng, (wanted >= 0.5).cpu().numpy(), found.cpu().numpy(), int(rng.choice([1, 1, 2]))
        )
        answer = decode_prompts(network, at[corrected], points, labels, _as_prompt(before, side))
        tally.add("tracked + clicks", frame_loss(answer, wanted))
    return tally


def frames_of_clips(encoded: FrameFeatures, count: int, length: int) -> list[FrameFeatures]:
    """Splits the features of ``count`` clips of ``length`` frames, clip after clip, into one part a frame."""
    return [encoded.rows([clip * length + frame for clip in range(count)]) for frame in range(length)]


def track_clip(
    network: Sam2Network,
    at: Sequence[FrameFeatures],
    output: FrameOutput,
    travel: Travel,
    span: int = MAX_POINTER_SPAN,
) -> Iterator[FrameOutput]:
    """Tracks clips through memory from their prompted first frame, as `inferers.tracking` does.

    Args:
        network: in any mode.
        at: features of each frame, one row a clip; no more frames than the network has memories.
        output: of the first frame.
        travel: how far the clips have come.
        span: see `MemoryRows.pointer_span`.

    Yields:
        The output of every further frame.
    """
    rows, device = len(at[0]), at[0].embedding.device
    first_logits = output.low_res_logits.detach()
    memories, pointers = [_memory(network, at[0], output, prompted=True)], [output.object_pointer]
    for frame in range(1, len(at)):
        read = MemoryRows(
            spatial=torch.stack(memories, dim=1),
            offsets=_same_for_all([0, *range(frame - 1, 0, -1)], rows, device),
            pointers=torch.stack(pointers, dim=1),
            pointer_offsets=_same_for_all(range(frame, 0, -1), rows, device),
            pointer_span=span,
        )
        carried: Tensor | None = None
        if network.spec.carry_mask:
            carried = carried_mask(output.low_res_logits.detach(), travel.travelled(frame, first_logits))
        output = network.decode(
            at[frame], conditioned=network.condition_on_memory(at[frame], read), mask_logits=carried
        )
        yield output
        if frame < len(at) - 1:
            memories.append(_memory(network, at[frame], output, prompted=False))
            pointers.append(output.object_pointer)


def full_size(low_res_logits: Tensor, side: int) -> Tensor:
    """[R, 1, s, s] to [R, S, S]."""
    return interpolate(low_res_logits, (side, side), mode="bilinear", align_corners=False)[:, 0]


def _as_prompt(low_res_logits: Tensor, side: int) -> Tensor:
    """An earlier answer as the inferer hands it in again: a mask of the frame's size, 0 and 1."""
    return _mask_logits((full_size(low_res_logits.detach(), side) > 0).float())


def _mask_logits(masks: Tensor) -> Tensor:
    """Masks [R, S, S], 0 and 1, as ``Sam2Network.use_mask`` turns them into logits [R, 1, S / 4, S / 4]."""
    logits = masks[:, None] * MEMORY_SCALE + MEMORY_BIAS
    size = (masks.shape[-2] // 4, masks.shape[-1] // 4)
    return interpolate(logits, size, mode="bilinear", align_corners=False, antialias=True)


def _first_frame(
    network: Sam2Network,
    features: FrameFeatures,
    targets: Tensor,
    masks: NDArray[np.bool_],
    rng: np.random.Generator,
    tally: Tally,
) -> FrameOutput:
    chance = rng.random()
    if chance < MASK_START_PART:
        # The mask is the answer, also where it is rough: only what memory makes of it is trained.
        given = targets if rng.random() < 0.3 else prompts.rough_masks(rng, targets, 0.5)
        return network.use_mask(features, (given >= 0.5).float()[:, None])
    if chance < MASK_START_PART + CLICK_START_PART:
        points, labels = prompts.first_clicks(rng, masks)
        name = "click"
    else:
        points, labels = prompts.boxes(rng, masks)
        name = "box"
    if rng.random() < 0.3:
        points, labels = _joined(points, labels, *prompts.first_clicks(rng, masks))
        name += " + clicks"
    output = decode_prompts(network, features, points, labels, None)
    tally.add(name, frame_loss(output, targets))
    return output


def _other_start(
    rng: np.random.Generator, targets: Tensor, masks: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int32], Tensor | None, str]:
    """A click, a scribble, or a rough mask with a click."""
    chance = rng.random()
    if chance < 0.65:
        points, labels = prompts.first_clicks(rng, masks)
        return points, labels, None, "click"
    if chance < 0.85:
        points, labels = prompts.scribbles(rng, masks, int(rng.integers(2, 9)))
        return points, labels, None, "scribble"
    rough = prompts.rough_masks(rng, targets)
    points, labels = prompts.correction_clicks(rng, masks, (rough >= 0.5).cpu().numpy(), 1)
    return points, labels, _mask_logits(rough), "mask"


def decode_prompts(
    network: Sam2Network,
    features: FrameFeatures,
    points: NDArray[np.float32],
    labels: NDArray[np.int32],
    mask_logits: Tensor | None,
) -> FrameOutput:
    """`Sam2Network.decode` of simulated prompts: points [R, P, 2], labels [R, P], earlier logits or None."""
    device = features.embedding.device
    return network.decode(
        features,
        points_xy=torch.from_numpy(points).to(device),
        labels=torch.from_numpy(labels).to(device),
        mask_logits=mask_logits,
    )


def _memory(network: Sam2Network, features: FrameFeatures, output: FrameOutput, *, prompted: bool) -> Tensor:
    return network.encode_memory(features, output.low_res_logits, output.object_score_logits, prompted=prompted)


def _same_for_all(values: range | list[int], rows: int, device: torch.device) -> Tensor:
    return torch.tensor(list(values), device=device).expand(rows, -1)


def _joined(
    points: NDArray[np.float32], labels: NDArray[np.int32], more: NDArray[np.float32], more_labels: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    return np.concatenate([points, more], axis=1), np.concatenate([labels, more_labels], axis=1)
