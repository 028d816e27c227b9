"""Reading the ``volseg`` block of a bundle, whatever its engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from volseg.errors import ModelError
from volseg.models.bundles.metadata import BLOCK, METADATA_FILE, Sam2Bundle, read_bundle, read_metadata

if TYPE_CHECKING:
    from volseg.models.bundles.text_metadata import TextQueryBundle

Bundle: TypeAlias = "Sam2Bundle | TextQueryBundle"
"""What a bundle says about its model."""

TEXT_ENGINE = "text_query"


def read_any_bundle(folder: Path) -> Bundle:
    """Reads a bundle's ``volseg`` block; errors as ``read_bundle``."""
    block = read_metadata(folder).get(BLOCK)
    if not isinstance(block, dict) or block.get("engine") != TEXT_ENGINE:
        return read_bundle(folder)
    from volseg.models.bundles.text_metadata import TextQueryBundle

    try:
        return TextQueryBundle.from_json(block)
    except ModelError as error:
        raise ModelError(f"{folder / METADATA_FILE}: {error}") from error
