"""A small model whose answer can be computed by hand: connected voxels of the clicked intensity."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import label as connected_components

from volseg.data.object_mask import ObjectMask
from volseg.models.base import Encoding, Model
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.progress import report
from volseg.prompts import PromptKind

KINDS = frozenset({PromptKind.POINT, PromptKind.BOX_2D, PromptKind.BOX_3D, PromptKind.SCRIBBLE, PromptKind.MASK})


def region(values, prompts, grid):
    """Positive prompts take the connected voxels that have their intensity, negative ones take those away."""
    inside = np.zeros(grid.shape, dtype=bool)
    for prompt in prompts:
        if prompt.kind is PromptKind.BOX_3D:
            inside[tuple(prompt.voxels_ijk(grid).T)] = prompt.positive
            continue
        for voxel in prompt.voxels_ijk(grid):
            components, _ = connected_components(values == values[tuple(voxel)])
            inside[components == components[tuple(voxel)]] = prompt.positive
    return inside


class RegionEncoding(Encoding):
    closed = False

    @property
    def settings(self):
        return (("window", self.options.window or "none"),)

    def close(self):
        self.closed = True


@dataclass
class RegionModel(Model):
    """Remembers what it was asked.

    Attributes:
        drift: without ``exact``, an answer also takes one more voxel at the end of the first row with every call, as
            an approximate update would make it depend on the past.
        computed: object ids in the order of computation.
        wait: if set, each computation stops here until the event comes.
        reached: set when a computation has started.
    """

    drift: bool = False
    name: str = "region"
    version: str = "1"
    computed: list[int] = field(default_factory=list)
    encodings: list[RegionEncoding] = field(default_factory=list)
    wait: threading.Event | None = None
    reached: threading.Event = field(default_factory=threading.Event)

    @property
    def card(self):
        return ModelCard(self.name, self.version, "for tests", positive=KINDS, negative=KINDS)

    def encode(self, image, options=None, progress=None):
        self.encodings.append(RegionEncoding(image, options or EncodeOptions()))
        return self.encodings[-1]

    def _segment(self, encoding, prompts, *, exact, progress, partial):
        assert not encoding.closed
        masks = []
        for item in prompts.objects:
            self.reached.set()
            report(progress, 0.5, f"region of {item.title}")
            if self.wait is not None:
                assert self.wait.wait(10)
            inside = region(encoding.image[0].numpy(), item.prompts, encoding.grid)
            if self.drift and not exact:
                inside.reshape(-1)[: len(self.computed) + 1] = True
            mask = ObjectMask.of(item.object_id, encoding.grid, inside, presence=0.75)
            if partial is not None:
                partial(mask)
            masks.append(mask)
        self.computed += [item.object_id for item in prompts.objects]
        return tuple(masks)


def blocks_image(axcodes="RAS", spacing_mm=(1.0, 2.0, 3.0)):
    """12 x 10 x 8 voxels with two blocks: 100 at i 1..3, j 1..4, k 2..5; 200 at i 6..9, j 5..8, k 1..4 (in RAS).

    Stored with axes towards ``axcodes``.
    """
    import torch
    from monai.data import MetaTensor

    from volseg.geometry import Grid

    values = np.zeros((12, 10, 8), dtype=np.int16)
    values[1:4, 1:5, 2:6] = 100
    values[6:10, 5:9, 1:5] = 200
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = (-20.0, 30.0, 400.0)
    grid = Grid(values.shape, affine)
    to_old = grid.reorientation(axcodes)
    order = np.abs(to_old[:3, :3]).argmax(axis=0)
    stored = np.flip(values.transpose(order), tuple(axis for axis in range(3) if to_old[order[axis], axis] < 0))
    affine = grid.reoriented(axcodes).affine_ras.copy()
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(stored))[None], affine=torch.from_numpy(affine))
