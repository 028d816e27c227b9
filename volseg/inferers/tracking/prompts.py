"""What a person said about one object on one frame, in the frame's own pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volseg.errors import PromptError

CLICK_OUTSIDE, CLICK_INSIDE, BOX_FIRST, BOX_SECOND = 0, 1, 2, 3


@dataclass(frozen=True, eq=False)
class FramePrompts:
    """Points, a box and a mask for one object on one frame.

    With a mask alone, the mask is the answer. With points as well, the mask is what the points refine, as when clicks
    follow a mask in Meta's predictor.

    Attributes:
        points_xy: ``[P, 2]`` in pixels of the network input, x (column) first; whole numbers are pixel centres.
        labels: ``[P]``: 1 inside, 0 outside; a box is its two corners, labelled 2 and 3, before the clicks.
        mask: ``[S, S]`` bool, row (y) first, or None.
    """

    points_xy: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    labels: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    mask: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Copies the arrays, makes them read-only and refuses what no prompt can be."""
        points = np.array(self.points_xy, dtype=np.float32).reshape(-1, 2)
        labels = np.array(self.labels, dtype=np.int32).reshape(-1)
        mask = None if self.mask is None else np.array(self.mask, dtype=bool)
        if len(points) != len(labels):
            raise PromptError(f"{len(points)} points came with {len(labels)} labels; expected one label a point")
        if not np.isfinite(points).all():
            raise PromptError(f"points_xy holds {points[~np.isfinite(points).all(axis=1)][0]}; expected finite numbers")
        is_box = [BOX_FIRST, BOX_SECOND]
        clicks = labels[2:] if labels[:2].tolist() == is_box else labels
        if not np.isin(clicks, (CLICK_OUTSIDE, CLICK_INSIDE)).all():
            raise PromptError(
                f"the labels are {labels.tolist()}; expected 0 and 1, after an optional box, which is 2 and 3"
            )
        if mask is not None and (mask.ndim != 2 or mask.shape[0] != mask.shape[1]):
            raise PromptError(f"the mask has shape {mask.shape}; expected the square [S, S] of the network input")
        if len(points) == 0 and mask is None:
            raise PromptError("a frame's prompts are empty; expected at least a point, a box or a mask")
        for name, array in (("points_xy", points), ("labels", labels), ("mask", mask)):
            if array is not None:
                array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def box(
        cls, x0: float, y0: float, x1: float, y1: float, *, inside: ArrayLike = (), outside: ArrayLike = ()
    ) -> FramePrompts:
        """A box from corner to corner and, optionally, clicks.

        Args:
            x0: first column, in pixels.
            y0: first row.
            x1: last column.
            y1: last row.
            inside: ``[P, 2]`` clicks (x, y) on the object.
            outside: ``[Q, 2]`` clicks off it.
        """
        inside_xy = np.asarray(inside, np.float32).reshape(-1, 2)
        outside_xy = np.asarray(outside, np.float32).reshape(-1, 2)
        points = np.concatenate([np.array([[x0, y0], [x1, y1]], np.float32), inside_xy, outside_xy])
        labels: Sequence[int] = [BOX_FIRST, BOX_SECOND, *[1] * len(inside_xy), *[0] * len(outside_xy)]
        return cls(points, np.array(labels, np.int32))

    @property
    def signature(self) -> tuple[int, bool]:
        """How many points there are and whether there is a mask; only rows that agree can share a batch."""
        return len(self.labels), self.mask is not None

    def __eq__(self, other: object) -> bool:
        """Whether both say exactly the same."""
        if not isinstance(other, FramePrompts):
            return NotImplemented
        if self.signature != other.signature:
            return False
        same_mask = self.mask is None or (other.mask is not None and np.array_equal(self.mask, other.mask))
        return (
            same_mask and np.array_equal(self.points_xy, other.points_xy) and np.array_equal(self.labels, other.labels)
        )

    def __hash__(self) -> int:
        """Agrees with equality."""
        mask = b"" if self.mask is None else self.mask.tobytes()
        return hash((self.points_xy.tobytes(), self.labels.tobytes(), mask))
