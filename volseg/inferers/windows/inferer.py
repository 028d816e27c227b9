"""A network over a whole volume, window by window."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from monai.inferers import Inferer
from torch import Tensor
from torch.nn.functional import pad

from volseg.errors import GeometryError
from volseg.inferers.windows.plan import Blending, WindowPlan, WindowSettings, importance
from volseg.inferers.windows.predictor import PlainPredictor, QueryPredictor
from volseg.inferers.windows.sinks import DenseLogits, LabelVolume, Sink
from volseg.inferers.windows.stitch import Stitcher
from volseg.progress import ProgressCallback, report

logger = logging.getLogger(__name__)

WindowAt: TypeAlias = tuple[int, int, int]
"""Positions of a window in the plan's starts."""

FEW_QUERIES = 4
"""Queries that are decoded together when memory is short."""

SMALLEST_TOTAL = 1e-12
"""Sums of weights are no smaller where there is any; keeps the division defined where there is none."""

EMPTY_LOGIT = -1000.0
"""Logits where every window was skipped: surely nothing. Finite, so that it can be interpolated."""


class SlidingWindows(Inferer):  # type: ignore[misc]
    """Covers a volume with overlapping windows, as MONAI's ``SlidingWindowInferer`` does, with the same numbers.

    What differs is memory and time. Sums of overlapping windows live only until no further window reaches them; then
    they go to a sink, for instance as labels. So memory grows with the number of classes by the live overlap zone alone
    (P5). A ``QueryPredictor`` encodes each window once, whatever the number of queries.

    Where memory does not suffice (``torch.OutOfMemoryError``, nothing else), the volume is begun anew by the next
    cheaper way: sums in main memory, then one window at a time, then fewer queries at a time.

    Args:
        settings: how volumes are covered.
        device: where windows are computed; None for where the image is.
        pad_values: what lies beyond a volume that is smaller than a window: one number for all channels, or one each.
    """

    def __init__(
        self,
        settings: WindowSettings,
        *,
        device: torch.device | str | None = None,
        pad_values: Sequence[float] = (0.0,),
    ) -> None:
        super().__init__()
        self.settings = settings
        self.device = None if device is None else torch.device(device)
        self.pad_values = tuple(pad_values)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Logits of a batch, all of them, as ``monai.inferers.SlidingWindowInferer`` gives them.

        Args:
            inputs: [B, C, I, J, K].
            network: takes windows [b, C, i, j, k] to logits [b, Q, i, j, k].
            args: passed to ``network``.
            kwargs: passed to ``network``.

        Returns:
            [B, Q, I, J, K] float32 on the device of ``inputs``.
        """
        results = []
        for image in inputs:
            sink = DenseLogits(_shape(image))
            self.run(image, lambda windows: network(windows, *args, **kwargs), sink)
            results.append(sink.logits)
        return torch.stack(results).to(inputs.device)

    def labels(
        self,
        image: Tensor,
        network: Callable[[Tensor], Tensor] | QueryPredictor,
        *,
        background: bool = True,
        foreground: Tensor | None = None,
        progress: ProgressCallback | None = None,
    ) -> Tensor:
        """One label for each voxel, [I, J, K]; logits are never kept.

        Args:
            image: [C, I, J, K].
            network: gives logits of classes, or answers queries.
            background: see ``LabelVolume``.
            foreground: see ``run``.
            progress: see ``run``.
        """
        sink = LabelVolume(_shape(image), background=background)
        self.run(image, network, sink, foreground=foreground, progress=progress)
        return sink.labels

    def plan(self, shape: Sequence[int]) -> WindowPlan:
        """The windows over a volume of ``shape``; ``peak_bytes`` says beforehand what they will take."""
        return WindowPlan.of((int(shape[0]), int(shape[1]), int(shape[2])), self.settings)

    def run(
        self,
        image: Tensor,
        network: Callable[[Tensor], Tensor] | QueryPredictor,
        sink: Sink,
        *,
        foreground: Tensor | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Computes logits and gives them to a sink as they are finished.

        Args:
            image: [C, I, J, K].
            network: takes windows [b, C, i, j, k] to logits [b, Q, i, j, k]; or a ``QueryPredictor``.
            sink: takes every voxel's logits once, or once more from the beginning if memory did not suffice.
            foreground: [I, J, K] bool; windows without any are skipped, and voxels that no other window covers get
                ``EMPTY_LOGIT``.
            progress: told the part done; may cancel.

        Raises:
            Cancelled: ``progress`` asked to stop.
            GeometryError: ``foreground`` has another shape than the image.
            torch.OutOfMemoryError: no way was cheap enough.
        """
        if foreground is not None and foreground.shape != image.shape[1:]:
            raise GeometryError(
                f"the foreground has shape {tuple(foreground.shape)}, the image {tuple(image.shape[1:])}"
            )
        ways = cheaper(self.settings)
        for number, settings in enumerate(ways):
            try:
                self._run(image, network, sink, foreground, progress, settings)
                return
            except torch.OutOfMemoryError:
                if number + 1 == len(ways):
                    raise
                logger.warning("out of memory; begun anew with %s", ways[number + 1])
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    def _run(
        self,
        image: Tensor,
        network: Callable[[Tensor], Tensor] | QueryPredictor,
        sink: Sink,
        foreground: Tensor | None,
        progress: ProgressCallback | None,
        settings: WindowSettings,
    ) -> None:
        plan = WindowPlan.of(_shape(image), settings)
        device = self.device or image.device
        home = device if settings.stitch_on_device else torch.device("cpu")
        weights = (
            None if settings.blending is Blending.CONSTANT else importance(plan.window, settings.blending).to(home)
        )
        needed = _needed(plan, foreground)
        joint: _Joint | None = None
        skipped: list[WindowAt] = []
        done = 0
        with torch.inference_mode():
            for batch in _batches(plan, settings.batch):
                busy = [at for at in batch if needed(at)]
                if busy:
                    windows = torch.stack([self._window(image, plan, at) for at in busy]).to(device)
                    answers = _Answers(network, settings.mirror_axes, windows)
                    if joint is None:
                        mega = plan.peak_bytes(answers.queries, settings) / 1e6
                        logger.info("%d windows of %d queries, about %.0f MB", plan.count, answers.queries, mega)
                        joint = _Joint(plan, answers.queries, weights, home, sink)
                        joint.add(skipped, [], None, settings.query_batch)
                    joint.add(batch, busy, answers, settings.query_batch)
                elif joint is None:
                    # How many classes there are is only known when the network has answered.
                    skipped += batch
                else:
                    joint.add(batch, [], None, settings.query_batch)
                done += len(batch)
                report(progress, done / plan.count, f"window {done} of {plan.count}")

    def _window(self, image: Tensor, plan: WindowPlan, at: tuple[int, int, int]) -> Tensor:
        """[C, I, J, K] of one window, padded where the volume is smaller."""
        sides = []
        margins: list[int] = []
        for first, side, before, n in zip(plan.start(at), plan.window, plan.padding, plan.volume, strict=True):
            start, stop = first - before, first - before + side
            sides.append(slice(max(0, start), min(n, stop)))
            margins = [max(0, -start), max(0, stop - n), *margins]
        values = image.as_tensor() if hasattr(image, "as_tensor") else image
        window = values[(slice(None), *sides)]
        if not any(margins):
            return window
        if len(set(self.pad_values)) == 1:
            return pad(window, margins, value=self.pad_values[0])
        return torch.stack([pad(one, margins, value=v) for one, v in zip(window, self.pad_values, strict=True)])


