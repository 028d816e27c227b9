"""Scores against hand-worked cases, a second library and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from volseg.data import ObjectMask
from volseg.evaluation.instances import instance_scores
from volseg.evaluation.intervals import bootstrap
from volseg.evaluation.scores import area_under_curve, dice, slices_past_ends, surface_dice, within_extent
from volseg.geometry import Grid


def _mask(array, spacing_mm=(1.0, 1.0, 1.0)):
    return ObjectMask.of(1, Grid(array.shape, np.diag([*spacing_mm, 1.0])), array)


def _block(shape, start, stop):
    array = np.zeros(shape, dtype=bool)
    array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return array


def test_dice_by_hand():
    one, other = _block((9, 9, 9), (1, 1, 1), (4, 4, 4)), _block((9, 9, 9), (2, 1, 1), (5, 4, 4))
    assert dice(_mask(one), _mask(other)) == pytest.approx(2 * 18 / 54)
    empty = np.zeros((9, 9, 9), dtype=bool)
    assert dice(_mask(empty), _mask(one)) == 0
    assert dice(_mask(empty), _mask(empty)) == 1
    assert surface_dice(_mask(empty), _mask(one)) == 0
    assert surface_dice(_mask(empty), _mask(empty)) == 1


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    spacing_mm=st.tuples(*[st.sampled_from([0.5, 0.98, 1.0, 3.27])] * 3),
    tolerance_mm=st.sampled_from([1.0, 2.0]),
)
def test_surface_dice_agrees_with_the_surface_distance_library(seed, spacing_mm, tolerance_mm):
    import surface_distance

    rng = np.random.default_rng(seed)
    shape = (14, 12, 10)
    answer, truth = (gaussian_filter(rng.normal(size=shape), 2) > 0 for _ in range(2))  # both touch the border
    distances = surface_distance.compute_surface_distances(truth, answer, spacing_mm)
    expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)
    measured = surface_dice(_mask(answer, spacing_mm), _mask(truth, spacing_mm), tolerance_mm)
    assert measured == pytest.approx(expected, abs=1e-4)


def test_a_shift_beyond_the_tolerance_is_seen_in_mm():
    truth, answer = _block((30, 30, 30), (5, 5, 5), (20, 20, 20)), _block((30, 30, 30), (5, 5, 8), (20, 20, 23))
    assert surface_dice(_mask(answer, (1, 1, 0.5)), _mask(truth, (1, 1, 0.5))) == pytest.approx(1)  # by 1.5 mm
    assert surface_dice(_mask(answer, (1, 1, 3)), _mask(truth, (1, 1, 3))) < 0.8  # by 9 mm


def test_slices_past_the_ends_and_the_answer_within_the_extent():
    truth, answer = _block((9, 9, 12), (2, 2, 4), (6, 6, 8)), _block((9, 9, 12), (2, 2, 1), (6, 6, 10))
    assert slices_past_ends(_mask(answer), _mask(truth), axis=2) == (3 + 2) / 2
    assert slices_past_ends(_mask(truth), _mask(answer), axis=2) == 0
    assert dice(within_extent(_mask(answer), _mask(truth), 2), _mask(truth)) == 1
    assert slices_past_ends(_mask(np.zeros_like(truth)), _mask(truth), axis=2) is None
    elsewhere = _mask(_block((9, 9, 12), (2, 2, 9), (6, 6, 11)))
    assert within_extent(elsewhere, _mask(truth), 2).voxels == 0


def test_the_area_under_five_clicks():
    assert area_under_curve([1, 1, 1, 1, 1]) == 4
    assert area_under_curve([0.2, 0.4, 0.6, 0.8, 1.0]) == pytest.approx(0.1 + 0.4 + 0.6 + 0.8 + 0.5)


def test_the_interval_of_a_mean():
    values = np.random.default_rng(0).normal(0.7, 0.1, size=200)
    interval = bootstrap(values.tolist())
    half = 1.96 * values.std() / np.sqrt(200)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.002)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.002)
    assert bootstrap([0.5]).low is None
    assert bootstrap([]) is None


def test_instances_against_every_matching():
    rng = np.random.default_rng(4)
    for _ in range(20):
        # Boxes on a row, apart from each other; the answers are shifted by 0 to 3 voxels of 5.
        truths, answer, pairs = [], np.zeros((40, 8, 8), dtype=bool), []
        for number in range(4):
            low = 1 + 10 * number
            truths.append(_block((40, 8, 8), (low, 1, 1), (low + 5, 6, 6)))
            if rng.random() < 0.8:
                shift = int(rng.integers(4))
                answer |= _block((40, 8, 8), (low + shift, 1, 1), (low + shift + 5, 6, 6))
                pairs.append((5 - shift) / (5 + shift))
        matched = [iou for iou in pairs if iou >= 0.5]
        f1, mean = instance_scores(answer, [_mask(one) for one in truths])
        assert f1 == pytest.approx(2 * len(matched) / (len(pairs) + 4))
        expected = np.mean([2 * iou / (1 + iou) for iou in matched]) if matched else 0
        assert mean == pytest.approx(expected)


def test_instances_are_matched_for_the_largest_sum():
    """Two answers over one instance: only the better one counts; corners do not join parts."""
    truth = _block((12, 6, 6), (0, 0, 0), (6, 6, 6))
    answer = _block((12, 6, 6), (0, 0, 0), (5, 6, 6)) & ~_block((12, 6, 6), (1, 0, 0), (2, 6, 6))
    f1, mean = instance_scores(answer, [_mask(truth)])
    assert f1 == pytest.approx(2 * 1 / (2 + 1))
    assert mean == pytest.approx(2 * 3 / (3 + 6))
    assert instance_scores(np.zeros_like(answer), []) == (1, 1)
    assert list(itertools.chain(instance_scores(answer, []))) == [0, 0]
