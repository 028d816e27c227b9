"""A volume whose structures are known, and a model that finds them by name."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from volseg.data.labelmap import Label
from volseg.data.object_mask import ObjectMask
from volseg.errors import PromptError
from volseg.geometry import Grid
from volseg.models.base import Encoding, Model
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.prompts import PromptKind

STRUCTURES = {
    # name: (value, low ijk, high ijk exclusive) in RAS order; x runs to the patient's right
    "liver": (10, (26, 8, 6), (42, 24, 18)),
    "spleen": (20, (6, 8, 8), (14, 16, 16)),
    "left kidney": (30, (10, 4, 2), (16, 8, 8)),
    "right kidney": (40, (30, 2, 2), (36, 7, 6)),
    "liver cyst": (50, (30, 12, 8), (34, 16, 12)),
}
SECOND_CYST = ((37, 12, 14), (39, 14, 16))
SHAPE = (48, 32, 24)
SPACING_MM = (2.0, 2.5, 3.0)


def phantom_values():
    """int16 [48, 32, 24] in RAS order; a liver cyst stands inside of the liver, and a second, smaller one."""
    values = np.zeros(SHAPE, dtype=np.int16)
    for value, low, high in STRUCTURES.values():
        values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = value
    values[tuple(slice(a, b) for a, b in zip(*SECOND_CYST, strict=True))] = 50
    return values


def phantom_image(axcodes="RAS"):
    """The phantom as a MetaTensor [1, I, J, K], stored with axes towards ``axcodes``."""
    import torch
    from monai.data import MetaTensor

    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = (-47.0, 10.0, -300.0)
    grid = Grid(SHAPE, affine)
    to_old = grid.reorientation(axcodes)
    order = np.abs(to_old[:3, :3]).argmax(axis=0)
    flips = tuple(axis for axis in range(3) if to_old[order[axis], axis] < 0)
    stored = np.ascontiguousarray(np.flip(phantom_values().transpose(order), flips))
    return MetaTensor(
        torch.from_numpy(stored)[None], affine=torch.from_numpy(grid.reoriented(axcodes).affine_ras.copy())
    )


@dataclass
class NameModel(Model):
    """Finds the phantom's structures by their value, and nothing else.

    Attributes:
        labelled: whether it has a label table.
        names: what it knows.
        asked: the texts it was given.
    """

    labelled: bool = True
    names: tuple[str, ...] = tuple(STRUCTURES)
    asked: list[str] = field(default_factory=list)

    @property
    def card(self):
        labels = tuple(Label(n, name, (1, 2, 3)) for n, name in enumerate((*self.names, "aorta"), 1))
        return ModelCard("name-model", "1", "for tests", positive=frozenset({PromptKind.TEXT}),
                         labels=labels if self.labelled else ())  # fmt: skip

    def encode(self, image, options=None, progress=None):
        return Encoding(image, options or EncodeOptions())

    def _segment(self, encoding, prompts, *, exact, progress, partial):
        masks = []
        for item in prompts.objects:
            name = item.prompts[0].text
            self.asked.append(name)
            plain = name.split(":")[0]
            if plain not in (*self.names, "aorta"):
                raise PromptError(f"the model does not know {name!r}")
            value = STRUCTURES[plain][0] if plain in STRUCTURES else 999
            inside = encoding.image[0].numpy() == value
            masks.append(ObjectMask.of(item.object_id, encoding.grid, inside, presence=0.9 if inside.any() else 0.05))
        return tuple(masks)
