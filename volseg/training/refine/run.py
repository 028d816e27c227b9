"""One training run of the refining network: drafts, steps, checkpoints, exact resumption, weights."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from volseg.data.atomic import atomic_path
from volseg.errors import TrainingError
from volseg.inferers.refine.refiner import Refiner
from volseg.models.base import Model
from volseg.models.bundles.metadata import Origin, Refinement, Weights
from volseg.models.bundles.write import write_bundle
from volseg.networks.refine.network import RefineNetwork
from volseg.training.cases import TrainingCase, find_cases, listed_cases, split_cases
from volseg.training.config import read_config
from volseg.training.ema import WeightAverage
from volseg.training.export import CARD, PARTIAL, is_exported, take_parts
from volseg.training.pace import Clock, is_over, learning_rate
from volseg.training.record import write_log
from volseg.training.refine.config import REFINE_CONFIG, RefineTrainConfig
from volseg.training.refine.drafts import Draft, load_drafts, make_drafts, save_drafts
from volseg.training.refine.samples import RefineSampler, read_painted, read_refine_volume
from volseg.training.refine.score import score
from volseg.training.refine.teach import teach
from volseg.training.start import StartWeights
from volseg.training.synthetic import GROUP
from volseg.training.volume import read_arrays

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
DRAFTS = "drafts"


@dataclass(frozen=True, eq=False)
class RefineRun:
    """A run that is ready to go.

    Attributes:
        config: what is trained, and how.
        output: folder for drafts, checkpoint, log and, in the end, the bundle.
        start: the model whose answers are refined, as stored.
        load_base: gives it ready to answer; asked only where drafts are missing.
        device: of the network; samples are made on the CPU.
    """

    config: RefineTrainConfig
    output: Path
    start: StartWeights
    load_base: Callable[[], Model]
    device: str = "cpu"

    @property
    def refinement(self) -> Refinement:
        """What is trained: the model's own, or a new one."""
        own = self.start.bundle.refinement
        if own is not None and self.config.go_on:
            return own
        return Refinement(Weights("", ""), self.config.spec, self.config.settings)

    def train(self, data: Path, *, resume: bool = False) -> Path:
        """Trains, scores on held-out cases, and makes the output folder a bundle.

        Args:
            data: the folder below which the sources of ``config.cases`` lie, or a table of cases.
            resume: go on from the checkpoint there, exactly as if the run had never stopped.

        Returns:
            The output folder.

        Raises:
            TrainingError: data or checkpoint do not fit the configuration, or there is a run and ``resume`` is false.
        """
        config, schedule = self.config, self.config.schedule
        checkpoint = self.output / CHECKPOINT
        if not resume and (checkpoint.exists() or is_exported(self.output)):
            raise TrainingError(f"{self.output} holds a run already; go on with --resume, or name another folder")
        training, held_out = self._cases(data)
        self.output.mkdir(parents=True, exist_ok=True)
        drafts = self._drafts(training)
        volumes = [read_refine_volume(case, some) for case, some in zip(training, drafts, strict=True)]
        sampled = replace(config, spec=self.refinement.network, settings=self.refinement.settings)
        sampler = RefineSampler(volumes, read_painted(training) if GROUP in config.sampling.weights else [], sampled)
        torch.manual_seed(config.seed)
        goes_on = self.refinement is self.start.bundle.refinement
        network = RefineNetwork(self.refinement.network, _full(self.start.refine_state) if goes_on else None)
        network.to(self.device)
        average = WeightAverage(network, schedule.ema_decay)
        rate, decay = schedule.learning_rate, schedule.weight_decay
        optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=decay)
        clock = Clock()
        step = _load(checkpoint, network, average, optimizer, clock) if resume and checkpoint.exists() else 0
        asked = self._drafts(held_out)
        if step == 0:
            self._score("start", 0, average, held_out, asked)
            clock.restart(0.0)  # what was not training does not count
        seen: dict[str, list[float]] = defaultdict(list)
        network.train()
        while not is_over(step, clock.seconds, schedule):
            for name, value in _step(network, optimizer, sampler, sampled, step, clock.seconds).items():
                seen[name].append(value)
            average.update(network)
            step += 1
            if step % schedule.steps_per_epoch == 0 or is_over(step, clock.seconds, schedule):
                _save(checkpoint, network, average, optimizer, step, clock)
                means = {name: round(float(np.mean(values)), 4) for name, values in sorted(seen.items())}
                write_log(self.output, "train", step, means)
                seen.clear()
        scores = self._score("final", step, average, held_out, asked)
        self._export(average, training, held_out, step, clock.seconds, scores)
        return self.output

    def _cases(self, data: Path) -> tuple[tuple[TrainingCase, ...], tuple[TrainingCase, ...]]:
        if data.is_file():
            training, held_out = listed_cases(data, hold_out=self.config.hold_out, seed=self.config.seed)
        elif not self.config.cases:
            raise TrainingError(f"{data} is a folder, and the configuration names no sources in it; give a CSV file")
        else:
            base = read_config(REFINE_CONFIG.parent / self.config.cases)
            training, held_out = split_cases(data, base)
            more = [case for source in self.config.more for case in find_cases(data, source)]
            training += tuple(case for case in more if case.patient not in base.validation)
        weights = self.config.sampling.weights
        return tuple(one for one in training if not weights or weights.get(one.source.group, 0) > 0), held_out

    def _drafts(self, cases: Sequence[TrainingCase]) -> list[list[Draft]]:
        """The base model's answers about cases, from earlier or made now."""
        folder = self.output / DRAFTS
        folder.mkdir(parents=True, exist_ok=True)
        model: Model | None = None
        found = []
        for case in cases:
            count = self.config.sampling.drafts.get(case.source.group, self.config.sampling.other_drafts)
            path = folder / (case.name.replace("/", "__") + ".npz")
            _, _, grid = read_arrays(case)
            if count and not path.exists():
                model = model or self.load_base()
                logger.info("asking %s about %s", self.start.name, case.name)
                save_drafts(path, make_drafts(model, case, count, self.config.seed), grid)
            found.append(load_drafts(path, grid) if count else [])
        return found

    def _score(
        self,
        kind: str,
        step: int,
        average: WeightAverage,
        cases: Sequence[TrainingCase],
        drafts: Sequence[Sequence[Draft]],
    ) -> dict[str, float]:
        if not cases:
            return {}
        network = RefineNetwork(self.refinement.network, average.weights()).to(self.device)
        scores = score(Refiner(network, self.refinement.settings), cases, drafts)
        write_log(self.output, kind, step, scores)
        return scores

    def _export(
        self,
        average: WeightAverage,
        training: Sequence[TrainingCase],
        held_out: Sequence[TrainingCase],
        step: int,
        seconds: float,
        scores: dict[str, float],
    ) -> None:
        start = self.start
        name = self.output.resolve().name
        groups = ", ".join(sorted({case.source.group for case in training}))
        summary = f"{start.name}, its second look in 3D trained on {len(training)} cases of {groups}."
        bundle = replace(
            start.bundle,
            identity=replace(start.bundle.identity, name=name, version="1.0.0", summary=summary),
            refinement=self.refinement,
            origin=Origin(file=start.name, sha256=start.sha256),
        )
        facts = {
            "base": {"name": start.name, "sha256": start.sha256, "licence": start.bundle.license.spdx or "unknown"},
            "network": asdict(self.refinement.network),
            "steps": step,
            "hours": round(seconds / 3600, 2),
            "cases": dict(Counter(case.source.group for case in training)),
            "held_out_patients": sorted({case.patient for case in held_out}),
            "schedule": asdict(self.config.schedule),
            "validation": scores,
        }
        weights = {n: v.half().cpu() if v.is_floating_point() else v.cpu() for n, v in average.weights().items()}
        partial = self.output / PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        write_bundle(partial, bundle, start.state, refine_state=weights)
        (partial / CARD).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        take_parts(partial, self.output)


