"""What is seen of the objects while their masks come and go."""

from __future__ import annotations

from volseg.data.object_mask import ObjectMask
from volseg.sessions.desk.canvas import LabelCanvas
from volseg.sessions.desk.events import ObjectSummary, Painted
from volseg.sessions.result import ObjectResult
from volseg.sessions.session import Session


class Picture:
    """The canvas, and the masks that were computed last.

    Args:
        session: whose objects are seen.

    Attributes:
        canvas: what a viewer shows.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.canvas = LabelCanvas(session.grid)
        self._array_seen = self.canvas.array
        self._masks: dict[int, tuple[ObjectResult | None, ObjectMask]] = {}

    def mask(self, object_id: int) -> ObjectMask | None:
        """The object's mask as it was last computed, also while a newer one is on its way."""
        known = self._masks.get(object_id)
        return None if known is None else known[1]

    def summary(self, object_id: int) -> ObjectSummary | None:
        """The object's mask in numbers, None while it is not computed."""
        result, known = self._session.result(object_id), self._masks.get(object_id)
        if result is None or known is None or known[0] is not result:
            return None
        voxels = known[1].voxels
        return ObjectSummary(
            voxels, voxels * result.grid.voxel_volume_ml, result.presence, result.seconds, result.exact
        )

    def keep(self, mask: ObjectMask) -> None:
        """Shows a mask that no model computed until one has."""
        self._masks[mask.object_id] = (None, mask)

    def paint(self) -> Painted | None:
        """Shows every object's latest mask; one whose new mask is on its way keeps the old one meanwhile."""
        state = self._session.state
        masks: dict[int, tuple[ObjectResult | None, ObjectMask]] = {}
        for item in state.objects:
            known = self._masks.get(item.object_id)
            result = self._session.result(item.object_id)
            if result is not None:
                masks[item.object_id] = known if known and known[0] is result else (result, result.mask())
            elif known is not None and state.entries_of(item.object_id):
                masks[item.object_id] = known
        for _, mask in masks.values():
            # Counted here once, in the thread that computes: a window asks for it again and again.
            _ = mask.voxels
        self._masks = masks
        return self._show(None)

    def paint_growing(self, mask: ObjectMask) -> Painted | None:
        """Shows a mask that is being computed, and every other object's latest."""
        return self._show(mask)

    def forget(self) -> None:
        """Lets go of all masks."""
        self._masks.clear()

    def _show(self, growing: ObjectMask | None) -> Painted | None:
        """What a listener must learn; None if nothing is seen that was not before."""
        state = self._session.state
        masks = {number: mask for number, (_, mask) in self._masks.items()}
        if growing is not None:
            masks[growing.object_id] = growing
        ordered = {item.object_id: masks[item.object_id] for item in state.objects if item.object_id in masks}
        painted = self.canvas.show(ordered, state.overlap)
        replaced = self.canvas.array is not self._array_seen
        self._array_seen = self.canvas.array
        if growing is None:
            return Painted(False, None, replaced)
        return Painted(True, growing.object_id, replaced) if painted or replaced else None
