"""An image before a model that sees it through an intensity window."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from volseg.models.base import Encoding

if TYPE_CHECKING:
    from volseg.transforms.windows import IntensityWindow


class WindowedEncoding(Encoding):
    """The image and its intensity window, which goes into the provenance."""

    @cached_property
    def window(self) -> IntensityWindow:
        """The intensity window, chosen when first needed."""
        from volseg.transforms.windows import choose_window

        return choose_window(self.image, self.options.window, self.options.modality)

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """The window and why it was chosen."""
        return (("window", f"{self.window.low:g},{self.window.high:g} ({self.window.reason})"),)
