from __future__ import annotations

import itertools

import numpy as np
import torch

from volseg.networks.refine import walk

USUAL = 0.1


def _brute_force(chance: np.ndarray, trust: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The walk's equations written out sample by sample, and solved as a dense system."""
    index = {place: number for number, place in enumerate(np.ndindex(image.shape))}
    pairs = []
    for place, number in index.items():
        for axis in range(3):
            other = tuple(n + (a == axis) for a, n in enumerate(place))
            if other in index:
                pairs.append((number, index[other], (image[place] - image[other]) ** 2))
    mean = np.mean([difference for _, _, difference in pairs]) + 1e-9
    matrix = np.diag(trust.ravel())
    for one, other, difference in pairs:
        weight = np.exp(-walk.EDGE * difference / mean) + walk.LEAST_WEIGHT
        for a, b in itertools.product((one, other), repeat=2):
            matrix[a, b] += weight if a == b else -weight
    return np.linalg.solve(matrix, (trust * chance).ravel()).reshape(image.shape)


def _random(seed: int, shape: tuple[int, int, int] = (4, 5, 6)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prior, trust, image = (torch.randn(shape, generator=generator) for _ in range(3))
    return prior, trust, image


def test_walk_solves_its_equations() -> None:
    for seed in range(4):
        prior, trust, image = _random(seed)
        inside, outside = torch.zeros(2, *image.shape, dtype=torch.bool)
        inside[1, 2, 3], outside[3, 0, 0] = True, True
        found = walk.chances(prior, trust, USUAL, image, inside, outside).numpy()
        held = USUAL * np.exp(walk.TRUST_RANGE * np.tanh(trust.numpy() / walk.TRUST_RANGE))
        held[1, 2, 3] = held[3, 0, 0] = walk.SEED_TRUST
        chance = torch.sigmoid(prior).numpy().copy()
        chance[1, 2, 3], chance[3, 0, 0] = 1, 0
        np.testing.assert_allclose(found, _brute_force(chance, held, image.numpy()), atol=2e-3)


def test_gradients_are_those_of_small_changes() -> None:
    prior, trust, image = (one.double() for one in _random(7, (3, 4, 4)))
    weights = walk._weights(image)
    chance, held = torch.sigmoid(prior).requires_grad_(), trust.exp().mul(0.1).requires_grad_()
    before = walk.TOLERANCE
    walk.TOLERANCE = 1e-12
    try:
        assert torch.autograd.gradcheck(lambda a, b: walk._Walk.apply(a, b, *weights), (chance, held))
    finally:
        walk.TOLERANCE = before


def test_a_little_belief_fills_an_even_region_up_to_its_edge() -> None:
    image = torch.zeros(12, 12, 12)
    image[3:9, 3:9, 3:9] = 1.0
    prior = torch.full(image.shape, -2.0)
    prior[3:9, 3:9, 3:9] = -0.3
    prior[4:8, 4:8, 4:8] = 6.0
    nothing = torch.zeros(image.shape, dtype=torch.bool)
    found = walk.walked(prior, torch.full(image.shape, -2.0), USUAL, image, nothing, nothing) > 0
    assert torch.equal(found, image > 0.5)
    trusted = walk.walked(prior, torch.full(image.shape, 20.0), USUAL, image, nothing, nothing) > 0
    assert 64 <= trusted.sum() < found.sum(), "where it is trusted, the network's own answer counts"


def test_an_even_image_is_solved_too() -> None:
    image = torch.zeros(6, 6, 6)
    nothing = torch.zeros(image.shape, dtype=torch.bool)
    found = walk.walked(torch.full(image.shape, 1.0), torch.zeros(image.shape), USUAL, image, nothing, nothing)
    torch.testing.assert_close(found, torch.ones(image.shape), rtol=1e-3, atol=1e-3)


def test_an_object_that_looks_like_its_surroundings_is_not_lost() -> None:
    generator = torch.Generator().manual_seed(3)
    image = 0.1 * torch.randn((16, 16, 16), generator=generator)
    image[0] = 5.0
    wanted = torch.zeros(image.shape, dtype=torch.bool)
    wanted[5:11, 5:11, 5:11] = True
    prior, nothing = torch.where(wanted, 3.0, -3.0), torch.zeros(image.shape, dtype=torch.bool)
    arguments = (torch.full(image.shape, -2.0), USUAL, image, nothing, nothing)
    assert (walk.chances(prior, *arguments) > 0.5).sum() == 0, "the chances have spread"
    found = walk.walked(prior, *arguments) > 0
    assert abs(int(found.sum()) - int(wanted.sum())) <= 2
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.8


def test_what_nobody_believes_in_is_not_found() -> None:
    prior, trust, image = _random(5)
    nothing = torch.zeros(image.shape, dtype=torch.bool)
    assert (walk.walked(-prior.abs() - 0.1, trust, USUAL, image, nothing, nothing) <= 0).all()
