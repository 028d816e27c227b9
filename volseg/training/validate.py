"""Scores on patients never trained on, always beside the ellipse in the box and a blank image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from volseg.inferers.slices.crop import Crop
from volseg.inferers.tracking import FeatureCache, FramePrompts, Tracker, TrackRequest
from volseg.networks.sam2.features import FrameFeatures
from volseg.networks.sam2.network import Sam2Network
from volseg.training import prompts
from volseg.training.config import TrainConfig
from volseg.training.frames import normalised
from volseg.training.sampling import Clip, cut_clip
from volseg.training.steps import full_size
from volseg.training.volume import PlaneSlices, TrainingVolume, VolumeObject

FILL = 0.5
"""The box's longer side as a part of the crop's."""
SMALLEST_PART = 0.15
"""Slices that show less of the object than this part of its largest slice are not scored singly."""
DEFAULT_WINDOW = (0.0, 1.0)
BATCH = 16
CLICKS = 3


@dataclass(frozen=True, eq=False)
class _Scene:
    """An object on one slice and the crop around its box there."""

    slices: PlaneSlices
    item: VolumeObject
    index: int
    box_rc: NDArray[np.int32]
    crop: Crop


class Validator:
    """Scores a network on held-out volumes.

    Args:
        volumes: with expert labels.
        config: of the run; slices and cases are chosen by its seed, the same at every validation.
    """

    def __init__(self, volumes: Sequence[TrainingVolume], config: TrainConfig) -> None:
        self._config = config
        groups: dict[str, list[TrainingVolume]] = defaultdict(list)
        for volume in volumes:
            groups[volume.group].append(volume)
        rng = np.random.default_rng([config.seed, 9])
        self._scenes = {g: _slice_scenes(rng, found, config.validation_slices) for g, found in groups.items()}
        self._volumes = {g: [_middle(v) for v in found[: config.validation_cases]] for g, found in groups.items()}

    def scores(self, network: Sam2Network) -> dict[str, float]:
        """Mean Dice by group: of slices in the crop, and of volumes from one box on the middle slice.

        Args:
            network: in evaluation mode here and afterwards.

        Returns:
            ``<group> <what>``: ``ellipse``, ``box``, ``blank box``, ``click``, ``blank click``, ``box + 3 clicks``;
            ``3D box``, ``3D ellipse`` (copied to all slices that the object is on) and ``3D overshoot`` (slices past
            each end).
        """
        network.eval()
        result: dict[str, float] = {}
        for group, scenes in self._scenes.items():
            found: dict[str, list[float]] = defaultdict(list)
            for start in range(0, len(scenes), BATCH):
                self._score_slices(network, scenes[start : start + BATCH], found)
            for scene in self._volumes[group]:
                self._score_volume(network, scene, found)
            result.update({f"{group} {name}": round(float(np.mean(values)), 4) for name, values in found.items()})
        return result

    def _score_slices(self, network: Sam2Network, scenes: Sequence[_Scene], found: dict[str, list[float]]) -> None:
        side = self._config.spec.image_size
        clips = [cut_clip(s.slices, s.item, [s.index], s.crop, DEFAULT_WINDOW, side) for s in scenes]
        masks = np.stack([clip.targets[0] >= 0.5 for clip in clips])
        images = torch.stack([_normalised(clip, self._config)[0] for clip in clips]).to(network.device)
        boxes = np.stack([prompts.tight_box(mask) for mask in masks]).astype(np.float32)
        box_labels = np.tile(np.array(prompts.BOX_LABELS, np.int32), (len(masks), 1))
        clicks = np.array([_deepest(mask) for mask in masks], np.float32)[:, None]
        inside = np.ones((len(masks), 1), np.int32)

        def keep(name: str, answers: NDArray[np.bool_]) -> None:
            found[name] += [dice(answer, mask) for answer, mask in zip(answers, masks, strict=True)]

        keep("ellipse", np.stack([ellipse(box, side) for box in boxes]))
        with torch.inference_mode():
            features = network.encode_frames(images)
            blank = network.encode_frames(torch.zeros_like(images[:1])).rows([0] * len(masks))
            for prefix, seen in (("", features), ("blank ", blank)):
                keep(f"{prefix}box", _answer(network, seen, boxes, box_labels, side))
                keep(f"{prefix}click", _answer(network, seen, clicks, inside, side))
            points, labels = boxes, box_labels
            answers = _answer(network, features, points, labels, side)
            for _ in range(CLICKS):
                new = [_correction(mask, answer) for mask, answer in zip(masks, answers, strict=True)]
                points = np.concatenate([points, np.array([xy for xy, _ in new], np.float32)[:, None]], axis=1)
                labels = np.concatenate([labels, np.array([[one] for _, one in new], np.int32)], axis=1)
                answers = _answer(network, features, points, labels, side)
            keep(f"box + {CLICKS} clicks", answers)

    def _score_volume(self, network: Sam2Network, scene: _Scene, found: dict[str, list[float]]) -> None:
        slices, side = scene.slices, self._config.spec.image_size
        config = self._config

        def load(index: int) -> Tensor:
            return _normalised(cut_clip(slices, scene.item, [index], scene.crop, DEFAULT_WINDOW, side), config)[0]

        corners = scene.crop.to_frame_xy(scene.box_rc.reshape(2, 2) + np.array([[-0.5], [0.5]]), side)
        (x0, y0), (x1, y1) = corners.tolist()
        step = scene.crop.step_pixels(slices.spacing_mm, side)
        source = FeatureCache(network, load, len(slices.voxels), key="validation", byte_budget=0, step_pixels=step)
        request = TrackRequest({scene.index: FramePrompts.box(x0, y0, x1, y1)})
        track = Tracker(network, source).track({1: request})[1]
        truth = scene.item.mask(slices.labels)
        answer, copied = np.zeros_like(truth), np.zeros_like(truth)
        for frame in track.reached():
            logits = track.mask(frame).logits
            if logits is not None:
                _paste(answer[frame], logits, scene.crop)
        occupied = np.flatnonzero(truth.any(axis=(1, 2)))
        flat = np.zeros(truth.shape[1:], dtype=bool)
        first, last = scene.box_rc[:2], scene.box_rc[2:] + 1
        rows, columns = (last - first).tolist()
        block = flat[first[0] : last[0], first[1] : last[1]]
        block[:] = _unit_ellipse(rows, columns)
        copied[occupied] = flat
        found["3D box"].append(dice(answer, truth))
        found["3D ellipse"].append(dice(copied, truth))
        reached = np.flatnonzero(answer.any(axis=(1, 2)))
        if len(reached):
            past = max(0, int(occupied[0] - reached[0])) + max(0, int(reached[-1] - occupied[-1]))
            found["3D overshoot"].append(past / 2)


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Dice of two masks; 1 for two empty ones."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


def ellipse(corners_xy: NDArray[np.float32], side: int) -> NDArray[np.bool_]:
    """The ellipse that fills a box (x0, y0), (x1, y1) of outer faces, as a mask [S, S]."""
    centre, half = corners_xy.mean(axis=0), (corners_xy[1] - corners_xy[0]) / 2
    y, x = np.mgrid[:side, :side]
    filled: NDArray[np.bool_] = ((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 <= 1
    return filled


def _unit_ellipse(rows: int, columns: int) -> NDArray[np.bool_]:
    y = (np.arange(rows) - (rows - 1) / 2) / (rows / 2)
    x = (np.arange(columns) - (columns - 1) / 2) / (columns / 2)
    filled: NDArray[np.bool_] = y[:, None] ** 2 + x[None] ** 2 <= 1
    return filled


def _slice_scenes(rng: np.random.Generator, volumes: Sequence[TrainingVolume], count: int) -> list[_Scene]:
    scenes: list[_Scene] = []
    for volume in volumes:
        item, slices = _largest(volume), volume.planes[volume.acquired]
        where = item.planes[volume.acquired]
        areas = item.mask(slices.labels[where.indices]).sum(axis=(1, 2))
        for place in np.flatnonzero(areas >= SMALLEST_PART * areas.max()):
            box = where.boxes_rc[place]
            scenes.append(_Scene(slices, item, int(where.indices[place]), box, _crop_around(slices, box)))
    chosen: list[int] = sorted(rng.permutation(len(scenes))[:count].tolist())
    return [scenes[one] for one in chosen]


def _middle(volume: TrainingVolume) -> _Scene:
    item, slices = _largest(volume), volume.planes[volume.acquired]
    where = item.planes[volume.acquired]
    place = len(where.indices) // 2
    box = where.boxes_rc[place]
    return _Scene(slices, item, int(where.indices[place]), box, _crop_around(slices, box))


def _largest(volume: TrainingVolume) -> VolumeObject:
    size: Callable[[VolumeObject], int] = lambda item: len(item.planes[volume.acquired].indices)  # noqa: E731
    return max(volume.objects, key=lambda item: (size(item), len(item.ids)))


def _crop_around(slices: PlaneSlices, box_rc: NDArray[np.int32]) -> Crop:
    spacing = slices.pixel_spacing_mm
    longer = float(((box_rc[2:] - box_rc[:2] + 1) * np.array(spacing)).max())
    shape = (slices.voxels.shape[1], slices.voxels.shape[2])
    return Crop.around((box_rc[:2] + box_rc[2:]) / 2, longer / FILL, spacing, shape)


def _normalised(clip: Clip, config: TrainConfig) -> Tensor:
    return normalised(torch.from_numpy(clip.frames), config)


def _answer(
    network: Sam2Network, features: FrameFeatures, points: NDArray[np.float32], labels: NDArray[np.int32], side: int
) -> NDArray[np.bool_]:
    output = network.decode(
        features,
        points_xy=torch.from_numpy(points).to(network.device),
        labels=torch.from_numpy(labels).to(network.device),
    )
    answer: NDArray[np.bool_] = (full_size(output.low_res_logits, side) > 0).cpu().numpy()
    return answer


def _deepest(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """The position (x, y) furthest from the border."""
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(column), int(row)


def _correction(mask: NDArray[np.bool_], answer: NDArray[np.bool_]) -> tuple[tuple[int, int], int]:
    """A click in the middle of the largest error and its label; inside the object where there is none."""
    from scipy.ndimage import label

    parts, count = label(mask != answer)
    if count == 0:
        return _deepest(mask), 1
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    x, y = _deepest(parts == sizes.argmax())
    return (x, y), int(mask[y, x])


def _paste(target: NDArray[np.bool_], logits: Tensor, crop: Crop) -> None:
    shown = interpolate(logits[None, None].float(), (crop.rows, crop.columns), mode="bilinear", align_corners=False)
    source_rows, source_columns, rows, columns = crop.inside((target.shape[0], target.shape[1]))
    target[source_rows, source_columns] = (shown[0, 0, rows, columns] > 0).numpy()
