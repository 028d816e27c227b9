"""Pictures of a label map over its image, for people."""

from volseg.overlay.figure import MAX_ROWS, draw_overlay

__all__ = ["MAX_ROWS", "draw_overlay"]
