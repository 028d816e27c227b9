"""The text-query network behind the model contract: words in, masks and presence out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from volseg.data.modality import Modality
from volseg.data.object_mask import ObjectMask
from volseg.errors import CapabilityError
from volseg.geometry import Grid
from volseg.models.base import Encoding, Model, PartialCallback
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback
from volseg.prompts import Prompt, PromptedObject, PromptKind, PromptSet, Text
from volseg.text.phrases import resolve
from volseg.text.query import Query, recipe
from volseg.text.selectors import compose
from volseg.text.sides import EITHER_SIDE, midline_for
from volseg.text.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from volseg.inferers.text_query.search import Found, ImageSearch
    from volseg.inferers.text_query.settings import SearchSettings
    from volseg.models.prompted_inferer import PromptedInferer
    from volseg.networks.text_query.network import TextQueryNetwork

logger = logging.getLogger(__name__)

POSITIVE_PROMPTS = frozenset({PromptKind.TEXT})
NEGATIVE_PROMPTS = frozenset({PromptKind.TEXT})
"""Words may also say what does not belong to an object."""

LISTED = 12
"""So many structures are named where one is not offered."""


class TextEncoding(Encoding):
    """An image, and the structures that were found in it so far."""

    def __init__(self, image: MetaTensor, options: EncodeOptions, search: ImageSearch) -> None:
        super().__init__(image, options)
        self.search = search

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """The window and why it was chosen, the modality that queries were told, and the midline if it was needed."""
        window = self.search.window
        midline = self.search.midline_if_known
        return (
            ("window", f"{window.low:g},{window.high:g} ({window.reason})"),
            ("modality", str(self.search.modality)),
            *((("midline", str(midline)),) if midline is not None else ()),
        )

    def close(self) -> None:
        """See ``Encoding.close``."""
        self.search.close()


class TextQueryModel(Model):
    """A text-query network, and the structures it offers.

    Args:
        network: the network with its weights, on its device.
        card: what it says about itself; ``labels`` are named by concept id or by name.
        search: at which spacing each offered structure is looked for.
        defaults: how images are looked at where ``encode`` is not told otherwise.
    """

    def __init__(
        self, network: TextQueryNetwork, card: ModelCard, search: SearchSettings, defaults: EncodeOptions | None = None
    ) -> None:
        for concept in search.concepts:
            network.embeddings(search.queries_of(concept))  # every offered structure has its own
        self.network = network
        self.search = search
        self.defaults = defaults or EncodeOptions()
        self._card = card

    @property
    def card(self) -> ModelCard:
        """See ``Model.card``."""
        return self._card

    @property
    def inferer(self) -> PromptedInferer:
        """For MONAI's evaluator."""
        from volseg.models.prompted_inferer import PromptedInferer

        return PromptedInferer(self)

    @property
    def offered(self) -> tuple[str, ...]:
        """Ids of the structures it can segment by itself; wholes made of them can be asked for, too."""
        return self.search.concepts

    def encode(
        self, image: MetaTensor, options: EncodeOptions | None = None, progress: ProgressCallback | None = None
    ) -> TextEncoding:
        """See ``Model.encode``."""
        from volseg.inferers.text_query.search import ImageSearch
        from volseg.transforms.windows import choose_window, guess_modality

        chosen = options or EncodeOptions()
        stated = chosen.modality or self.defaults.modality
        modality, reason = guess_modality(image) if stated is None else (stated, "stated by the user")
        self.card.warn_of(modality, reason)
        says = stated or getattr(image, "meta", {}).get("modality")
        if modality is Modality.OTHER and not says and Modality.MR in self.card.modalities:
            # Intensities that someone has scaled: networks know the contrasts of MR by their order alone.
            modality = Modality.MR
        window = choose_window(image, chosen.window or self.defaults.window, modality)
        return TextEncoding(image, chosen, ImageSearch(image, self.network, self.search, modality, window))

    def understand(self, text: str) -> tuple[Query, ...]:
        """What a phrase asks of this model.

        Raises:
            PromptError: unknown or ambiguous words; near ones are named.
            CapabilityError: the words are understood, but this model does not offer what they name.
        """
        queries = resolve(text, among=frozenset(self.offered))
        for query in queries:
            for concept in query.concept_ids:
                if recipe(concept, self.offered) is None:
                    known = load_vocabulary()
                    names = sorted(known.by_id(one).name for one in self.offered)
                    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
                    raise CapabilityError(
                        f"{self.card.name} was not trained for {known.by_id(concept).name!r} (in {text!r}); "
                        f"it offers {', '.join(names[:LISTED])}{more}"
                    )
        return queries

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
        assert isinstance(encoding, TextEncoding)
        said = [(item, self._queries(item)) for item in prompts.objects]
        parts = dict.fromkeys(
            part for _, (adds, takes) in said for query in (*adds, *takes) for part in self._parts(query)
        )
        found = encoding.search.find(tuple(parts), progress)
        masks = []
        for item, (adds, takes) in said:
            mask = self._mask(item.object_id, adds, takes, found, encoding.search)
            masks.append(mask)
            if partial is not None:
                partial(mask)
        return tuple(masks)

    def _queries(self, item: PromptedObject) -> tuple[list[Query], list[Query]]:
        """What belongs to an object, and what does not."""
        adds: list[Query] = []
        takes: list[Query] = []
        for prompt in item.prompts:
            (adds if prompt.positive else takes).extend(self.understand(words_of(prompt)))
        return adds, takes

    def _parts(self, query: Query) -> tuple[str, ...]:
        """Offered structures that a query is made of."""
        made = [recipe(concept, self.offered) for concept in query.concept_ids]
        return tuple(dict.fromkeys(part for one in made if one is not None for part in one.parts))

    def _mask(
        self,
        object_id: int,
        adds: Sequence[Query],
        takes: Sequence[Query],
        found: dict[str, Found],
        search: ImageSearch,
    ) -> ObjectMask:
        grid = search.grid
        needed = dict.fromkeys(part for query in (*adds, *takes) for part in self._parts(query))
        full = {part: _full(found[part], grid) for part in needed}
        midline = midline_for((*adds, *takes), full, grid, lambda: search.midline)
        mask = np.zeros(grid.shape, dtype=bool)
        for query in adds:
            mask |= compose(query, full, grid, midline=midline)
        for query in takes:
            mask &= ~compose(query, full, grid, midline=midline)
        # Present if any part of what was asked for is.
        wanted = [part for query in adds for part in self._parts(replace(query, exclude=(), selectors=()))]
        presence = max((found[part].presence for part in wanted), default=0.0)
        if midline is not None and not midline.sure and mask.any():
            presence *= EITHER_SIDE
            names = ", ".join(query.describe() for query in adds)
            logger.warning("%s may be of the other side: %s", names, midline.reason)
        return ObjectMask.of(object_id, grid, mask, presence)


def words_of(prompt: Prompt) -> str:
    """The words of a text prompt."""
    assert isinstance(prompt, Text)
    return prompt.text


def _full(found: Found, grid: Grid) -> NDArray[np.bool_]:
    mask = np.zeros(grid.shape, dtype=bool)
    block, start = found.on(grid)
    mask[tuple(slice(a, a + n) for a, n in zip(start, block.shape, strict=True))] = block
    return mask
