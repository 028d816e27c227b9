"""Generated bodies with rings, arms and rinds, alone or in a row: what vertebrae, bones and encapsulated organs share.

Only form and arrangement are borrowed. The bodies have any size, pose and intensity, so that a network learns to follow
branches, holes and skins, and to leave a neighbour that looks alike to itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool3d

from volseg.training.rotation import rotation

RING = 0.6
"""Part of the bodies that have a ring behind them, and arms on it."""
MOST_IN_A_ROW = 4
RIND = 0.6
"""Part of the scenes whose bodies have a rind."""
LIKE_OUTSIDE = 0.4
"""Part of these in which what is inside of the rind looks like one of the tissues outside."""
COAT = 0.3
"""Part of the scenes in which something else, that does not belong to them, covers the bodies."""
BEADS = 12
"""Balls that an arm is made of."""


@dataclass(frozen=True, eq=False)
class Bodies:
    """Where bodies are.

    Attributes:
        labels: [I, J, K] uint8 ids, with tissues where nothing else is.
        objects: the ids of each body; only those that have voxels.
        classes: [ids] which ids look alike: the class of each.
    """

    labels: NDArray[np.uint8]
    objects: tuple[tuple[int, ...], ...]
    classes: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Form:
    """A body in its own axes; lengths in columns of the array.

    Attributes:
        radii: [3] of the middle part.
        corners: exponent of its norm: 2 for an ellipsoid, more for something like a box with round corners.
        ring: radius and thickness, or None; it lies across the third axis, behind the middle part along the second.
        beads: [N, 4] places and radii of the balls of all arms.
    """

    radii: NDArray[np.float64]
    corners: float
    ring: tuple[float, float] | None
    beads: NDArray[np.float64]

    def holds(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Whether places, in the form's axes, lie within."""
        parts = [(a.abs() / float(r)).pow(self.corners) for a, r in zip((x, y, z), self.radii, strict=True)]
        inside = parts[0] + parts[1] + parts[2] < 1
        if self.ring is not None:
            radius, thick = self.ring
            across = (x.square() + (y - self.behind).square()).sqrt() - radius
            inside |= across.square() + z.square() < thick**2
        for a, b, c, r in self.beads.tolist():
            inside |= (x - a).square() + (y - b).square() + (z - c).square() < r**2
        return inside

    @property
    def behind(self) -> float:
        """The middle of the ring along the second axis."""
        return 0.0 if self.ring is None else float(self.radii[1]) + 0.8 * self.ring[0]


def random_bodies(rng: np.random.Generator, labels: NDArray[np.uint8]) -> Bodies:
    """Puts a row of bodies, or just one, into tissues.

    Args:
        rng: the only source of chance.
        labels: [I, J, K] ids of the tissues, from 1; fewer slices than columns are further apart than these.
    """
    shape = labels.shape
    tissues = int(labels.max())
    form = _form(rng, float(np.exp(rng.uniform(np.log(0.06), np.log(0.2)))) * shape[1])
    count = int(rng.integers(1, MOST_IN_A_ROW + 1))
    step = 2 * max(float(form.radii[2]), form.ring[1] if form.ring else 0.0) * float(rng.uniform(1.05, 1.5))
    thick = max(0.3, shape[0] / shape[1])
    turn = rotation(rng.normal(0, 0.3, 3))[:, rng.permutation(3)]
    middle = np.array([rng.uniform(0.25, 0.75) * n for n in shape]) / (thick, 1, 1)
    axes = [torch.arange(n, dtype=torch.float32) for n in shape]
    places = torch.stack(torch.meshgrid(axes[0] / thick, axes[1], axes[2], indexing="ij"), dim=-1)
    local = (places - torch.from_numpy(middle).float()) @ torch.from_numpy(turn).float()
    rind = int(rng.integers(1, 4)) if rng.random() < RIND else 0
    coat = int(rng.integers(1, 4)) if rng.random() < COAT else 0
    core, skin, cover = tissues + 1, tissues + 2, tissues + 3
    if rind and rng.random() < LIKE_OUTSIDE:
        core = int(rng.integers(1, tissues + 1))
    result = torch.from_numpy(labels.copy())
    classes = [*range(tissues + 1), cover]
    objects = []
    covered = tissues + 1
    bodies = []
    for number in range(count):
        shift = (number - (count - 1) / 2) * step
        wobble = rng.normal(0, 0.06, 2) * form.radii[:2]
        x, y, z = local[..., 0] - float(wobble[0]), local[..., 1] - float(wobble[1]), local[..., 2] - shift
        bodies.append(form.holds(x, y, z))
    if coat:
        result[_swollen(torch.stack(bodies).any(dim=0), coat, thick)] = covered
    for inside in bodies:
        first = len(classes)
        classes += [core, skin]
        result[inside] = first
        if rind:
            result[inside & _swollen(~inside, rind, thick)] = first + 1
        objects.append((first, first + 1))
    kept = tuple(ids for ids in objects if bool(((result == ids[0]) | (result == ids[1])).any()))
    return Bodies(result.numpy(), kept, np.array(classes, dtype=np.uint8))


def _form(rng: np.random.Generator, size: float) -> _Form:
    radii = np.maximum(1.5, size * np.exp(rng.normal(0, 0.25, 3)))
    ring = None
    starts = [np.zeros(3)]
    if rng.random() < RING:
        ring = (size * float(rng.uniform(0.4, 0.9)), max(1.0, size * float(rng.uniform(0.15, 0.35))))
        behind = radii[1] + 0.8 * ring[0]
        angles = (-0.25 * np.pi, 0.5 * np.pi, 1.25 * np.pi)
        starts = [np.array([ring[0] * np.cos(a), behind + ring[0] * np.sin(a), 0.0]) for a in angles]
    arms = []
    for start in starts if ring else starts * int(rng.integers(0, 5)):
        away = start - (0, radii[1] + 0.8 * ring[0], 0) if ring else rng.normal(size=3)
        arms.append(_arm(rng, start, away / max(1e-6, float(np.linalg.norm(away))), size))
    return _Form(radii, float(rng.choice([2.0, 4.0])), ring, np.concatenate([np.zeros((0, 4)), *arms]))


def _arm(
    rng: np.random.Generator, start: NDArray[np.float64], away: NDArray[np.float64], size: float
) -> NDArray[np.float64]:
    """Balls [N, 4] along a bent line that gets thinner or thicker."""
    length = size * float(rng.uniform(0.5, 2.0))
    along = np.linspace(0, 1, BEADS)[:, None]
    bend = rng.normal(0, 0.25, 3) * length
    line = start + along * length * (away + rng.normal(0, 0.25, 3)) + along**2 * bend
    radii = np.maximum(1.0, size * np.linspace(rng.uniform(0.15, 0.4), rng.uniform(0.1, 0.35), BEADS))
    return np.concatenate([line, radii[:, None]], axis=1)


def _swollen(mask: Tensor, by: int, thick: float) -> Tensor:
    """A mask with what lies within so many columns of it."""
    deep = round(by * thick)
    swollen = max_pool3d(mask.float()[None, None], (2 * deep + 1, 2 * by + 1, 2 * by + 1), 1, (deep, by, by))
    result: Tensor = swollen[0, 0] > 0
    return result
