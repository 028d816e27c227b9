"""SAM 2 behind the model contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from volseg.data.object_mask import ObjectMask
from volseg.errors import ModelError
from volseg.inferers.slices.crop import Crop
from volseg.inferers.slices.view import SliceView
from volseg.models.base import Encoding, Model, PartialCallback
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback, report
from volseg.prompts import PromptKind, PromptSet

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from volseg.inferers.slice_propagation import SlicePropagationInferer
    from volseg.inferers.slices.encoding import SliceEncoding
    from volseg.networks.sam2.network import Sam2Network

POSITIVE_PROMPTS = frozenset(PromptKind) - {PromptKind.TEXT}
"""What may say "this belongs to the object". Scribbles become sampled points; lassos and rough masks, mask prompts."""

NEGATIVE_PROMPTS = frozenset({PromptKind.POINT, PromptKind.SCRIBBLE, PromptKind.LASSO})
"""What may say "this does not": SAM 2 knows negative clicks; a scribble or lasso gives several."""


class Sam2Encoding(Encoding):
    """Slices that are encoded when a prompt first needs them, and the tracks of the objects so far."""

    def __init__(
        self, image: MetaTensor, options: EncodeOptions, inferer: SlicePropagationInferer, slices: SliceEncoding
    ) -> None:
        super().__init__(image, options)
        self.inferer = inferer
        self.slices = slices

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """The window and why it was chosen, and the plane where the person chose one."""
        window = self.slices.window
        plane = () if self.options.plane is None else (("plane", str(self.options.plane)),)
        return (("window", f"{window.low:g},{window.high:g} ({window.reason})"), *plane)

    def warm_up(self, progress: ProgressCallback | None = None) -> None:
        """Chooses the window and encodes the middle slice, which also wakes the network's libraries."""
        report(progress, 0.0, "choosing the window")
        view = SliceView.of(self.grid, self.options.plane or self.grid.acquisition_plane())
        source = self.slices.source(view, Crop.whole(view.slice_shape))
        report(progress, 0.5, "encoding the middle slice")
        source.features([view.count // 2])

    def close(self) -> None:
        """See ``Encoding.close``."""
        self.slices.close()


class Sam2Model(Model):
    """A SAM 2 network and how it covers a volume.

    Args:
        network: the network with its weights, on its device.
        card: what it says about itself.
        inferer: how it covers a volume.
    """

    def __init__(self, network: Sam2Network, card: ModelCard, inferer: SlicePropagationInferer) -> None:
        self.network = network
        self.inferer = inferer
        self._card = card

    @property
    def card(self) -> ModelCard:
        """See ``Model.card``."""
        return self._card

    def encode(
        self, image: MetaTensor, options: EncodeOptions | None = None, progress: ProgressCallback | None = None
    ) -> Sam2Encoding:
        """See ``Model.encode``."""
        chosen = options or EncodeOptions()
        inferer = self.inferer.with_choices(
            chosen.window or self.inferer.window,
            chosen.plane or self.inferer.plane,
            chosen.modality or self.inferer.modality,
        )
        return Sam2Encoding(image, chosen, inferer, inferer.encode(image, self.network))

    def keep_encodings(self, folder: Path) -> None:
        """See ``Model.keep_encodings``: encoded slices."""
        self.inferer.spill_folder = folder

    def _segment(
        self,
        encoding: Encoding,
        prompts: PromptSet,
        *,
        exact: bool,
        progress: ProgressCallback | None,
        partial: PartialCallback | None,
    ) -> tuple[ObjectMask, ...]:
        if not isinstance(encoding, Sam2Encoding):
            raise ModelError(f"the encoding is of another model ({type(encoding).__name__})")
        return encoding.inferer.segment(encoding.slices, prompts, exact=exact, progress=progress, partial=partial)
