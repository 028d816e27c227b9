from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volseg.networks.sam2.network import Sam2Network
from volseg.training.calibrate import SCORE_BIAS, balanced_threshold, calibrate_presence
from volseg.training.config import TrainConfig
from volseg.training.volume import TrainingVolume


def balance(scores: np.ndarray, present: np.ndarray, threshold: float) -> float:
    return float(((scores[present] > threshold).mean() + (scores[~present] <= threshold).mean()) / 2)


@given(st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=2, max_size=40, unique_by=lambda x: x[0]))
def test_no_other_threshold_is_better(drawn: list[tuple[int, bool]]) -> None:
    scores, present = np.array([s for s, _ in drawn], float), np.array([p for _, p in drawn])
    if present.all() or not present.any():
        return
    found = balanced_threshold(scores, present)
    between = np.arange(-20.5, 20)
    inside = between[(between > scores.min()) & (between < scores.max())]
    best = max(balance(scores, present, one) for one in inside)
    assert balance(scores, present, found) == pytest.approx(best, abs=1e-5)


def test_what_is_subtracted_is_what_is_said(painted_volume: TrainingVolume, tiny_config: TrainConfig) -> None:
    network = Sam2Network(tiny_config.spec)
    before = network.model.get_parameter(SCORE_BIAS).item()
    shift = calibrate_presence(network, [painted_volume], tiny_config)
    assert network.model.get_parameter(SCORE_BIAS).item() == pytest.approx(before - shift, abs=1e-5)
    assert calibrate_presence(network, [painted_volume], tiny_config) == pytest.approx(0, abs=0.5)
