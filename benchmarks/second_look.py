"""How long the second look takes: with PyTorch's own choice of convolutions, as it is, and the walk alone.

    OMP_NUM_THREADS=1 python benchmarks/second_look.py

In float32 and in turns, on blocks as objects of several forms give; the medians of several runs, as JSON. Ratios are
to PyTorch's own choice. Where the processor multiplies bfloat16, volseg computes in that, and this does not matter.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from torch import nn

from volseg.networks.refine.config import RefineSpec
from volseg.networks.refine.network import Channel, RefineNetwork
from volseg.networks.refine.walk import walked
from volseg.networks.single_conv import SingleConv3d

BLOCKS = ((40, 40, 32), (32, 40, 40), (16, 64, 48), (24, 24, 24))


class _PlainConv3d(SingleConv3d):
    _conv_forward = nn.Conv3d._conv_forward


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    torch.manual_seed(0)
    single = RefineNetwork(RefineSpec(walk=True))
    plain = RefineNetwork(RefineSpec(walk=True), single.state_dict())
    for part in plain.modules():
        if type(part) is SingleConv3d:
            part.__class__ = _PlainConv3d
    found = {}
    for shape in BLOCKS:
        channels = torch.randn(1, len(Channel), *shape)
        nothing = torch.zeros(shape, dtype=torch.bool)
        ways = {
            "plain": lambda c=channels: plain.body(c),
            "volseg": lambda c=channels: single(c),
            "plain training": lambda c=channels: plain.body(c).mean().backward(),
            "volseg training": lambda c=channels: single(c).mean().backward(),
            "walk": lambda c=channels, n=nothing: walked(c[0, 0], c[0, 1], 0.1, c[0, 2], n, n),
        }
        seconds = {name: [] for name in ways}
        for _ in range(runs):
            for name, way in ways.items():
                start = time.perf_counter()
                with torch.set_grad_enabled("training" in name):
                    way()
                seconds[name].append(time.perf_counter() - start)
        medians = {name: float(np.median(values)) for name, values in seconds.items()}
        ratios = {
            "ratio": medians["volseg"] / medians["plain"],
            "ratio training": medians["volseg training"] / medians["plain training"],
        }
        found["x".join(map(str, shape))] = {name: round(value, 4) for name, value in {**medians, **ratios}.items()}
    print(json.dumps({"threads": torch.get_num_threads(), "blocks": found}, indent=1))


if __name__ == "__main__":
    main()
