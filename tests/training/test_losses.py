from __future__ import annotations

import math

import pytest
import torch

from volseg.networks.sam2.features import FrameOutput
from volseg.training.losses import frame_loss, mask_loss, soft_dice_loss


def output(candidates: torch.Tensor, iou: torch.Tensor, score: torch.Tensor) -> FrameOutput:
    rows = len(candidates)
    return FrameOutput(candidates[:, :1], torch.zeros(rows, 4), score, iou[:, :1], candidates, iou)


def logit(probability: torch.Tensor) -> torch.Tensor:
    return (probability / (1 - probability)).log()


def test_a_mask_loss_worked_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    dice = 1 - (2 * 0.5 + 1) / (4 * 0.25 + 1 + 1)
    assert float(mask_loss(logits, targets)) == pytest.approx(2 * math.log(2) + dice)


def test_no_answer_to_a_soft_target_is_better_than_the_target_itself() -> None:
    target = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    best = float(soft_dice_loss(logit(target), target))
    assert best == pytest.approx(0, abs=1e-5)
    assert float(soft_dice_loss(logit((target > 0.5) * 0.98 + 0.01), target)) > best + 0.01


def test_only_the_best_of_three_is_drawn_to_the_target() -> None:
    target = torch.zeros(1, 32, 32)
    target[0, 8:24, 8:24] = 1
    candidates = torch.zeros(1, 3, 8, 8)
    candidates[0, 1, 2:6, 2:6] = 2.0
    candidates.requires_grad_()
    iou = torch.full((1, 3), 0.5)
    frame_loss(output(candidates, iou, torch.ones(1, 1)), target).total.backward()
    assert candidates.grad is not None
    moved = candidates.grad.abs().sum(dim=(0, 2, 3))
    assert moved[1] > 0
    assert moved[0] < 0.2 * moved[1]


def test_opinions_are_of_each_mask_s_own_iou() -> None:
    target = torch.zeros(1, 32, 32)
    target[0, :, :16] = 1
    candidates = torch.full((1, 2, 8, 8), -9.0)
    candidates[0, 0, :, :4] = 9.0
    candidates[0, 1, :, 4:] = 9.0
    right = frame_loss(output(candidates, torch.tensor([[1.0, 0.0]]), torch.ones(1, 1)), target)
    wrong = frame_loss(output(candidates, torch.tensor([[0.0, 1.0]]), torch.ones(1, 1)), target)
    assert right.iou == pytest.approx(0, abs=0.02)
    assert wrong.iou == pytest.approx(1, abs=0.02)
    assert right.dice == pytest.approx(1, abs=0.02)
    assert wrong.dice == pytest.approx(0, abs=0.02), "the mask that the network itself picks counts"


def test_an_absent_object_asks_for_an_empty_mask_and_a_low_score() -> None:
    target = torch.zeros(2, 32, 32)
    full, empty = torch.full((2, 1, 8, 8), 5.0), torch.full((2, 1, 8, 8), -5.0)
    iou = torch.full((2, 1), 0.7, requires_grad=True)
    bad = frame_loss(output(full, iou, torch.full((2, 1), 3.0)), target)
    good = frame_loss(output(empty, iou, torch.full((2, 1), -3.0)), target)
    assert good.presence == pytest.approx(math.log1p(math.exp(-3)), rel=1e-4)
    assert bad.mask > 2 > 0.1 > good.mask
    good.total.backward()
    assert iou.grad is not None
    assert float(iou.grad.abs().sum()) == 0, "the IoU of a mask of nothing is not defined"
