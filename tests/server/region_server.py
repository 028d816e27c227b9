"""What a server process of the tests runs: a model whose answer can be computed by hand."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from region_model import RegionModel, region

from volseg.data.object_mask import ObjectMask
from volseg.errors import ModelError
from volseg.progress import report
from volseg.server import ServerLimits


class GatedModel(RegionModel):
    """The region slice by slice along k; stands still after the first while the gate is shut."""

    gate = Path("nowhere")

    def _segment(self, encoding, prompts, *, exact, progress, partial):
        masks = []
        for item in prompts.objects:
            inside = region(encoding.image[0].numpy(), item.prompts, encoding.grid)
            grown = inside.copy()
            grown[..., 3:] = False
            if partial is not None:
                partial(ObjectMask.of(item.object_id, encoding.grid, grown, 0.5))
            report(progress, 0.5, f"region of {item.title}")
            while self.gate.exists():
                time.sleep(0.01)
                report(progress, 0.6, f"waiting for {item.title}")
            if encoding.options.window == "-1,0":
                raise KeyError(item.title)  # a bug whose message holds what should not be logged
            masks.append(ObjectMask.of(item.object_id, encoding.grid, inside, 0.75))
        self.computed += [item.object_id for item in prompts.objects]
        return tuple(masks)


def load(name, gate=None):
    if name == "broken":
        raise ModelError("the files of the model are damaged")
    if name == "random-walker":
        from volseg.models.random_walker import RandomWalker

        return RandomWalker()
    model = GatedModel()
    if gate is not None:
        model.gate = gate
    return model


def serve(port, token, gate, limits, log, told):
    """Runs in a process of its own; its output goes to ``log``, its address to ``told``."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(filename=log, level=logging.DEBUG, force=True)

    from volseg.server.run import run_server

    run_server(
        "127.0.0.1",
        port,
        token,
        lambda name: load(name, Path(gate)),
        ("region", "random-walker", "broken"),
        ServerLimits(**limits),
        told.send,
    )
