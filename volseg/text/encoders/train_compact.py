"""Training of the compact encoder: names of one concept together, names of different concepts apart."""

from __future__ import annotations

import json
import logging
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.atomic import atomic_path
from volseg.progress import ProgressCallback, report
from volseg.text.encoders.compact import FORMAT, WEIGHTS, CompactEncoder
from volseg.text.encoders.features import encoder_words, pieces
from volseg.text.tables import LANGUAGES, rows
from volseg.text.vocabulary import Concept, Laterality, Vocabulary, load_vocabulary

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIDE_WORDS = {
    Laterality.LEFT: ("left", "lt", "l", "left sided", "links", "linke"),
    Laterality.RIGHT: ("right", "rt", "r", "right sided", "rechts", "rechte"),
    Laterality.BOTH: ("", "", "", "both", "bilateral", "beide"),
    Laterality.NONE: ("",),
}


@dataclass(frozen=True)
class CompactTraining:
    """How the compact encoder is trained; the same settings give the same weights on the same machine.

    Attributes:
        steps: number of updates.
        structures: structures in a batch; both sides of each take part, so that left and right are told apart.
        buckets: rows of the table of pieces.
        width: of the vector of a word.
        hidden: width of the middle layer.
        dimension: of the result.
        temperature: of the contrast.
        learning_rate: at the start; falls to zero along a cosine.
        misspelt: share of the names in a batch with a letter missing, doubled, swapped or replaced.
        held_out: whether one synonym of each structure with at least three names is kept for measuring.
        seed: of everything random.
    """

    steps: int = 800
    structures: int = 160
    buckets: int = 8192
    width: int = 96
    hidden: int = 256
    dimension: int = 128
    temperature: float = 0.07
    learning_rate: float = 3e-3
    misspelt: float = 0.35
    held_out: bool = True
    seed: int = 20


@dataclass(frozen=True)
class Retrieval:
    """How often the nearest known name of all concepts belongs to the right one.

    Attributes:
        n: names that were looked up.
        top1: share where the nearest name is of the right concept.
        top5: share where one of the five nearest concepts is.
    """

    n: int
    top1: float
    top5: float


@dataclass(frozen=True)
class CompactReport:
    """What was measured after training.

    Attributes:
        held_out: synonyms that training did not see, against all names it saw.
        misspelt: names that training saw, with one letter wrong, against all names it saw.
        sides: the held-out synonyms with a side: right structure and right side.
    """

    held_out: Retrieval
    misspelt: Retrieval
    sides: Retrieval


def train_compact(
    output: str | Path,
    settings: CompactTraining = CompactTraining(),
    vocabulary: Vocabulary | None = None,
    progress: ProgressCallback | None = None,
) -> CompactReport:
    """Trains the compact encoder with a vocabulary and writes its weights.

    Takes about two minutes on one core. The loss is that of CLIP (Radford et al. 2021) between two random names of each
    concept in the batch.

    Args:
        output: the safetensors file.
        settings: see ``CompactTraining``.
        vocabulary: volseg's own if not given.
        progress: told the part done; may cancel.

    Raises:
        Cancelled: ``progress`` asked to stop.
        WriteError: the file cannot be written.
    """
    import torch
    from safetensors.numpy import save

    known = vocabulary or load_vocabulary()
    names = names_by_structure(known)
    kept, held = split_names(names, settings)
    chance = random.Random(settings.seed)
    torch.manual_seed(settings.seed)
    network = _Network(settings)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    structures = sorted(kept)
    for step in range(settings.steps):
        report(progress, step / settings.steps, "training the text encoder")
        chosen = [
            concept
            for base in chance.sample(structures, min(settings.structures, len(structures)))
            for concept in _sides_of(base, known)
        ]
        views = [[_said(concept, kept[concept.base], settings, chance) for concept in chosen] for _ in range(2)]
        first, second = (_forward(network, view, settings) for view in views)
        logits = first @ second.T / settings.temperature
        target = torch.arange(len(chosen))
        loss = (
            torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
        ) / 2
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            logger.info("step %d: loss %.3f", step, loss.item())
    weights: dict[str, NDArray[Any]] = dict(network.weights())
    # Half precision halves the file; the encoder computes in float32 from the rounded numbers, also when measured here.
    weights["pieces"] = weights["pieces"].astype(np.float16)
    encoder = CompactEncoder({name: array.astype(np.float32) for name, array in weights.items()}, "")
    measured = _measure(encoder, kept, held, known, settings)
    metadata = {
        "format": FORMAT,
        "settings": json.dumps(asdict(settings)),
        "held_out": json.dumps(held, ensure_ascii=False),
        "measured": json.dumps(asdict(measured)),
        "license": "Apache-2.0",
    }
    with atomic_path(output) as partial:
        partial.write_bytes(sorted_header(save(weights, metadata=metadata)))
    return measured


