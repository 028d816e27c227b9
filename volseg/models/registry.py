"""Finding a model by its name or its bundle folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from volseg.errors import ModelError

if TYPE_CHECKING:
    from volseg.models.base import Model
    from volseg.models.card import ModelCard

DEFAULT_MODEL = "random-walker"


def list_models() -> tuple[ModelCard, ...]:
    """Cards of the models that volseg carries."""
    from volseg.models.random_walker import RandomWalker

    return (RandomWalker().card,)


def load_model(name: str | Path = DEFAULT_MODEL, *, device: str = "auto", trust: bool = False) -> Model:
    """Makes a model ready to encode images.

    Args:
        name: a name from ``list_models``, or a MONAI bundle folder.
        device: ``auto``, ``cpu``, ``cuda`` (also ``cuda:N``) or ``mps``.
        trust: allow a bundle to run code that is not volseg's.

    Raises:
        ModelError: there is no such model, or its files are damaged.
        UntrustedBundleError: the bundle would run foreign code and ``trust`` is not set.
    """
    from volseg.models.random_walker import RandomWalker

    if str(name) == "random-walker":
        return RandomWalker()
    known = ", ".join(card.name for card in list_models())
    raise ModelError(f"there is no model {str(name)!r}; known are {known}, or give a bundle folder")
