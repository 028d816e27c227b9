"""Models that workers load by name, and that go wrong as an object's name tells them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from dataclasses import dataclass

from region_model import RegionModel

from volseg.data.labelmap import Label
from volseg.errors import ModelError
from volseg.models.card import ModelCard
from volseg.prompts import PromptKind

CHATTER = "the image of Doe^Jane"
"""What some library prints past all logging."""


@dataclass
class TroubleModel(RegionModel):
    """The region model; objects called after a trouble cause it."""

    def _segment(self, encoding, prompts, *, exact, progress, partial):
        for item in prompts.objects:
            match item.name:
                case "segfault":
                    ctypes.string_at(0)
                case "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hang":
                    time.sleep(600)
                case "memory":
                    raise MemoryError("Unable to allocate 9 TiB")
                case "cuda memory":
                    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
                case "chatty":
                    for stream in (1, 2):
                        os.write(stream, CHATTER.encode())
                case "bug":
                    raise KeyError(f"image of {encoding.image.meta}")
                case "slow":
                    for _ in range(200):
                        time.sleep(0.01)
                        if progress is not None and progress(0.5, "slow") is False:
                            from volseg.errors import Cancelled

                            raise Cancelled("slow")
        return super()._segment(encoding, prompts, exact=exact, progress=progress, partial=partial)


class ByItselfModel(RegionModel):
    """Needs no prompts: takes every voxel of 100 for its structure."""

    @property
    def card(self):
        return ModelCard("itself", "1", "for tests", positive=frozenset(), labels=(Label(7, "block", (1, 2, 3)),))

    def _segment(self, encoding, prompts, *, exact, progress, partial):
        from volseg.data.object_mask import ObjectMask

        assert prompts.objects == ()
        return (ObjectMask.of(7, encoding.grid, encoding.image[0].numpy() == 100, presence=0.9),)


class NamesModel(RegionModel):
    """Takes words: its two structures are the blocks."""

    @property
    def card(self):
        labels = (Label(3, "low block", (1, 2, 3)), Label(5, "high block", (1, 2, 3)))
        return ModelCard("names", "1", "for tests", positive=frozenset({PromptKind.TEXT}), labels=labels)

    def _segment(self, encoding, prompts, *, exact, progress, partial):
        from volseg.data.object_mask import ObjectMask

        values = {"low block": 100, "high block": 200}
        image = encoding.image[0].numpy()
        return tuple(
            ObjectMask.of(item.object_id, encoding.grid, image == values[item.prompts[0].text])
            for item in prompts.objects
        )


def trouble(device):
    return TroubleModel()


def by_itself(device):
    return ByItselfModel()


def by_names(device):
    return NamesModel()


def broken(device):
    raise ModelError("its weights are damaged")
