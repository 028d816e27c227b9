"""Where downloaded and converted models are kept."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "VOLSEG_CACHE"
OFFLINE_VARIABLES = ("VOLSEG_OFFLINE", "HF_HUB_OFFLINE")


def cache_folder() -> Path:
    """``$VOLSEG_CACHE``, or the platform's cache folder (``~/.cache/volseg`` on Linux); need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("volseg"))


def models_folder() -> Path:
    """Where bundles lie, one folder a model, each whole."""
    return cache_folder() / "models"


def downloads_folder() -> Path:
    """Where files arrive; a ``.part`` file there is continued by the next download."""
    return cache_folder() / "downloads"


def is_offline() -> bool:
    """Whether the environment forbids the network."""
    return any(os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"} for name in OFFLINE_VARIABLES)
