"""Which intensities matter: windows of CT, percentiles of MR, and the choice between them.

Nothing here depends on the order in which a file stores its voxels: a volume gives the same window, bit for bit,
whatever its orientation on disk.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.modality import Modality
from volseg.errors import WindowError
from volseg.transforms.percentiles import percentiles

logger = logging.getLogger(__name__)

RADIOPAEDIA = "https://radiopaedia.org/articles/windowing-ct"
MEDSAM2 = "https://github.com/bowang-lab/MedSAM2"

PERCENTILES = (0.5, 99.5)
"""The darkest and brightest percent of the non-zero voxels that MR scaling cuts off, as MedSAM2 was trained."""

PERCENTILE_NAME = "percentile"
"""The window name that asks for percentiles whatever the modality."""


@dataclass(frozen=True)
class IntensityWindow:
    """A range of intensities that is shown from black to white.

    Attributes:
        low: the intensity that becomes 0, in the image's unit (Hounsfield units for CT).
        high: the intensity that becomes 1.
        name: what people call it.
        reason: why it was chosen.

    Raises:
        WindowError: not two finite numbers in ascending order.
    """

    low: float
    high: float
    name: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        low, high = float(self.low), float(self.high)
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise WindowError(f"a window runs from a lower to a higher intensity, got {self.low} to {self.high}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def __str__(self) -> str:
        """Name, numbers and reason in one line."""
        return f"{self.name or 'window'} [{self.low:g}, {self.high:g}]" + (f": {self.reason}" if self.reason else "")

    def apply(self, values: Any) -> Any:
        """Maps ``low`` to 0 and ``high`` to 1, linearly, and cuts off what lies outside.

        Every voxel is mapped by itself, so a volume can be done slice by slice with the same result.

        Args:
            values: numpy array or torch tensor of any shape and real dtype; not changed.

        Returns:
            The same kind and shape in float32, from 0 to 1.
        """
        width = self.high - self.low
        if not hasattr(values, "clamp_"):
            array = np.asarray(values)
            scaled: NDArray[np.floating[Any]] = array.astype(np.float32 if _fits_float32(array.dtype) else np.float64)
            scaled -= self.low
            scaled /= width
            clipped: NDArray[np.float32] = np.clip(scaled, 0, 1, out=scaled).astype(np.float32, copy=False)
            return clipped
        import torch

        wide = values.dtype in (torch.int32, torch.int64, torch.float64, torch.uint32, torch.uint64)
        tensor = values.to(torch.float64 if wide else torch.float32, copy=True)
        return tensor.sub_(self.low).div_(width).clamp_(0, 1).to(torch.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain data for provenance."""
        return {"low": self.low, "high": self.high, "name": self.name, "reason": self.reason}


@dataclass(frozen=True)
class WindowPreset:
    """A usual CT window.

    Attributes:
        level: the middle, in Hounsfield units.
        width: from black to white, in Hounsfield units.
        source: where the numbers come from.
    """

    level: float
    width: float
    source: str

    @property
    def low(self) -> float:
        """The Hounsfield units that become black."""
        return self.level - self.width / 2

    @property
    def high(self) -> float:
        """The Hounsfield units that become white."""
        return self.level + self.width / 2


DEFAULT_CT_WINDOW = "soft tissue"

CT_PRESETS: Mapping[str, WindowPreset] = MappingProxyType(
    {
        "soft tissue": WindowPreset(40, 400, MEDSAM2),
        "abdomen": WindowPreset(50, 400, RADIOPAEDIA),
        "liver": WindowPreset(30, 150, RADIOPAEDIA),
        "mediastinum": WindowPreset(50, 350, RADIOPAEDIA),
        "lung": WindowPreset(-600, 1500, RADIOPAEDIA),
        "vessels": WindowPreset(200, 600, RADIOPAEDIA),
        "bone": WindowPreset(400, 1800, RADIOPAEDIA),
        "temporal bone": WindowPreset(600, 2800, RADIOPAEDIA),
        "spine": WindowPreset(50, 250, RADIOPAEDIA),
        "brain": WindowPreset(40, 80, RADIOPAEDIA),
        "stroke": WindowPreset(40, 40, RADIOPAEDIA),
        "subdural": WindowPreset(75, 215, f"{RADIOPAEDIA} (middle of the ranges given there)"),
    }
)
"""CT windows by name; spaces may be written as ``-`` or ``_``."""