def _full(state: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
    return None if state is None else {n: v.float() if v.is_floating_point() else v for n, v in state.items()}


def _step(
    network: RefineNetwork,
    optimizer: torch.optim.Optimizer,
    sampler: RefineSampler,
    config: RefineTrainConfig,
    step: int,
    seconds: float,
) -> dict[str, float]:
    schedule = config.schedule
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, schedule, seconds)
    optimizer.zero_grad(set_to_none=True)
    numbers: dict[str, float] = {}
    drawing = 0.0
    for place in range(schedule.objects):
        number = step * schedule.objects + place
        start = time.monotonic()
        sample = sampler[number]
        drawing += time.monotonic() - start
        rng = np.random.default_rng([config.seed, 5, number])
        numbers |= teach(network, sample, config, rng, 1 / schedule.objects)
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), schedule.clip_norm)
    if torch.isfinite(norm):
        optimizer.step()
    else:
        logger.warning("step %d gave a gradient that is not finite; it is left out", step)
    return {**numbers, "seconds to draw": drawing}


def _save(
    path: Path,
    network: RefineNetwork,
    average: WeightAverage,
    optimizer: torch.optim.Optimizer,
    step: int,
    clock: Clock,
) -> None:
    content: dict[str, Any] = {
        "step": step,
        "spec": json.dumps(asdict(network.spec)),
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "seconds": clock.seconds,
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def _load(
    path: Path, network: RefineNetwork, average: WeightAverage, optimizer: torch.optim.Optimizer, clock: Clock
) -> int:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        spec, step = content["spec"], int(content["step"])
    except Exception as error:
        raise TrainingError(f"{path} is no checkpoint of a training run: {error}") from error
    if spec != json.dumps(asdict(network.spec)):
        raise TrainingError(f"{path} is of the network {spec}; the configuration asks for another")
    network.load_state_dict(content["network"])
    average.load_state_dict(content["average"])
    optimizer.load_state_dict(content["optimizer"])
    clock.restart(float(content["seconds"]))
    return step
