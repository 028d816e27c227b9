"""Presence trained once more, on windows of other parts of the body too; everything that draws masks stays as it is.

While masks are learnt, presence is asked almost only where a structure is near, and learns little else than to say yes.
Here windows are encoded once by the frozen network, at the sizes they have in use, and only what presence has to itself
learns from them: attention layers, and convolutions that look at the windows anew, with other intensities each time.
That takes minutes, and masks are the same to the bit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from volseg.data.modality import Modality
from volseg.errors import TrainingError
from volseg.networks.text_query.channels import make_channels, values_of
from volseg.networks.text_query.config import TextQuerySpec
from volseg.networks.text_query.network import TextQueryNetwork
from volseg.training.synthetic import paint, random_shapes
from volseg.training.text_query.bundle import looked_for_at, windows_at
from volseg.training.text_query.config import GroupConfig, PresenceConfig, TextTrainConfig, ViewConfig
from volseg.training.text_query.paint import recast, vary
from volseg.training.text_query.run import export_text, read_sources
from volseg.training.text_query.samples import MIN_VOXELS, Sampler, TextSample

logger = logging.getLogger(__name__)

TOLD_EVERY = 50
OWN = ("presence_layers.", "presence_norm.", "scout.")
"""Names of the weights that only presence uses, and that weights trained without them lack."""


@dataclass(frozen=True, eq=False)
class SeenWindow:
    """A window as presence sees it.

    Attributes:
        seen: [Q, D] of what was asked for and is known.
        tokens: [T, D] float16.
        present: [Q], 0 or 1.
        values: [I, J, K] float16 in units of the default window.
        modality: of the window.
    """

    seen: Tensor
    tokens: Tensor
    present: Tensor
    values: Tensor
    modality: Modality


def tune_presence(config: TextTrainConfig, folder: Path, weights: Path, output: Path) -> Path:
    """Trains presence on frozen weights and writes them anew, with presence's own layers.

    Args:
        config: with ``presence``; its groups and validation patients are those of the run that made the weights.
        folder: below which the sources lie.
        weights: safetensors that ``train_text`` wrote.
        output: where the new ones are written.

    Raises:
        TrainingError: the configuration says nothing of presence, or the weights are of a network with other parts.
    """
    settings = config.presence
    if settings is None:
        raise TrainingError("the configuration has no part 'presence'; it says which windows presence is trained on")
    torch.manual_seed(config.seed)
    network = with_presence_layers(weights, settings.layers, settings.scout)
    windows = see_windows(network, config, settings, folder)
    fit_presence(network, windows, settings, config.seed)
    if settings.missed:
        settle_presence(network, windows, settings.missed)
    return export_text(network.state_dict(), network.spec, output)


def with_presence_layers(weights: Path, layers: int, scout: tuple[int, ...] = ()) -> TextQueryNetwork:
    """The network of a weights file, whose presence gets what it does not have yet.

    Args:
        weights: safetensors.
        layers: attention layers; new ones begin as copies of the last one of all queries.
        scout: channels of its convolutions; new ones are random.

    Raises:
        TrainingError: the weights do not fit the network that they describe.
    """
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        spec = TextQuerySpec.from_json(file.metadata()["spec"])
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    network = TextQueryNetwork(replace(spec, presence_layers=layers, scout_widths=scout))
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise TrainingError(f"{weights} does not fit its network: {str(error)[:300]}") from error
    if unexpected or any(not name.startswith(OWN) for name in missing):
        raise TrainingError(f"{weights} misses {missing[:3]} and has {unexpected[:3]} besides")
    if any(name.startswith("presence_layers.") for name in missing):
        for layer in network.presence_layers:
            layer.load_state_dict(network.layers[-1].state_dict())
        if network.presence_norm is not None:
            network.presence_norm.load_state_dict(network.norm.state_dict())
    return network.eval().requires_grad_(False)


def see_windows(
    network: TextQueryNetwork, config: TextTrainConfig, settings: PresenceConfig, folder: Path
) -> list[SeenWindow]:
    """Encodes the windows that presence learns from: cut from volumes, then generated."""
    shown = _shown(config, settings)
    sampler = Sampler(read_sources(shown, folder), shown)
    phantoms = [
        (spacing, _largest(config, spacing), tuple(c for c, at in looked_for_at(config).items() if at == spacing))
        for spacing in settings.spacings_mm
    ]
    found = []
    for number in range(settings.windows + settings.phantoms):
        rng = np.random.default_rng([config.seed, 19, number])
        if number < settings.windows:
            sample = sampler[number]
            spacing = sample.spacing_mm
            window, concepts, present, modality = _cut(sample, settings, rng)
        else:
            spacing, size, concepts = phantoms[number % len(phantoms)]
            window, modality = make_channels(_shapes(size, rng)[None, None]), Modality.MR
            present = torch.zeros(len(concepts))
        if concepts:
            found.append(_see(network, window, concepts, present, modality, spacing))
        if (number + 1) % TOLD_EVERY == 0:
            logger.info("%d of %d windows encoded", number + 1, settings.windows + settings.phantoms)
    return found


def _cut(
    sample: TextSample, settings: PresenceConfig, rng: np.random.Generator
) -> tuple[Tensor, tuple[str, ...], Tensor, Modality]:
    """A window of a volume, what is known about it, and what it is taken for."""
    window, modality = sample.window, sample.modality
    if modality is Modality.CT and rng.random() < settings.recast:
        window, modality = make_channels(recast(values_of(window)[0], rng)[None, None]), Modality.MR
    counts = sample.targets.flatten(1).sum(dim=1)
    known = ~sample.present.isnan() & ((counts == 0) | (counts >= MIN_VOXELS))
    concepts = tuple(concept for concept, one in zip(sample.concepts, known, strict=True) if one)
    return window, concepts, sample.present[known], modality


def _shapes(size: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
    """Random shapes and tubes in tissues, [I, J, K], perhaps with air around them, or cut where an image ends."""
    labels, tissues, objects = random_shapes(rng, size)
    if rng.random() < 0.5:
        labels[labels == 1] = 0
    image = paint(rng, labels, tissues + objects + 1)
    if rng.random() < 0.5:
        image[labels == 0] *= 0.03
    if rng.random() < 0.3:
        axis = int(rng.integers(3))
        ends = [slice(None)] * 3
        ends[axis] = slice(int(rng.uniform(0.3, 0.9) * size[axis]), None)
        image[tuple(ends)] = 0.0
        image = np.flip(image, axis) if rng.random() < 0.5 else image
    return torch.from_numpy(np.ascontiguousarray(image))


def _see(
    network: TextQueryNetwork,
    window: Tensor,
    concepts: Sequence[str],
    present: Tensor,
    modality: Modality,
    spacing_mm: float,
) -> SeenWindow:
    with torch.inference_mode():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens = network.encode(window, spacing_mm).tokens
        seen = network.attend(tokens.float(), network.embeddings(concepts), modality, spacing_mm)
    return SeenWindow(seen[0].clone(), tokens[0].half(), present, values_of(window)[0].half(), modality)


def fit_presence(network: TextQueryNetwork, windows: Sequence[SeenWindow], settings: PresenceConfig, seed: int) -> None:
    """Trains what only presence uses; present and absent structures count alike.

    Raises:
        TrainingError: nothing is present, or nothing is absent, in the windows.
    """
    answers = torch.cat([one.present for one in windows]) if windows else torch.zeros(0)
    if not 0 < float(answers.sum()) < len(answers):
        raise TrainingError(f"of {len(answers)} answers {int(answers.sum())} are 'present'; presence needs both kinds")
    weight = float((answers == 0).sum() / answers.sum())
    norm = [] if network.presence_norm is None else [network.presence_norm]
    scout = [] if network.scout is None else [network.scout]
    parts: list[nn.Module] = [network.presence_layers, network.presence, *norm, *scout]
    learning = [one.requires_grad_(True) for part in parts for one in part.parameters()]
    optimizer = torch.optim.AdamW(learning, settings.learning_rate, weight_decay=settings.weight_decay)
    rng = np.random.default_rng([seed, 17])
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for number in rng.choice(len(windows), min(settings.batch, len(windows)), replace=False):
            window = windows[number]
            scouted = None if network.scout is None else network.scout(_look(window, rng))
            part = 1.0 if scouted is not None and rng.random() < settings.blind else settings.drop
            kept = torch.from_numpy(rng.random(len(window.tokens)) >= part)
            logits = network.present(window.seen[None], window.tokens[kept].float()[None], scouted)[0]
            weights = torch.where(window.present == 1, weight, 1.0)
            loss = binary_cross_entropy_with_logits(logits, window.present, weights) / settings.batch
            torch.autograd.backward(loss)
            total += float(loss.detach())
        optimizer.step()
        if (step + 1) % TOLD_EVERY == 0:
            logger.info("step %d of %d, loss %.4f", step + 1, settings.steps, total)
    for one in learning:
        one.requires_grad_(False)


@torch.no_grad()
def settle_presence(network: TextQueryNetwork, windows: Sequence[SeenWindow], missed: float) -> float:
    """Moves presence so that part of the windows with a structure say no.

    Args:
        network: with trained presence; its last bias is changed.
        windows: that it was trained on.
        missed: the part.

    Returns:
        By how much logits are lower now.
    """
    found = []
    for window in windows:
        scouted = None if network.scout is None else network.scout(make_channels(window.values.float()[None, None]))
        logits = network.present(window.seen[None], window.tokens[None].float(), scouted)[0]
        found.append(logits[window.present == 1])
    shift = float(torch.cat(found).quantile(missed))
    last = network.presence[-1]
    assert isinstance(last, nn.Linear)
    last.bias.sub_(shift)
    logger.info("presence logits lowered by %.2f", shift)
    return shift


def _look(window: SeenWindow, rng: np.random.Generator) -> Tensor:
    """A window as the network takes it, [1, 2, I, J, K], with other intensities and perhaps mirrored."""
    values = vary(window.values.float(), rng, strong=window.modality is not Modality.CT)
    return make_channels((values.flip(0) if rng.random() < 0.5 else values)[None, None])


def _shown(config: TextTrainConfig, settings: PresenceConfig) -> TextTrainConfig:
    """The same groups, with windows as large as in use, each structure asked for where it is looked for."""
    groups = tuple(_at_spacings(group, config, settings) for group in config.groups)
    schedule = replace(config.schedule, foreign=0.0, queries=len(config.concepts), absent=0.5)
    return replace(config, groups=groups, schedule=schedule, varied=settings.varied)


def _largest(config: TextTrainConfig, spacing_mm: float) -> tuple[int, int, int]:
    """The window in use, in voxels."""
    return {one.spacing_mm: one.window for one in windows_at(config)}[spacing_mm]


def _at_spacings(group: GroupConfig, config: TextTrainConfig, settings: PresenceConfig) -> GroupConfig:
    at = looked_for_at(config)
    views = []
    for spacing in settings.spacings_mm:
        own = [view for view in group.views if view.spacing_mm == spacing]
        # Crops are smaller than a window, and then so is the window in use.
        size = max((view.window for view in own), key=math.prod, default=_largest(config, spacing))
        asked = tuple(c for view in group.views for c in view.concepts if at.get(c) == spacing)
        views.append(ViewConfig(spacing, size, tuple(dict.fromkeys(asked))))
    return replace(group, views=tuple(views), weight=settings.weights.get(group.source.group, 0.0))
