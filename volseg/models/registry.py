"""Finding a model by its name or its bundle folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from volseg.errors import ModelError
from volseg.models.baselines import BASELINES, is_mobilesam, load_baseline

if TYPE_CHECKING:
    from volseg.models.base import Model
    from volseg.models.card import ModelCard

DEFAULT_MODEL = "random-walker"

TEXT_MODEL = "text-nano"
"""What serves words where no model was named."""

CLICK_MODEL = "sam2-nano"
"""What corrects the masks of words in the pipeline."""

PIPELINE = "text-then-clicks"
"""Words and then clicks: the two above behind one contract."""


def list_models() -> tuple[ModelCard, ...]:
    """Cards of the models that can be loaded here: those volseg carries, then those in the cache."""
    from volseg.models.bundles.folders import cached_bundles, carried_bundles
    from volseg.models.random_walker import RandomWalker

    cards = [RandomWalker().card]
    for bundles in (carried_bundles, cached_bundles):
        names = {card.name for card in cards}
        cards += [bundle.card for _, bundle in bundles() if bundle.identity.name not in names]
    pipeline = pipeline_card()
    return tuple(cards) if pipeline is None else (*cards, pipeline)


def load_model(
    name: str | Path = DEFAULT_MODEL, *, device: str = "auto", trust: bool = False, commercial: bool = False
) -> Model:
    """Makes a model ready to encode images.

    Args:
        name: a name from ``list_models``, a baseline of ``volseg.models.baselines``, a MONAI bundle folder, or a folder
            with MobileSAM's ONNX files.
        device: ``auto``, ``cpu``, ``cuda`` (also ``cuda:N``) or ``mps``.
        trust: allow a bundle to run code that is not volseg's.
        commercial: refuse weights that may not be used commercially.

    Raises:
        ModelError: there is no such model, or its files are damaged.
        UntrustedBundleError: the bundle would run foreign code and ``trust`` is not set.
        LicenseError: ``commercial`` is set and the licence of the weights does not allow it.
    """
    if str(name) == "random-walker":
        from volseg.models.random_walker import RandomWalker

        return RandomWalker()
    if str(name) in BASELINES:
        return load_baseline(str(name))
    if str(name) == PIPELINE:
        from volseg.models.text_then_clicks import TextThenClicks

        words, clicks = (
            load_model(part, device=device, trust=trust, commercial=commercial) for part in (TEXT_MODEL, CLICK_MODEL)
        )
        return TextThenClicks(words, clicks, PIPELINE)
    folder = find_model(name)
    if is_mobilesam(folder):
        from volseg.models.baselines.mobilesam import MobileSam

        return MobileSam(folder)
    if commercial:
        from volseg.models.bundles.read import read_any_bundle
        from volseg.models.checkpoints.convert import require_commercial

        require_commercial(read_any_bundle(folder).license, str(name))
    from volseg.models.bundles.load import load_bundle

    return load_bundle(folder, device=device, trust=trust)


def model_card(name: str | Path) -> ModelCard:
    """The card of a model, without loading it.

    Args:
        name: a name from ``list_models``, or a bundle folder.

    Raises:
        ModelError: there is no such model.
    """
    from volseg.models.bundles.read import read_any_bundle

    for card in list_models():
        if card.name == name:
            return card
    return read_any_bundle(find_model(name)).card


def pipeline_card() -> ModelCard | None:
    """The card of the pipeline of words and clicks; None where one of its models is not here."""
    from volseg.models.bundles.folders import find_bundle
    from volseg.models.bundles.read import read_any_bundle
    from volseg.models.text_then_clicks import pipeline_of

    folders = [find_bundle(name) for name in (TEXT_MODEL, CLICK_MODEL)]
    cards = [read_any_bundle(folder).card for folder in folders if folder is not None]
    return pipeline_of(cards[0], cards[1], PIPELINE) if len(cards) == 2 else None


def find_model(name: str | Path) -> Path:
    """The bundle folder of a model.

    Args:
        name: a name from ``list_models`` other than random-walker, or a folder.

    Raises:
        ModelError: there is no such model.
    """
    from volseg.models.bundles.folders import find_bundle
    from volseg.models.checkpoints.known import known_model

    found = None if isinstance(name, Path) else find_bundle(name)
    if found is not None:
        return found
    if Path(name).is_dir():
        return Path(name)
    if known_model(str(name)) is not None:
        raise ModelError(f"the model {name} is not here yet; fetch it with 'volseg models download {name}'")
    if Path(name).is_file():
        raise ModelError(f"{name} is a file; convert it with 'volseg models convert {name} -o FOLDER' first")
    known = ", ".join(card.name for card in list_models())
    raise ModelError(f"there is no model {str(name)!r}; known are {known}, or give a bundle folder")