class _Answers:
    """The answers to a batch of windows: encoded once, decoded query batch by query batch."""

    def __init__(
        self, network: Callable[[Tensor], Tensor] | QueryPredictor, mirror_axes: tuple[int, ...], windows: Tensor
    ) -> None:
        self._flips = [
            [axis - 3 for axis in axes]
            for count in range(len(mirror_axes) + 1)
            for axes in itertools.combinations(mirror_axes, count)
        ]
        seen = [windows.flip(axes) if axes else windows for axes in self._flips]
        if isinstance(network, QueryPredictor):
            self._predictor: QueryPredictor = network
            self._features = [network.encode(one) for one in seen]
        else:
            self._features = [network(one) for one in seen]
            self._predictor = PlainPredictor(self._features[0].shape[1])
        self.given = isinstance(self._predictor, PlainPredictor)
        """Whether all logits are there already, so that decoding in parts saves nothing."""
        self.queries = self._predictor.queries

    def decode(self, first: int, last: int) -> Tensor:
        """Logits [B, last - first, I, J, K], the mean over all flips."""
        total: Tensor | None = None
        for axes, features in zip(self._flips, self._features, strict=True):
            logits = self._predictor.decode(features, first, last)
            logits = logits.flip(axes) if axes else logits
            total = logits if total is None else total + logits
        assert total is not None
        return total if len(self._flips) == 1 else total / len(self._flips)