def sorted_header(safetensors: bytes) -> bytes:
    """The same file with the keys of its header in order.

    The library writes metadata in a random order, and the encoder's hash is that of its file.
    """
    size = int.from_bytes(safetensors[:8], "little")
    header = json.dumps(json.loads(safetensors[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the numbers stay aligned
    return len(header).to_bytes(8, "little") + header + safetensors[8 + size :]


def names_by_structure(vocabulary: Vocabulary) -> dict[str, tuple[str, ...]]:
    """All names of each concept without a side, of all languages; the side is added in training."""
    foreign = {
        row["id"]: row["names"].split("|") for language in LANGUAGES[1:] for row in rows(f"names_{language}.csv")
    }
    return {
        concept.id: tuple(dict.fromkeys((concept.name, *concept.synonyms, *foreign.get(concept.id, ()))))
        for concept in vocabulary
        if concept.base == concept.id
    }


def split_names(
    names: dict[str, tuple[str, ...]], settings: CompactTraining
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Names for training, and one synonym kept apart for structures that have at least three.

    Abbreviations are not kept apart: no pieces of words tell that IVC is a vein.
    """
    chance = random.Random(settings.seed + 1)
    kept, held = dict(names), {}
    owners: dict[tuple[str, ...], int] = {}
    for own in names.values():
        for name in own:
            key = tuple(sorted(encoder_words(name)))
            owners[key] = owners.get(key, 0) + 1
    for base, own in names.items():
        candidates = [
            name
            for name in own[1:]
            if not any(word.isupper() and len(word) > 1 for word in name.split())
            and owners[tuple(sorted(encoder_words(name)))] == 1
        ]
        if settings.held_out and len(own) >= 3 and candidates:
            held[base] = chance.choice(candidates)
            kept[base] = tuple(name for name in own if name != held[base])
    return kept, held


def misspell(name: str, chance: random.Random) -> str:
    """A name with one letter missing, doubled, swapped with its neighbour or replaced; short words are spared."""
    words = name.split()
    long = [index for index, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long:
        return name
    index = chance.choice(long)
    word = words[index]
    at = chance.randrange(1, len(word) - 1)
    words[index] = chance.choice(
        (
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + chance.choice(LETTERS) + word[at + 1 :],
        )
    )
    return " ".join(words)


def _sides_of(base: str, vocabulary: Vocabulary) -> list[Concept]:
    ids = (base, f"{base}_left", f"{base}_right")
    return [vocabulary.by_id(one) for one in ids if one in vocabulary]


def _said(concept: Concept, names: tuple[str, ...], settings: CompactTraining, chance: random.Random) -> str:
    """One way somebody may write a concept."""
    name = chance.choice(names)
    if chance.random() < settings.misspelt:
        name = misspell(name, chance)
    side = chance.choice(
        SIDE_WORDS[
            concept.laterality
            if concept.laterality is Laterality.BOTH or concept.base != concept.id
            else Laterality.NONE
        ]
    )
    return f"{side} {name}" if chance.random() < 0.7 else f"{name} {side}"


class _Network:
    """The tensors of a ``CompactEncoder`` while they are trained."""

    def __init__(self, settings: CompactTraining) -> None:
        import torch

        self.pieces = torch.nn.Parameter(torch.randn(settings.buckets, settings.width) * 0.1)
        self.gate = torch.nn.Parameter(torch.zeros(settings.width))
        self.hidden = torch.nn.Linear(settings.width, settings.hidden)
        self.out = torch.nn.Linear(settings.hidden, settings.dimension)

    def parameters(self) -> list[torch.nn.Parameter]:
        """In the order of ``WEIGHTS``."""
        return [self.pieces, self.gate, *self.hidden.parameters(), *self.out.parameters()]

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """By their names in the file."""
        arrays = (parameter.detach().numpy() for parameter in self.parameters())
        return dict(zip(WEIGHTS, arrays, strict=True))


def _forward(network: _Network, texts: list[str], settings: CompactTraining) -> torch.Tensor:
    """The same as ``CompactEncoder.encode``, with gradients; [N, D]."""
    import torch

    flat: list[int] = []
    starts: list[int] = []
    owner: list[int] = []
    for row, text in enumerate(texts):
        for word in encoder_words(text):
            starts.append(len(flat))
            owner.append(row)
            flat.extend(pieces(word, settings.buckets))
    vectors = torch.nn.functional.embedding_bag(torch.tensor(flat), network.pieces, torch.tensor(starts), mode="mean")
    scores = torch.nn.functional.softplus(vectors @ network.gate)
    rows_of = torch.tensor(owner)
    mixed = torch.zeros(len(texts), settings.width).index_add(0, rows_of, vectors * scores[:, None])
    mixed = mixed / torch.bincount(rows_of, minlength=len(texts)).sqrt()[:, None]
    hidden: torch.Tensor = torch.relu(network.hidden(mixed))
    return torch.nn.functional.normalize(network.out(hidden), dim=1)


def _measure(
    encoder: CompactEncoder,
    kept: dict[str, tuple[str, ...]],
    held: dict[str, str],
    vocabulary: Vocabulary,
    settings: CompactTraining,
) -> CompactReport:
    known = [(concept.id, _with_side(concept, name)) for concept in vocabulary for name in kept[concept.base]]
    chance = random.Random(settings.seed + 2)
    held_out = [(base, name) for base, name in held.items()]
    sided = [
        (concept.id, _with_side(concept, name))
        for base, name in held.items()
        for concept in _sides_of(base, vocabulary)[1:]
    ]
    misspelt = [(one, misspell(name, chance)) for one, name in known if vocabulary.by_id(one).base == one]
    changed = [(one, name) for (one, name) in misspelt if (one, name) not in set(known)]
    return CompactReport(*(retrieval(encoder, known, asked) for asked in (held_out, changed, sided)))


def _with_side(concept: Concept, name: str) -> str:
    return f"{concept.laterality} {name}" if concept.base != concept.id else name


def retrieval(encoder: CompactEncoder, known: list[tuple[str, str]], asked: list[tuple[str, str]]) -> Retrieval:
    """Looks names up among known ones.

    Args:
        encoder: to be measured.
        known: (concept id, name).
        asked: (right concept id, name).
    """
    if not asked:
        return Retrieval(0, 0.0, 0.0)
    ids = np.array([concept_id for concept_id, _ in known])
    alike = encoder.encode([name for _, name in asked]) @ encoder.encode([name for _, name in known]).T
    first = five = 0
    for (right, _), row in zip(asked, alike, strict=True):
        order = list(dict.fromkeys(ids[np.argsort(-row, kind="stable")[:200]]))
        first += order[0] == right
        five += right in order[:5]
    return Retrieval(len(asked), first / len(asked), five / len(asked))
