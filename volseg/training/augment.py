"""Varies frames on whatever device they are: geometry together with targets, intensities alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def augment(frames: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Varies clips; the frames of one clip alike, but for noise.

    Flips and turns by 90 degrees, rotation with shear and scale, gamma, contrast, brightness, inversion, a smooth bias
    field, blur or coarse sampling along one or both axes, noise.

    Args:
        frames: [N, T, 3, S, S] from 0 to 1.
        targets: [N, T, S, S] from 0 to 1.
        generator: the only source of chance, on the CPU.

    Returns:
        The same shapes and ranges.
    """
    frames, targets = _turn(frames, targets, generator)
    frames, targets = _rotate(frames, targets, generator)
    frames = _coarsen(frames, generator)
    frames = _intensities(frames, generator)
    return frames, targets


def _chance(count: int, part: float, generator: torch.Generator) -> list[int]:
    """Which of ``count`` clips are chosen."""
    chosen: list[int] = torch.nonzero(torch.rand(count, generator=generator) < part)[:, 0].tolist()
    return chosen


def _turn(frames: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    frames, targets = frames.clone(), targets.clone()
    for dimension, part in ((-1, 0.5), (-2, 0.15)):
        chosen = _chance(len(frames), part, generator)
        if chosen:
            frames[chosen] = frames[chosen].flip(dimension)
            targets[chosen] = targets[chosen].flip(dimension)
    chosen = _chance(len(frames), 0.15, generator)
    if chosen:
        frames[chosen] = frames[chosen].transpose(-1, -2)
        targets[chosen] = targets[chosen].transpose(-1, -2)
    return frames, targets


def _rotate(frames: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    chosen = _chance(len(frames), 0.3, generator)
    if not chosen:
        return frames, targets
    n, (t, c, side) = len(chosen), (frames.shape[1], frames.shape[2], frames.shape[-1])
    angle = (torch.rand(n, generator=generator) * 2 - 1) * 0.6
    scale = torch.exp(torch.randn(n, 2, generator=generator) * 0.08)
    shear = torch.randn(n, generator=generator) * 0.08
    cosine, sine, none = angle.cos(), angle.sin(), torch.zeros(n)
    matrix = torch.stack(
        [
            torch.stack([cosine * scale[:, 0], -sine + shear, none], dim=1),
            torch.stack([sine, cosine * scale[:, 1], none], dim=1),
        ],
        dim=1,
    ).to(frames.device)
    together = torch.cat([frames[chosen].flatten(1, 2), targets[chosen]], dim=1)
    grid = functional.affine_grid(matrix, [n, 1, side, side], align_corners=False)
    turned = functional.grid_sample(together, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    frames[chosen] = turned[:, : t * c].reshape(n, t, c, side, side)
    targets[chosen] = turned[:, t * c :]
    return frames, targets


def _coarsen(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, or fewer pixels along one or both axes, as thick slices and coarse matrices have."""
    side = frames.shape[-1]
    for index in _chance(len(frames), 0.3, generator):
        kind = int(torch.randint(3, (1,), generator=generator))
        image = frames[index]
        if kind == 0:
            kernel = torch.tensor([1.0, 2.0, 1.0], device=frames.device) / 4
            for _ in range(int(torch.randint(1, 4, (1,), generator=generator))):
                weight = (kernel[:, None] * kernel).expand(image.shape[1], 1, 3, 3)
                image = functional.conv2d(
                    functional.pad(image, (1, 1, 1, 1), mode="replicate"), weight, groups=image.shape[1]
                )
        else:
            factor = 1.5 + 3 * float(torch.rand(1, generator=generator))
            few = max(8, int(side / factor))
            size = ((few, few), (few, side), (side, few))[int(torch.randint(3, (1,), generator=generator))]
            small = functional.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
            image = functional.interpolate(small, (side, side), mode="bilinear", align_corners=False)
        frames[index] = image
    return frames


def _intensities(frames: Tensor, generator: torch.Generator) -> Tensor:
    count, device = len(frames), frames.device
    shape = (count, 1, 1, 1, 1)

    def some(part: float, varied: Tensor, neutral: float) -> Tensor:
        """The varied value for a part of the clips."""
        chosen = torch.rand(shape, generator=generator) < part
        return torch.where(chosen, varied, neutral).to(device)

    frames = torch.where(some(0.06, torch.ones(shape), 0.0) > 0, 1 - frames, frames)
    gamma = some(0.4, torch.exp(torch.randn(shape, generator=generator) * 0.3), 1.0)
    frames = frames.clamp(1e-4, 1) ** gamma
    contrast = some(0.4, torch.exp(torch.randn(shape, generator=generator) * 0.25), 1.0)
    brightness = some(0.4, torch.randn(shape, generator=generator) * 0.1, 0.0)
    frames = (frames - 0.5) * contrast + 0.5 + brightness
    chosen = _chance(count, 0.2, generator)
    if chosen:
        coarse = torch.randn(len(chosen), 1, 4, 4, generator=generator) * 0.2
        field = functional.interpolate(coarse, frames.shape[-2:], mode="bicubic", align_corners=False)
        frames[chosen] = frames[chosen] * field.exp()[:, None].to(device)
    chosen = _chance(count, 0.4, generator)
    if chosen:
        strength = torch.rand(len(chosen), 1, 1, 1, 1, generator=generator) * 0.12
        noise = torch.randn(frames[chosen].shape, generator=generator) * strength
        frames[chosen] = frames[chosen] + noise.to(device)
    return frames.clamp(0, 1)
