"""Words make the first mask, clicks correct it: two models behind one contract."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.geometry import Grid
from volseg.models.base import Encoding, Model, PartialCallback
from volseg.models.card import License, ModelCard
from volseg.models.options import EncodeOptions
from volseg.progress import Part, ProgressCallback
from volseg.prompts import MaskPrompt, PromptedObject, PromptKind, PromptSet

if TYPE_CHECKING:
    from monai.data import MetaTensor

REACH_MM = 10.0
"""A click changes the words' mask no further away than this."""

WORDS_SHARE = 0.4
"""Part of the progress that the words take where there are clicks, too."""


class PipelineEncoding(Encoding):
    """One image as both models see it."""

    def __init__(self, image: MetaTensor, options: EncodeOptions, words: Encoding, clicks: Encoding) -> None:
        super().__init__(image, options)
        self.words = words
        self.clicks = clicks

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """Those of both models, by what they serve."""
        return (
            *((f"words: {name}", value) for name, value in self.words.settings),
            *((f"clicks: {name}", value) for name, value in self.clicks.settings),
        )

    def close(self) -> None:
        """See ``Encoding.close``."""
        self.words.close()
        self.clicks.close()


class TextThenClicks(Model):
    """An object that has words is found by a text model; whatever else was said about it corrects that mask.

    The order does not matter: words may be added to an object that has clicks. An object without words goes to the
    second model alone, and one with nothing but words to the first.

    Args:
        words: serves text prompts.
        clicks: serves mask prompts, and clicks or boxes.
        name: of the pipeline.
    """

    def __init__(self, words: Model, clicks: Model, name: str = "text-then-clicks") -> None:
        self.words = words
        self.clicks = clicks
        self._card = pipeline_of(words.card, clicks.card, name)

    @property
    def card(self) -> ModelCard:
        """See ``Model.card``."""
        return self._card

    def encode(
        self, image: MetaTensor, options: EncodeOptions | None = None, progress: ProgressCallback | None = None
    ) -> PipelineEncoding:
        """See ``Model.encode``."""
        chosen = options or EncodeOptions()
        return PipelineEncoding(image, chosen, self.words.encode(image, chosen), self.clicks.encode(image, chosen))

    def _segment(
        self,
        encoding: Encoding,
        prompts: PromptSet,
        *,
        exact: bool,
        progress: ProgressCallback | None,
        partial: PartialCallback | None,
    ) -> tuple[ObjectMask, ...]:
        """See ``Model._segment``."""
        assert isinstance(encoding, PipelineEncoding)
        named = [part for item in prompts.objects if (part := _part(item, words=True)) is not None]
        pointed = {part.object_id for item in prompts.objects if (part := _part(item, words=False)) is not None}
        share = 0.0 if not named else WORDS_SHARE if pointed else 1.0
        masks: dict[int, ObjectMask] = {}
        if named:
            alone = partial if not pointed else None
            result = self.words.segment(
                encoding.words,
                PromptSet(prompts.grid, tuple(named)),
                progress=Part(progress, 0.0, share),
                partial=alone,
            )
            masks |= {mask.object_id: mask for mask in result.masks}
        shown = tuple(
            self._with_first_mask(item, masks.get(item.object_id))
            for item in prompts.objects
            if item.object_id in pointed
        )
        if shown:
            result = self.clicks.segment(
                encoding.clicks,
                PromptSet(prompts.grid, shown),
                exact=exact,
                progress=Part(progress, share, 1.0 - share),
                partial=partial,
            )
            for item, corrected in zip(shown, result.masks, strict=True):
                first = masks.get(item.object_id)
                masks[item.object_id] = corrected if first is None else _settled(first, corrected, item)
        return tuple(masks[item.object_id] for item in prompts.objects)

    @staticmethod
    def _with_first_mask(item: PromptedObject, mask: ObjectMask | None) -> PromptedObject:
        """What was said besides the words, after the mask that the words gave."""
        said = tuple(prompt for prompt in item.prompts if prompt.kind is not PromptKind.TEXT)
        if mask is None or mask.voxels == 0:
            return replace(item, prompts=said)
        first = MaskPrompt(mask.full(), mask.grid)
        return replace(item, prompts=(first, *said))


def _settled(first: ObjectMask, corrected: ObjectMask, item: PromptedObject) -> ObjectMask:
    """The first mask, with what the clicks changed.

    A slice-wise model redraws the whole object from a few of its slices, and would lose detail far from any click. So a
    click or scribble settles only the region in which the two masks differ, that it touches, and that is within
    ``REACH_MM`` of it. A box, lasso or mask speaks of the whole object: then the corrected mask counts as it is.
    """
    said = [prompt for prompt in item.prompts if prompt.kind is not PromptKind.MASK]
    if first.voxels == 0 or any(prompt.kind not in (PromptKind.POINT, PromptKind.SCRIBBLE) for prompt in said):
        return corrected
    from scipy.ndimage import distance_transform_edt, label

    grid = first.grid
    mask, other = first.full(), corrected.full()
    for prompt in said:
        touched = np.zeros(grid.shape, dtype=bool)
        touched[tuple(prompt.voxels_ijk(grid).T)] = True
        block = _around(touched, grid)
        near = distance_transform_edt(~touched[block], sampling=grid.spacing_mm) <= REACH_MM
        before, after = mask[block], other[block]
        change = (after & ~before if prompt.positive else before & ~after) & near
        regions, _ = label(change)
        settled = np.isin(regions, np.unique(regions[touched[block]])) & change
        # What was pointed at itself is never in doubt.
        settled |= touched[block]
        mask[block] = before | settled if prompt.positive else before & ~settled
    presence = max(first.presence or 0.0, corrected.presence or 0.0)
    return ObjectMask.of(first.object_id, grid, mask, presence)


def _around(touched: NDArray[np.bool_], grid: Grid) -> tuple[slice, slice, slice]:
    """The block within reach of some voxels."""
    where = np.argwhere(touched)
    reach = np.ceil(REACH_MM / np.array(grid.spacing_mm)).astype(int) + 1
    low = np.maximum(where.min(axis=0) - reach, 0)
    high = np.minimum(where.max(axis=0) + reach + 1, grid.shape)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def pipeline_of(words: ModelCard, clicks: ModelCard, name: str) -> ModelCard:
    """The card of a pipeline of two models."""
    return ModelCard(
        name=name,
        version=f"{words.version}+{clicks.version}",
        summary=f"Words make the first mask ({words.name}); clicks and boxes correct it ({clicks.name}).",
        positive=words.positive | clicks.positive,
        negative=words.negative | clicks.negative,
        volumetric=words.volumetric,
        modalities=words.modalities & clicks.modalities,
        labels=words.labels,
        license=_joint(words.license, clicks.license),
        weights_sha256=sha256(f"{words.weights_sha256}{clicks.weights_sha256}".encode()).hexdigest(),
        random_weights=words.random_weights or clicks.random_weights,
    )


def _part(item: PromptedObject, *, words: bool) -> PromptedObject | None:
    """The object with only its text prompts, or only the others; None where there are none."""
    chosen = tuple(prompt for prompt in item.prompts if (prompt.kind is PromptKind.TEXT) is words)
    return replace(item, prompts=chosen) if chosen else None


def _joint(first: License, second: License) -> License:
    """Terms that keep to both."""
    if first == second:
        return first
    names = sorted({license.spdx for license in (first, second) if license.spdx})
    credit = "; ".join(dict.fromkeys(filter(None, (first.attribution, second.attribution))))
    return License(" AND ".join(names), first.commercial and second.commercial, credit)
