"""A volume covered by overlapping windows, stitched in memory that does not grow with the volume."""

from volseg.inferers.windows.inferer import SlidingWindows
from volseg.inferers.windows.plan import Blending, WindowPlan, WindowSettings
from volseg.inferers.windows.predictor import QueryPredictor
from volseg.inferers.windows.sinks import DenseLogits, LabelVolume

__all__ = [
    "Blending",
    "DenseLogits",
    "LabelVolume",
    "QueryPredictor",
    "SlidingWindows",
    "WindowPlan",
    "WindowSettings",
]
