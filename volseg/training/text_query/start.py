"""A run that goes on from the weights of an earlier one, also where it asks for other structures."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from volseg.errors import TrainingError
from volseg.models.checkpoints.hashing import file_sha256
from volseg.networks.text_query.config import TextQuerySpec
from volseg.networks.text_query.network import TextQueryNetwork
from volseg.text.vocabulary import Laterality, load_vocabulary

BANK = "bank"
"""The network's tensor of query embeddings."""


def take_weights(network: TextQueryNetwork, path: Path, sha256: str) -> None:
    """Gives a network the weights of another with the same parts.

    A structure that the other network does not know starts as the mean of its left and right, where it knows these, and
    else as the network has it.

    Args:
        network: changed in place.
        path: safetensors that ``export_text`` wrote.
        sha256: what the file has to be.

    Raises:
        TrainingError: another file, or weights of a network with other parts.
    """
    from safetensors import safe_open

    if file_sha256(path) != sha256:
        raise TrainingError(f"{path} is not the file with the sha256 {sha256} that the configuration starts from")
    with safe_open(path, "pt") as weights:
        spec = TextQuerySpec.from_json(weights.metadata()["spec"])
        state = {name: weights.get_tensor(name).float() for name in weights.keys()}  # noqa: SIM118
    state[BANK] = _bank(network, spec, state[BANK])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(f"{path} does not fit the network: {str(error)[:300]}") from error


def _bank(network: TextQueryNetwork, spec: TextQuerySpec, known: Tensor) -> Tensor:
    rows = dict(zip(spec.concepts, known, strict=True))
    bank = network.bank.detach().clone()
    for row, concept in enumerate(network.spec.concepts):
        found = [rows[one] for one in (concept, *_sides(concept)) if one in rows]
        if found:
            bank[row] = found[0] if concept in rows else torch.stack(found).mean(dim=0)
    return bank


def _sides(concept: str) -> list[str]:
    vocabulary = load_vocabulary()
    found = [vocabulary.sided(concept, side) for side in (Laterality.LEFT, Laterality.RIGHT)]
    return [one.id for one in found if one is not None]
