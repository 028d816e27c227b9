"""SAM 2 and then a second look in 3D, behind one contract."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from volseg.data.object_mask import ObjectMask
from volseg.errors import ModelError
from volseg.models.base import Encoding, Model, PartialCallback
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.models.prompted_inferer import PromptedInferer
from volseg.progress import Part, ProgressCallback, report
from volseg.prompts import Point, Prompt, PromptSet, Scribble

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from volseg.inferers.refine.refiner import Refiner
    from volseg.models.sam2 import Sam2Encoding, Sam2Model
    from volseg.networks.sam2.network import Sam2Network

DRAFT_SHARE = 0.7
"""Part of the progress that the drafts take."""

MAX_REMEMBERED = 64
"""Masks that are remembered for later corrections."""


class RefinedEncoding(Encoding):
    """What SAM 2 knows about an image, and the masks that later clicks start from."""

    def __init__(self, image: MetaTensor, options: EncodeOptions, drafts: Sam2Encoding) -> None:
        super().__init__(image, options)
        self.drafts = drafts
        self.known: OrderedDict[tuple[Prompt, ...], ObjectMask] = OrderedDict()

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """Those of the drafts."""
        return self.drafts.settings

    def warm_up(self, progress: ProgressCallback | None = None) -> None:
        """See ``Encoding.warm_up``."""
        self.drafts.warm_up(progress)

    def close(self) -> None:
        """See ``Encoding.close``."""
        self.drafts.close()
        self.known.clear()


class RefinedModel(Model):
    """SAM 2 tracks what the opening prompts show; a 3D network then looks at the whole object, once for each round.

    The opening are boxes, masks and positive lassos, or, where there are none, the first positive click or scribble.
    Every other prompt is a correction: in their order, each is a round that starts from the mask before it. So a click
    costs one look, however many slices the object has.

    Args:
        drafts: makes the first mask.
        refiner: improves it.
        card: of both together.
    """

    def __init__(self, drafts: Sam2Model, refiner: Refiner, card: ModelCard) -> None:
        self.drafts = drafts
        self.refiner = refiner
        self._card = card

    @property
    def card(self) -> ModelCard:
        """See ``Model.card``."""
        return self._card

    @property
    def network(self) -> Sam2Network:
        """The network that makes the drafts, for a bundle's ``network_def``."""
        return self.drafts.network

    @property
    def inferer(self) -> PromptedInferer:
        """This model as a MONAI inferer, for a bundle."""
        return PromptedInferer(self)

    def encode(
        self, image: MetaTensor, options: EncodeOptions | None = None, progress: ProgressCallback | None = None
    ) -> RefinedEncoding:
        """See ``Model.encode``."""
        chosen = options or EncodeOptions()
        return RefinedEncoding(image, chosen, self.drafts.encode(image, chosen, progress))

    def keep_encodings(self, folder: Path) -> None:
        """See ``Model.keep_encodings``."""
        self.drafts.keep_encodings(folder)

    def _segment(
        self,
        encoding: Encoding,
        prompts: PromptSet,
        *,
        exact: bool,
        progress: ProgressCallback | None,
        partial: PartialCallback | None,
    ) -> tuple[ObjectMask, ...]:
        if not isinstance(encoding, RefinedEncoding):
            raise ModelError(f"the encoding is of another model ({type(encoding).__name__})")
        split = [opening_and_corrections(item.prompts) for item in prompts.objects]
        first = {opening: encoding.known[opening] for opening, _ in split if opening in encoding.known}
        unknown = [
            replace(item, prompts=opening)
            for item, (opening, _) in zip(prompts.objects, split, strict=True)
            if opening not in first
        ]
        if unknown:
            drafts = self.drafts.segment(
                encoding.drafts,
                PromptSet(prompts.grid, tuple(unknown)),
                exact=exact,
                progress=Part(progress, 0.0, DRAFT_SHARE),
                partial=partial,
            )
            for item, draft in zip(unknown, drafts.masks, strict=True):
                first[item.prompts] = self._look(encoding, draft, item.prompts)
        masks = []
        for number, (item, (opening, corrections)) in enumerate(zip(prompts.objects, split, strict=True)):
            report(progress, DRAFT_SHARE + (1 - DRAFT_SHARE) * number / len(split), "looking again")
            shown = _numbering(partial, item.object_id)
            mask = self._corrected(encoding, first[opening], opening, corrections, shown)
            masks.append(mask.numbered(item.object_id))
        return tuple(masks)

    def _corrected(
        self,
        encoding: RefinedEncoding,
        mask: ObjectMask,
        opening: tuple[Prompt, ...],
        corrections: Sequence[Prompt],
        partial: PartialCallback | None,
    ) -> ObjectMask:
        """The mask after all corrections, of which those that were seen before are remembered.

        The newest one is what a person waits for: only it is shown before it is done.
        """
        known = encoding.known
        _remember(known, opening, mask)
        for count in range(1, len(corrections) + 1):
            said = (*opening, *corrections[:count])
            if said in known:
                mask = known[said]
            else:
                shown = partial if count == len(corrections) else None
                mask = self._look(encoding, mask, said, correcting=True, partial=shown)
            _remember(known, said, mask)
        return mask

    def _look(
        self,
        encoding: RefinedEncoding,
        mask: ObjectMask,
        said: Sequence[Prompt],
        *,
        correcting: bool = False,
        partial: PartialCallback | None = None,
    ) -> ObjectMask:
        window = encoding.drafts.slices.window
        return self.refiner.refine(encoding.image[0], window, mask, said, correcting=correcting, partial=partial)


def opening_and_corrections(prompts: Sequence[Prompt]) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """What shows an object for the first time, and what corrects it, both in their order.

    Where nothing is positive, everything is the opening; the model says then what is missing.
    """
    showing = [one for one in prompts if one.positive and not isinstance(one, Point | Scribble)]
    if not showing:
        showing = [one for one in prompts if one.positive][:1]
    if not showing:
        return tuple(prompts), ()
    chosen = {id(one) for one in showing}
    return tuple(showing), tuple(one for one in prompts if id(one) not in chosen)


def _numbering(partial: PartialCallback | None, object_id: int) -> PartialCallback | None:
    """Remembered masks may be of another object that was shown in the same way."""
    return None if partial is None else lambda mask: partial(mask.numbered(object_id))


def _remember(known: OrderedDict[tuple[Prompt, ...], ObjectMask], said: tuple[Prompt, ...], mask: ObjectMask) -> None:
    known[said] = mask
    known.move_to_end(said)
    while len(known) > MAX_REMEMBERED:
        known.popitem(last=False)