class _Joint:
    """The sums of one run."""

    def __init__(self, plan: WindowPlan, queries: int, weights: Tensor | None, home: torch.device, sink: Sink) -> None:
        self._plan, self._weights, self._home, self._sink = plan, weights, home, sink
        self._sums = Stitcher(plan, queries, home)
        self._totals = Stitcher(plan, 1, home)

    def add(
        self, batch: Sequence[WindowAt], busy: Sequence[WindowAt], answers: _Answers | None, query_batch: int
    ) -> None:
        """Adds windows in order; those of ``batch`` that are not ``busy`` add nothing."""
        plan, queries = self._plan, self._sums.channels
        step = min(query_batch or queries, queries)
        if answers is not None and answers.given:
            step = queries
        if step == queries:
            finished = self._added(batch, busy, answers, 0, queries)
        else:
            finished = [torch.empty((queries, *plan.kept_shape(at)), device=self._home) for at in batch]
            for first in range(0, queries, step):
                last = min(first + step, queries)
                for block, part in zip(finished, self._added(batch, busy, answers, first, last), strict=True):
                    block[first:last] = part
        for at, block in zip(batch, finished, strict=True):
            weights = None
            if at in busy:
                weights = torch.ones(plan.window, device=self._home) if self._weights is None else self._weights.clone()
            total = self._totals.add(at, None if weights is None else weights[None], 0, 1)
            block.div_(total.clamp(min=SMALLEST_TOTAL))
            if bool((total == 0).any()):
                block.masked_fill_(total == 0, EMPTY_LOGIT)
            inner, start = plan.within_volume(at)
            if all(part.stop > part.start for part in inner):
                self._sink.take(block[(slice(None), *inner)], start)

    def _added(
        self, batch: Sequence[WindowAt], busy: Sequence[WindowAt], answers: _Answers | None, first: int, last: int
    ) -> list[Tensor]:
        """Sums of the finished parts of windows, for some queries; views of the answers where there are any."""
        logits = None if answers is None else answers.decode(first, last).to(self._home, torch.float32)
        finished = []
        for at in batch:
            values = None
            if logits is not None and at in busy:
                values = logits[busy.index(at)]
                values = values if self._weights is None else values.mul_(self._weights)
            finished.append(self._sums.add(at, values, first, last))
        return finished


def cheaper(settings: WindowSettings) -> tuple[WindowSettings, ...]:
    """The settings, and those to fall back to where memory does not suffice, in order; each takes less."""
    ways = [settings]
    if settings.stitch_on_device:
        ways.append(replace(ways[-1], stitch_on_device=False))
    if settings.batch > 1:
        ways.append(replace(ways[-1], batch=1))
    if settings.query_batch != 1:
        ways.append(replace(ways[-1], query_batch=min(FEW_QUERIES, settings.query_batch or FEW_QUERIES)))
    return tuple(dict.fromkeys(ways))


def _needed(plan: WindowPlan, foreground: Tensor | None) -> Callable[[WindowAt], bool]:
    def needed(at: WindowAt) -> bool:
        if foreground is None:
            return True
        sides = [
            slice(max(0, first - before), first - before + side)
            for first, side, before in zip(plan.start(at), plan.window, plan.padding, strict=True)
        ]
        return bool(foreground[sides[0], sides[1], sides[2]].any())

    return needed


def _batches(plan: WindowPlan, size: int) -> Iterator[list[WindowAt]]:
    windows = plan.windows()
    while batch := list(itertools.islice(windows, size)):
        yield batch


def _shape(image: Tensor) -> tuple[int, int, int]:
    if image.ndim != 4:
        raise GeometryError(f"expected an image [C, I, J, K], got shape {tuple(image.shape)}")
    return int(image.shape[1]), int(image.shape[2]), int(image.shape[3])
