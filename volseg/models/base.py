"""The one contract between models and everything that drives them (P2)."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.errors import PromptError
from volseg.geometry import Grid
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback, report
from volseg.prompts import Box, Prompt, PromptedObject, PromptKind, PromptSet

if TYPE_CHECKING:
    from monai.data import MetaTensor

logger = logging.getLogger(__name__)

PartialCallback: TypeAlias = Callable[[ObjectMask], None]
"""Called with an object's mask as it grows, for previews; may be called from the computing thread."""


class Encoding:
    """An image as a model sees it, computed as far as possible without prompts, and lazily.

    Holds caches; close it (or leave its ``with`` block) to free them.
    """

    def __init__(self, image: MetaTensor, options: EncodeOptions) -> None:
        """Args: image, [1, I, J, K] on its own grid, never changed; options, how to look at it."""
        self.image = image
        self.grid = Grid.of(image)
        self.options = options

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """(name, value) pairs for the provenance, such as the window that was chosen and why."""
        return ()

    def warm_up(self, progress: ProgressCallback | None = None) -> None:
        """Does now what the first prompt would otherwise wait for and no prompt can change; may do nothing.

        Raises:
            Cancelled: ``progress`` asked to stop.
        """

    def close(self) -> None:
        """Frees caches; the encoding cannot be used afterwards."""

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()


@dataclass(frozen=True)
class Segmentation:
    """What ``Model.segment`` returns.

    Attributes:
        masks: one for each prompted object, in the order of the prompts, on the image's grid.
        seconds: wall time of each object's computation, in the same order; objects computed together share it evenly.
    """

    masks: tuple[ObjectMask, ...]
    seconds: tuple[float, ...]


class Model(ABC):
    """Turns an image and prompts into masks on the image's grid.

    ``segment`` gives the same masks for the same encoding and prompts; what a model remembers between calls only saves
    time. Where a model offers a faster approximate update after a correction, ``exact=True`` forgoes it.
    """

    @property
    @abstractmethod
    def card(self) -> ModelCard:
        """What the model says about itself."""

    @abstractmethod
    def encode(
        self, image: MetaTensor, options: EncodeOptions | None = None, progress: ProgressCallback | None = None
    ) -> Encoding:
        """Prepares an image [1, I, J, K]; cheap, the work is done when first needed.

        Raises:
            Cancelled: ``progress`` asked to stop.
            VolsegError: the image or the options do not fit the model.
        """

    def keep_encodings(self, folder: Path) -> None:
        """Keeps what later encodings compute in ``folder``, for other sessions on the same image; may do nothing."""
        logger.debug("model %s keeps no encodings in %s", self.card.name, folder)

    @abstractmethod
    def _segment(
        self,
        encoding: Encoding,
        prompts: PromptSet,
        *,
        exact: bool,
        progress: ProgressCallback | None,
        partial: PartialCallback | None,
    ) -> tuple[ObjectMask, ...]:
        """One mask per object, in order; ``prompts`` are checked and in voxel indices of the image's grid."""

    def segment(
        self,
        encoding: Encoding,
        prompts: PromptSet,
        *,
        exact: bool = False,
        progress: ProgressCallback | None = None,
        partial: PartialCallback | None = None,
    ) -> Segmentation:
        """Segments every prompted object.

        Args:
            encoding: from this model's ``encode``.
            prompts: what to segment, on any grid; moved to the image's here.
            exact: forgo approximate updates after a correction.
            progress: told the part done; may cancel.
            partial: given masks as they grow.

        Raises:
            CapabilityError: the model does not serve a prompt's kind; nothing is dropped silently.
            PromptError: a prompt is outside the volume or on a value that is not finite.
            Cancelled: ``progress`` asked to stop.
        """
        for item in prompts.objects:
            self.card.check_serves(item)
        on_grid = prompts.on_grid(encoding.grid)
        for item in on_grid.objects:
            _check_finite(encoding.image, item, encoding.grid)
        start = time.perf_counter()
        report(progress, 0.0, "segmenting")
        masks = self._segment(encoding, on_grid, exact=exact, progress=progress, partial=partial)
        seconds = (time.perf_counter() - start) / max(1, len(masks))
        report(progress, 1.0, "segmented")
        return Segmentation(masks, (seconds,) * len(masks))


def _check_finite(image: MetaTensor, item: PromptedObject, grid: Grid) -> None:
    """Refuses a prompt that has nothing but NaN and infinity under it; a large one may reach into padding."""
    if not image.dtype.is_floating_point:
        return
    values = image.detach().cpu().numpy()[0]
    for index, prompt in enumerate(item.prompts):
        if prompt.kind is not PromptKind.TEXT and not _any_finite(values, prompt, grid):
            raise PromptError(f"{item.describe(index)}: lies on image values that are not finite (NaN or inf)")


def _any_finite(values: NDArray[Any], prompt: Prompt, grid: Grid) -> bool:
    if isinstance(prompt, Box):
        # Plane by plane: the indices of all voxels of a large box would take more memory than the image.
        start, stop = prompt.bounds_ijk(grid)
        block = values[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        return any(bool(np.isfinite(plane).any()) for plane in block)
    return bool(np.isfinite(values[tuple(prompt.voxels_ijk(grid).T)]).any())
