"""Intensities from 0 to 1, as networks take them."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.meta_obj import get_track_meta
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import convert_to_tensor
from monai.utils.enums import TraceKeys

from volseg.data.modality import Modality
from volseg.transforms.percentiles import slowest_axis
from volseg.transforms.trace import rewrapped
from volseg.transforms.windows import (
    PERCENTILES,
    IntensityWindow,
    choose_window,
    percentile_window,
)

logger = logging.getLogger(__name__)

WINDOW_META_KEY = "intensity_window"
"""Where the window that was applied stands in the image's ``meta``: ``{low, high, name, reason}``."""


class IntensityTransformd(MapTransform, InvertibleTransform):  # type: ignore[misc]
    """Scales images to 0..1 through a window that a subclass chooses, and leaves the window in their ``meta``.

    The window cuts values off, so they cannot be computed back. The trace therefore refers to the source tensor (no
    copy), and ``inverse`` gives that back, bit for bit, if the scaled values came through unchanged. If they did not
    (a resampled image, or a network's prediction under ``Invertd``) they stay as they are, as with MONAI's own
    intensity transforms, which have no inverse.

    Args:
        keys: the images [C, I, J, K], ``MetaTensor``, tensor or array of any real dtype; the results are float32.
        keep_source: whether the trace refers to the source. It then lives as long as the result, is sent along by the
            workers of a ``DataLoader``, and is copied with every deep copy; turn it off where nothing is inverted,
            as in training.
        allow_missing_keys: whether data without some of the keys is passed over.
    """

    def __init__(
        self, keys: Hashable | Iterable[Hashable], keep_source: bool = True, allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.keep_source = keep_source

    @abstractmethod
    def window_for(self, image: Any) -> IntensityWindow:
        """The window for one image [C, I, J, K]."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scales ``data[key]`` for each key; the rest of ``data`` is passed on."""
        results = dict(data)
        for key in self.key_iterator(results):
            image = convert_to_tensor(results[key], track_meta=get_track_meta())
            result, extra_info = _scaled(image, self.window_for(image), keep_source=self.keep_source)
            results[key] = self.push_transform(result, extra_info=extra_info)
        return results

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Gives the source tensors back where the scaled values are unchanged; see the class."""
        results = dict(data)
        for key in self.key_iterator(results):
            image = rewrapped(results[key].as_tensor(), results[key])
            extra_info = self.pop_transform(image)[TraceKeys.EXTRA_INFO]
            source = extra_info.get("source")
            if source is not None and _came_through(image.as_tensor(), source, extra_info):
                image = rewrapped(source, image)
            else:
                logger.info("the values of %r changed after %s and stay as they are", key, type(self).__name__)
            image.meta.pop(WINDOW_META_KEY, None)
            if extra_info["meta_before"]:
                image.meta[WINDOW_META_KEY] = extra_info["meta_before"]
            results[key] = image
        return results

    @classmethod
    def replayed(cls, image: MetaTensor, operation: Mapping[Hashable, Any]) -> MetaTensor:
        """Applies a recorded operation; see ``volseg.transforms.replay``."""
        recorded = operation[TraceKeys.EXTRA_INFO]
        result, extra_info = _scaled(
            image, IntensityWindow(**recorded["window"]), keep_source=recorded.get("source") is not None
        )
        result.push_applied_operation({**operation, TraceKeys.EXTRA_INFO: extra_info})
        return result


class WindowIntensityd(IntensityTransformd):
    """Scales images through one window, given by name or by numbers.

    Args:
        keys: see ``IntensityTransformd``.
        window: a CT preset's name such as ``"lung"`` (``volseg.transforms.windows.CT_PRESETS``), ``"LO,HI"``, a pair
            of numbers, or ``"percentile"``.
        keep_source: see ``IntensityTransformd``.
        allow_missing_keys: see ``IntensityTransformd``.

    Raises:
        WindowError: ``window`` is none of these (when called).
    """

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable],
        window: str | Sequence[float],
        keep_source: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, keep_source, allow_missing_keys)
        self.window = window if isinstance(window, str) else ",".join(repr(float(value)) for value in window)

    def window_for(self, image: Any) -> IntensityWindow:
        """See ``IntensityTransformd.window_for``."""
        return choose_window(image, self.window)


class PercentileScaled(IntensityTransformd):
    """Scales images between two percentiles of their non-zero voxels, as is usual for MR.

    Args:
        keys: see ``IntensityTransformd``.
        lower: percent of the non-zero voxels that become black.
        upper: percent of the non-zero voxels that stay below white.
        keep_source: see ``IntensityTransformd``.
        allow_missing_keys: see ``IntensityTransformd``.

    Raises:
        WindowError: the percentages are not ascending between 0 and 100 (when called).
    """

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable],
        lower: float = PERCENTILES[0],
        upper: float = PERCENTILES[1],
        keep_source: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, keep_source, allow_missing_keys)
        self.lower, self.upper = lower, upper

    def window_for(self, image: Any) -> IntensityWindow:
        """See ``IntensityTransformd.window_for``."""
        return percentile_window(image, self.lower, self.upper)


class AutoWindowd(IntensityTransformd):
    """Scales CT through the soft-tissue window and everything else between percentiles; logs why.

    Args:
        keys: see ``IntensityTransformd``.
        modality: what all images are; None takes each image's ``meta["modality"]``, or guesses from its intensities.
        keep_source: see ``IntensityTransformd``.
        allow_missing_keys: see ``IntensityTransformd``.
    """

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable],
        modality: Modality | str | None = None,
        keep_source: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, keep_source, allow_missing_keys)
        self.modality = None if modality is None else Modality(modality)

    def window_for(self, image: Any) -> IntensityWindow:
        """See ``IntensityTransformd.window_for``."""
        return choose_window(image, None, self.modality)


def _scaled(image: torch.Tensor, window: IntensityWindow, *, keep_source: bool) -> tuple[Any, dict[str, Any]]:
    """The scaled image (``MetaTensor`` if ``image`` is) and what the trace must know."""
    source = image.as_tensor() if isinstance(image, MetaTensor) else image
    scaled = torch.empty_like(source, dtype=torch.float32)
    # Slice by slice: no second volume of intermediate values.
    axis = slowest_axis(source)
    for index in range(source.shape[axis]):
        scaled.select(axis, index).copy_(window.apply(source.select(axis, index)))
    extra_info: dict[str, Any] = {
        "window": window.to_json(),
        "meta_before": {},
        # MONAI's Invertd sets this to nearest to say that it brings labels back.
        "mode": "bilinear",
    }
    if keep_source:
        extra_info["source"] = source
    if not isinstance(image, MetaTensor):
        return scaled, extra_info
    result = rewrapped(scaled, image)
    extra_info["meta_before"] = result.meta.get(WINDOW_META_KEY, {})
    result.meta[WINDOW_META_KEY] = window.to_json()
    return result, extra_info


def _came_through(values: torch.Tensor, source: torch.Tensor, extra_info: Mapping[str, Any]) -> bool:
    """Whether ``values`` are what the window makes of ``source``, and intensities."""
    if extra_info["mode"] == "nearest" or values.shape != source.shape or values.dtype != torch.float32:
        return False
    window = IntensityWindow(**extra_info["window"])
    source = source.to(values.device)
    axis = slowest_axis(source)
    return all(
        torch.equal(values.select(axis, index), window.apply(source.select(axis, index)))
        for index in range(source.shape[axis])
    )
