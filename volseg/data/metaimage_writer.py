"""Label maps as MetaImage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import WriteError
from volseg.geometry import RAS_LPS, Grid

PIECE_LENGTH = 2000
"""Longer values are cut into numbered fields: ITK cannot read a line of more than 32 kB."""


def write_metaimage(array: NDArray[Any], grid: Grid, fields: Mapping[str, str], path: Path) -> None:
    """Writes one volume, compressed, through SimpleITK.

    Args:
        array: [I, J, K] unsigned integers of the type to be stored.
        grid: its grid.
        fields: JSON texts for the header; ``joined_field`` puts their pieces together again.
        path: name of the file, .mha.

    Raises:
        WriteError: SimpleITK cannot write it.
    """
    import SimpleITK

    affine_lps = RAS_LPS @ grid.affine_ras
    image = SimpleITK.GetImageFromArray(array.T)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(affine_lps[:3, 3].tolist())
    image.SetDirection((affine_lps[:3, :3] / np.array(grid.spacing_mm)).ravel().tolist())
    for name, text in fields.items():
        # The format drops blanks at the ends of a value; outside of strings our JSON has none.
        text = text.replace(" ", "\\u0020")
        for index, start in enumerate(range(0, len(text), PIECE_LENGTH)):
            image.SetMetaData(f"{name}_{index}", text[start : start + PIECE_LENGTH])
    try:
        SimpleITK.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise WriteError(f"{path}: SimpleITK cannot write it: {error}") from error


def joined_field(fields: Mapping[str, str], name: str) -> str:
    """The text that ``write_metaimage`` wrote under ``name``, or ``""``."""
    pieces: list[str] = []
    while (piece := fields.get(f"{name}_{len(pieces)}")) is not None:
        pieces.append(piece)
    return "".join(pieces)
