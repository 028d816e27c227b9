"""How far an object is expected to reach from the frames that say what it is."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from torch import Tensor

from volseg.inferers.tracking.state import PromptedFrame
from volseg.networks.sam2.carry import MAX_TRAVELLED, SHORTEST_REACH, reach_of

MASK_STEP = 4
"""Pixels of the frame in a pixel of the logits, along an axis."""
STRAIGHT = 0.95
"""An object that is hardly thinner on another prompted frame is expected to go on for about four times the distance."""


class Reach:
    """The expected ends of one object, as seen from its anchors.

    An object with a mask of area A on its anchor is taken for an ellipsoid. Another prompted frame at distance d with a
    mask of area B tells where it ends: at ``d / sqrt(1 - B / A)``; one without the object says that it has ended there.

    Args:
        prompted: the prompted frames.
        anchors: those of them that say what the object is; the others are corrections.
        first: first frame that somebody said the object reaches, or None.
        last: last such frame, or None.
        step_pixels: distance between neighbouring frames in pixels of the frame.
    """

    def __init__(
        self,
        prompted: Mapping[int, PromptedFrame],
        anchors: Collection[int],
        first: int | None,
        last: int | None,
        step_pixels: float,
    ) -> None:
        self._area = {frame: _area(one.result.logits) for frame, one in prompted.items()}
        self._anchors = [frame for frame in sorted(anchors) if self._area[frame]]
        self._limits = {-1: first, 1: last}
        self._step_pixels = step_pixels
        self._known: dict[tuple[int, int], float] = {}

    def travelled(self, frame: int) -> float:
        """The distance to the nearest anchor, divided by the expected reach on that side."""
        if not self._anchors:
            return MAX_TRAVELLED
        anchor = min(self._anchors, key=lambda other: abs(other - frame))
        side = 1 if frame >= anchor else -1
        if (anchor, side) not in self._known:
            self._known[anchor, side] = self._expected(anchor, side)
        return abs(frame - anchor) / self._known[anchor, side]

    def is_between(self, frame: int) -> bool:
        """Whether prompted frames before and behind show the object, so that it is taken to be on this one too."""
        shown = [other for other, area in self._area.items() if area]
        return bool(shown) and min(shown) < frame < max(shown)

    def _expected(self, anchor: int, side: int) -> float:
        limit = self._limits[side]
        if limit is not None and (limit - anchor) * side >= 0:
            return abs(limit - anchor) + 0.5
        own = self._area[anchor]
        reach = reach_of(own * MASK_STEP**2, self._step_pixels)
        away = {abs(f - anchor): area for f, area in self._area.items() if (f - anchor) * side > 0}
        furthest = max((distance for distance, area in away.items() if area), default=0)
        if furthest:
            reach = furthest / math.sqrt(1 - min(away[furthest] / own, STRAIGHT))
        ended = [distance for distance, area in away.items() if not area and distance > furthest]
        return max(SHORTEST_REACH, min([reach, *ended]))


def _area(logits: Tensor | None) -> int:
    return 0 if logits is None else int((logits > 0).sum())
