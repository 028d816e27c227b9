"""Labelled volumes on the network's grid, and what is known about structures in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volseg.data.modality import Modality
from volseg.errors import TrainingError
from volseg.geometry import Grid
from volseg.inferers.text_query.volume import as_ras, network_grid, to_network
from volseg.networks.text_query.channels import pad_value
from volseg.training.cases import TrainingCase
from volseg.training.text_query.config import GroupConfig
from volseg.training.volume import read_arrays
from volseg.transforms.resample import ResampleWithPromptsd
from volseg.transforms.spatial import LABEL_MODE
from volseg.transforms.windows import choose_window

PLACES = 400
"""Voxels of each structure that windows may be centred on."""

SHELLS_MM = (2.5, 7.0, 14.0)
"""Outer borders of the layers around everything labelled: fluid, bone, skin."""

SWELL_REACH = 6.0
"""Voxels from the surface of what swells to where its surroundings hardly move."""

SHELL_IDS = (200, 201, 202)
"""Label ids of these layers."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known about a structure in a volume.

    Attributes:
        ids: label ids that are the structure; none where it does not occur.
        unknown: label ids of voxels that may or may not belong to it.
    """

    ids: tuple[int, ...]
    unknown: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class TextVolume:
    """A volume at one spacing.

    Attributes:
        name: the case's.
        modality: how it was acquired.
        spacing_mm: of its voxels.
        image: [I, J, K] float16 in units of the default window, axes towards right, anterior, superior.
        labels: [I, J, K] uint8.
        truth: by concept; a concept that is not listed is unknown everywhere.
        places: [N, 3] voxels by concept.
        means: mean intensity of every label id, [256].
        around: [3, I, J, K] float16, the direction away from what swells, shorter with the distance; None where
            nothing does.
    """

    name: str
    modality: Modality
    spacing_mm: float
    image: Tensor
    labels: Tensor
    truth: Mapping[str, Truth]
    places: Mapping[str, NDArray[np.int32]]
    means: NDArray[np.float32]
    around: Tensor | None = None

    @property
    def pad(self) -> float:
        """What lies outside."""
        return pad_value(self.modality)


def read_text_volumes(
    case: TrainingCase, group: GroupConfig, spacings_mm: tuple[float, ...], absent: tuple[str, ...]
) -> tuple[TextVolume, ...]:
    """Reads a case at several spacings.

    Args:
        case: its files.
        group: what its labels mean.
        spacings_mm: of the results.
        absent: concepts that do not occur in it.

    Raises:
        TrainingError: see ``read_arrays``.
    """
    image, labels, grid = read_arrays(case)
    window = choose_window(image[None], modality=case.source.modality)
    truth = {concept: Truth(ids) for concept, ids in case.source.objects.items()}
    truth |= {concept: Truth((), ids) for concept, ids in group.unknown.items()}
    truth |= {concept: Truth(()) for concept in (*absent, *group.nowhere) if concept not in truth}
    swelling = [one for concept in group.swell for one in case.source.objects[concept]]
    pixels = torch.from_numpy(np.ascontiguousarray(image.astype(np.float32)))[None]
    marked = torch.from_numpy(labels)[None]
    results = []
    for spacing in spacings_mm:
        target = network_grid(grid, spacing)
        values = to_network(pixels, grid, target, window)[0]
        ids = ResampleWithPromptsd.carry(as_ras(marked, grid), grid.reoriented("RAS"), target, LABEL_MODE)[0]
        if group.shell:
            ids = _with_shells(ids, target)
        results.append(
            TextVolume(
                case.name,
                case.source.modality,
                spacing,
                values.half(),
                ids,
                truth,
                _places(ids.numpy(), truth),
                _means(values.numpy(), ids.numpy()),
                _around(ids.numpy(), swelling) if swelling else None,
            )
        )
    return tuple(results)


def _with_shells(ids: Tensor, grid: Grid) -> Tensor:
    """Layers around everything that is labelled get ids of their own."""
    from scipy.ndimage import distance_transform_edt

    array = ids.numpy().copy()
    if np.isin(array, SHELL_IDS).any():
        raise TrainingError(f"the label ids {SHELL_IDS} are taken; layers around the labels need them")
    distance_mm = distance_transform_edt(array == 0, sampling=grid.spacing_mm)
    layer = np.digitize(distance_mm, SHELLS_MM)
    free = (array == 0) & (layer < len(SHELLS_MM))
    array[free] = np.array(SHELL_IDS, dtype=np.uint8)[layer[free]]
    return torch.from_numpy(array)


def _around(labels: NDArray[np.uint8], ids: Sequence[int]) -> Tensor:
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    inside = np.isin(labels, ids)
    distance = distance_transform_edt(~inside) - distance_transform_edt(inside)
    smooth = gaussian_filter(distance.astype(np.float32), 1.0)
    away = np.stack(np.gradient(smooth)) * np.exp(-((distance / SWELL_REACH) ** 2))
    return torch.from_numpy(away.astype(np.float16))


def _places(labels: NDArray[np.uint8], truth: Mapping[str, Truth]) -> dict[str, NDArray[np.int32]]:
    rng = np.random.default_rng(0)
    found: dict[str, NDArray[np.int32]] = {}
    for concept, known in truth.items():
        voxels = np.flatnonzero(np.isin(labels, known.ids)) if known.ids else np.empty(0, np.int64)
        if len(voxels):
            chosen = rng.choice(voxels, min(PLACES, len(voxels)), replace=False)
            found[concept] = np.stack(np.unravel_index(chosen, labels.shape), axis=1).astype(np.int32)
    return found


def _means(values: NDArray[np.float32], labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    counts = np.bincount(labels.ravel(), minlength=256)
    sums = np.bincount(labels.ravel(), weights=values.ravel(), minlength=256)
    means: NDArray[np.float32] = (sums / np.maximum(counts, 1)).astype(np.float32)
    return means
