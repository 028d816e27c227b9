"""Prompts of a slice as the network sees them: in the pixels of the cropped and resized frame."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from volseg.inferers.slices.crop import Crop
from volseg.inferers.slices.plan import SlicePrompts
from volseg.inferers.tracking import FramePrompts


def frame_prompts(said: SlicePrompts, crop: Crop, size: int) -> FramePrompts | None:
    """A slice's prompts in the pixels of the frame, or None where only negative clicks beyond the crop are left.

    Such clicks need no answer: nothing beyond the crop can become part of the object.

    Args:
        said: the prompts in rows and columns of the slice.
        crop: the part of the slice that is shown.
        size: side of the frame in pixels.
    """
    points_xy = crop.to_frame_xy(said.points_rc, size)
    shown = ((points_xy > -0.5) & (points_xy < size - 0.5)).all(axis=1) | (said.labels == 1)
    points_xy, labels = points_xy[shown], said.labels[shown]
    if said.box_rc is not None:
        corners = crop.to_frame_xy(np.array(said.box_rc).reshape(2, 2), size)
        points_xy = np.concatenate([np.clip(corners, -0.5, size - 0.5), points_xy])
        labels = np.concatenate([[2, 3], labels])
    mask = None if said.mask is None else _frame_mask(said.mask, crop, size)
    if len(labels) == 0 and mask is None:
        return None
    return FramePrompts(points_xy.astype(np.float32), labels.astype(np.int32), mask)


def _frame_mask(mask: NDArray[np.bool_], crop: Crop, size: int) -> NDArray[np.bool_]:
    shown = np.zeros((crop.rows, crop.columns), dtype=np.float32)
    source_rows, source_columns, rows, columns = crop.inside((mask.shape[0], mask.shape[1]))
    shown[rows, columns] = mask[source_rows, source_columns]
    resized = interpolate(
        torch.from_numpy(shown)[None, None], (size, size), mode="bilinear", align_corners=False, antialias=True
    )[0, 0].numpy()
    # A mask thinner than the frame's pixels must not vanish.
    result: NDArray[np.bool_] = resized >= min(0.5, 0.5 * float(resized.max()) + 1e-6)
    return result
