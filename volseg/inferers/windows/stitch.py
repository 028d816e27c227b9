"""Sums of overlapping windows, kept only where another window is still to come.

Windows come in rows, and rows in layers. A window's front part along its row meets no later window of the row: it is
complete but for the rows and layers beside it. What is left waits for the next window. The same holds for rows within a
layer, and for layers. So three zones of sums are alive at a time, each as thick as the overlap, never the volume.
"""

from __future__ import annotations

import torch
from torch import Tensor

from volseg.inferers.windows.plan import WindowPlan


class Stitcher:
    """Adds windows up; gives back the part of each that is complete.

    Args:
        plan: the windows; they must be given in its order.
        channels: of what is added.
        device: where the sums are.
    """

    def __init__(self, plan: WindowPlan, channels: int, device: torch.device) -> None:
        self._plan = plan
        self.channels = channels
        self._carries = [torch.zeros((channels, *plan.carry_shape(axis)), device=device) for axis in range(3)]

    def add(self, at: tuple[int, int, int], values: Tensor | None, first: int, last: int) -> Tensor:
        """Adds a window's values.

        Args:
            at: the window, in the plan's order.
            values: [last - first, I, J, K] float32 of the whole window, which is changed; None for a window that adds
                nothing.
            first: channel that ``values`` start with.
            last: channel that they end before.

        Returns:
            [last - first, ...] sums of the window's front part that no later window reaches.
        """
        plan = self._plan
        start = plan.start(at)
        block = values
        if block is None:
            block = torch.zeros((last - first, *plan.window), device=self._carries[0].device)
        for axis in reversed(plan.order):
            waiting = self._carries[axis][first:last]
            # Along axes dealt with before, only what was complete there takes part; along the others, the whole window.
            zone = waiting
            for other in plan.faster(axis):
                zone = zone.narrow(other + 1, start[other], block.shape[other + 1])
            position = at[axis]
            if position:
                behind = plan.window[axis] - plan.kept(axis, position - 1)
                if behind:
                    block.narrow(axis + 1, 0, behind).add_(zone.narrow(axis + 1, 0, behind))
            kept = plan.kept(axis, position)
            left = plan.window[axis] - kept
            if left:
                zone.narrow(axis + 1, 0, left).copy_(block.narrow(axis + 1, kept, left))
                block = block.narrow(axis + 1, 0, kept)
        return block