def parse_window(text: str) -> IntensityWindow:
    """Reads the name of a CT preset or two numbers.

    Args:
        text: such as ``"lung"``, ``"soft-tissue"`` or ``"-160,240"`` (lower, higher intensity in the image's unit).

    Raises:
        WindowError: neither.
    """
    name = " ".join(text.lower().replace("_", " ").replace("-", " ").split())
    if name in CT_PRESETS:
        preset = CT_PRESETS[name]
        return IntensityWindow(preset.low, preset.high, name, f"level {preset.level:g}, width {preset.width:g} HU")
    parts = text.split(",")
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        known = ", ".join((*CT_PRESETS, PERCENTILE_NAME))
        raise WindowError(f"a window is LO,HI (two numbers) or one of {known}; got {text!r}") from None
    return IntensityWindow(low, high, "numbers", "as given")


def percentile_window(image: Any, lower: float = PERCENTILES[0], upper: float = PERCENTILES[1]) -> IntensityWindow:
    """The window between two percentiles of the voxels that are not zero.

    Exact (the order statistics of all voxels, read as float32), so it does not depend on orientation; needs memory
    for one slice.

    Args:
        image: numpy array or torch tensor [C, I, J, K] or any other shape.
        lower: percent of the non-zero voxels that lie below the window.
        upper: percent of the non-zero voxels that lie below its upper end.

    Returns:
        The window. Where there is nothing to spread (all voxels zero, or all others equal) it starts at that value,
        so that the image becomes black instead of undefined.

    Raises:
        WindowError: the percentages are not ascending between 0 and 100, or the image is empty.
    """
    if not 0 <= lower < upper <= 100:
        raise WindowError(f"percentiles ascend between 0 and 100, got {lower} and {upper}")
    found = percentiles(image, (lower, upper), skip_zeros=True)
    if found is None:
        return IntensityWindow(0, 1, PERCENTILE_NAME, "every voxel is zero")
    low, high = found
    if high <= low:
        reason = f"nearly all non-zero voxels are {low:g}"
        return IntensityWindow(low, low + max(1.0, abs(low)), PERCENTILE_NAME, reason)
    return IntensityWindow(low, high, PERCENTILE_NAME, f"percentiles {lower:g} and {upper:g} of the non-zero voxels")


def guess_modality(image: Any) -> tuple[Modality, str]:
    """The modality that the image states in ``meta["modality"]``, else the one its intensities look like.

    Args:
        image: ``MetaTensor`` [C, I, J, K], or a plain array or tensor (then only the intensities count).

    Returns:
        The modality, and the reason in words.
    """
    stated = str(getattr(image, "meta", {}).get("modality") or "").strip().upper()
    if stated:
        modality = {"CT": Modality.CT, "MR": Modality.MR, "MRI": Modality.MR}.get(stated, Modality.OTHER)
        return modality, f"the image says its modality is {stated}"
    low, high = percentiles(image, (0.1, 99.9), skip_zeros=False) or (0.0, 0.0)
    numbers = f"0.1 and 99.9 percentile {low:g} and {high:g}"
    # Fat is at -100 HU and air at -1000, and every CT of a person has some; resampling may push MR a little below 0.
    if low <= -80 and 100 <= high - low <= 20000:
        return Modality.CT, f"the intensities look like Hounsfield units ({numbers})"
    if high - low >= 20:
        return Modality.MR, f"the intensities do not look like Hounsfield units ({numbers})"
    return Modality.OTHER, f"the intensities are neither Hounsfield units nor a scanner's MR values ({numbers})"


def choose_window(image: Any, window: str | None = None, modality: Modality | None = None) -> IntensityWindow:
    """The window to look at an image through, with the reason logged.

    Args:
        image: ``MetaTensor`` [C, I, J, K].
        window: a CT preset's name, ``"LO,HI"``, ``"percentile"``, or None: soft tissue for CT, percentiles otherwise.
        modality: None takes ``guess_modality``.

    Raises:
        WindowError: ``window`` is none of these, or the image is empty.
    """
    if window is not None:
        chosen = percentile_window(image) if window.strip().lower() == PERCENTILE_NAME else parse_window(window)
        chosen = IntensityWindow(chosen.low, chosen.high, chosen.name, f"asked for; {chosen.reason}")
    else:
        why = "stated by the user"
        if modality is None:
            modality, why = guess_modality(image)
        chosen = parse_window(DEFAULT_CT_WINDOW) if modality is Modality.CT else percentile_window(image)
        chosen = IntensityWindow(chosen.low, chosen.high, chosen.name, f"{modality}, as {why}; {chosen.reason}")
    logger.info("intensity window %s", chosen)
    return chosen


def _fits_float32(dtype: np.dtype[Any]) -> bool:
    """Whether float32 holds every value of ``dtype``."""
    return bool(np.can_cast(dtype, np.float32, casting="safe"))
