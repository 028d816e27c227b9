"""A random walker on a lattice that starts from what a network believes, and carries it as far as the image is even.

Grady's random walker with priors (CVPR 2005): the chance x of belonging to the object minimises, over all samples i
and neighbours i, j, ``trust_i (x_i - prior_i)^2 + weight_ij (x_i - x_j)^2``. As in Cerrone et al., "End-to-end learned
random walker for seeded image segmentation" (CVPR 2019), gradients pass through the solution; here they teach where the
network is to be trusted and where the image.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

EDGE = 10.0
"""How fast weights fall with the squared difference of two samples, in units of its mean over the block."""
LEAST_WEIGHT = 1e-4
TRUST_RANGE = 4.0
"""Natural logarithm of how many times more or less than usual the network is trusted where it says so, at most."""
SEED_TRUST = 5.0
"""Trust in what a person has clicked on."""
ROUNDS = 60
TOLERANCE = 3e-4
SURE = 1e-4
"""Chances are cut off here, and at one less this."""
LEAST_CHANCE = 0.1
"""The object begins at this chance at the least, where it would otherwise be smaller than the network believes."""
MARGIN = 1e-3


def walked(prior: Tensor, trust: Tensor, usual: float, image: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Logits after the walk, float32 [A, B, C].

    Where tissue goes on evenly beyond an object, its chances spread over all of it until none is above one half, and
    the object would be lost. So the object begins at a lower chance if that is what it takes to be as large as the
    network believes.

    The arguments are those of `chances`.
    """
    found = chances(prior, trust, usual, image, inside, outside)
    logits = torch.log(found) - torch.log1p(-found)
    return logits - _start(logits.detach(), int((prior > 0).sum()))


def chances(prior: Tensor, trust: Tensor, usual: float, image: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """The chance of every sample to belong to the object, after the walk.

    Args:
        prior: logits [A, B, C] of the network.
        trust: [A, B, C] what the network says about its prior: 0 for the usual trust, above it for more.
        usual: trust in the prior; neighbours that look the same weigh 1.
        image: [A, B, C] intensities, of which only differences count.
        inside: bool [A, B, C], what was clicked on as the object.
        outside: bool [A, B, C], what was clicked on as something else.

    Returns:
        float32 [A, B, C], between 0 and 1 and neither of them.
    """
    chance = torch.sigmoid(prior.float())
    held = usual * torch.exp(TRUST_RANGE * torch.tanh(trust.float() / TRUST_RANGE))
    chance = torch.where(inside, 1.0, torch.where(outside, 0.0, chance))
    held = torch.where(inside | outside, SEED_TRUST, held)
    result: Tensor = _Walk.apply(chance, held, *_weights(image.float()))
    return result.clamp(SURE, 1 - SURE)


def _start(logits: Tensor, believed: int) -> Tensor:
    """The logit, 0 or below, above which ``believed`` samples lie, or as near to that as it may be."""
    if believed == 0:
        return logits.new_zeros(())
    above = torch.kthvalue(-logits.flatten(), believed).values.neg() - MARGIN
    lowest = math.log(LEAST_CHANCE / (1 - LEAST_CHANCE))
    return above.clamp(lowest, 0.0)


def _weights(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of neighbours along each axis; one less than there are samples along it."""
    a, b, c = (image.diff(dim=axis).square() for axis in range(3))
    total = sum(float(one.sum()) for one in (a, b, c))
    mean = total / max(1, a.numel() + b.numel() + c.numel()) + 1e-9
    a, b, c = (torch.exp(-EDGE / mean * one) + LEAST_WEIGHT for one in (a, b, c))
    return a, b, c


class _Walk(torch.autograd.Function):
    """The solution, and its derivatives, which solve the same equations with another right side."""

    @staticmethod
    def forward(ctx: Any, prior: Tensor, trust: Tensor, *weights: Tensor) -> Tensor:
        result = _solved(trust, weights, trust * prior, prior)
        ctx.save_for_backward(prior, trust, result, *weights)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        prior, trust, result, *weights = ctx.saved_tensors
        back = _solved(trust, weights, gradients[0], torch.zeros_like(prior))
        return trust * back, back * (prior - result), None, None, None


def _solved(trust: Tensor, weights: Any, right: Tensor, start: Tensor) -> Tensor:
    """Conjugate gradients, with the diagonal as preconditioner."""
    diagonal = trust.clone()
    for axis, weight in enumerate(weights):
        count = trust.shape[axis]
        diagonal.narrow(axis, 1, count - 1).add_(weight)
        diagonal.narrow(axis, 0, count - 1).add_(weight)

    def times(values: Tensor) -> Tensor:
        product = diagonal * values
        for axis, weight in enumerate(weights):
            count = values.shape[axis]
            low, high = values.narrow(axis, 0, count - 1), values.narrow(axis, 1, count - 1)
            product.narrow(axis, 1, count - 1).addcmul_(weight, low, value=-1)
            product.narrow(axis, 0, count - 1).addcmul_(weight, high, value=-1)
        return product

    result = start.clone()
    rest = right - times(result)
    enough = TOLERANCE**2 * float(right.square().sum())
    towards = rest / diagonal
    step = towards.clone()
    size = (rest * towards).sum()
    for number in range(ROUNDS):
        if number % 5 == 0 and float(rest.square().sum()) <= enough:
            break
        product = times(step)
        length = size / (step * product).sum().clamp(min=1e-30)
        result += length * step
        rest -= length * product
        towards = rest / diagonal
        new = (rest * towards).sum()
        step = towards + new / size.clamp(min=1e-30) * step
        size = new
    return result
