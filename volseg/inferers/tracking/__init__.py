"""Tracks objects through the frames of a stack with SAM 2; knows frames, not volumes."""

from volseg.inferers.tracking.features import FeatureCache, FrameSource
from volseg.inferers.tracking.prompts import FramePrompts
from volseg.inferers.tracking.settings import Precision, TrackSettings
from volseg.inferers.tracking.state import Direction, FrameMask, FrameResult, PromptedFrame, Track
from volseg.inferers.tracking.tracker import Tracker, TrackRequest, TrackUpdate

__all__ = [
    "Direction",
    "FeatureCache",
    "FrameMask",
    "FramePrompts",
    "FrameResult",
    "FrameSource",
    "Precision",
    "PromptedFrame",
    "Track",
    "TrackRequest",
    "TrackSettings",
    "TrackUpdate",
    "Tracker",
]
