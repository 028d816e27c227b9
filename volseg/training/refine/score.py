"""How good first answers and corrected ones are on held-out cases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from volseg.data.object_mask import ObjectMask
from volseg.geometry import Frame
from volseg.inferers.refine.refiner import Refiner
from volseg.prompts import Point
from volseg.training.cases import TrainingCase
from volseg.training.refine.drafts import Draft
from volseg.training.volume import read_arrays

CORRECTIONS = 3
"""Clicks after the first answer."""


def score(refiner: Refiner, cases: Sequence[TrainingCase], drafts: Sequence[Sequence[Draft]]) -> dict[str, float]:
    """Mean Dice in 3D by group: of the drafts, after one look, and after some clicks where the answer was most wrong.

    Args:
        refiner: looks.
        cases: labelled.
        drafts: of each case.
    """
    from volseg.transforms.windows import choose_window

    found: defaultdict[str, list[float]] = defaultdict(list)
    for case, asked in zip(cases, drafts, strict=True):
        image, labels, grid = read_arrays(case)
        window = choose_window(image[None], modality=case.source.modality)
        voxels = torch.from_numpy(np.array(image))
        for draft in asked:
            truth = ObjectMask.of(1, grid, np.isin(labels, draft.ids))
            group, said = case.source.group, list(draft.prompts)
            found[f"{group} draft"].append(dice(draft.mask, truth))
            mask = refiner.refine(voxels, window, draft.mask, said)
            found[f"{group} looked"].append(dice(mask, truth))
            for _ in range(CORRECTIONS):
                click = worst_click(mask, truth)
                if click is None:
                    break
                said.append(click)
                mask = refiner.refine(voxels, window, mask, said, correcting=True)
            found[f"{group} + {CORRECTIONS} clicks"].append(dice(mask, truth))
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}


def worst_click(answer: ObjectMask, truth: ObjectMask) -> Point | None:
    """A click in the depth of the largest wrong part, or None where nothing is wrong."""
    from scipy.ndimage import distance_transform_edt, label

    wanted = truth.full()
    wrong = wanted != answer.full()
    if not wrong.any():
        return None
    parts, _ = label(wrong, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    region = np.pad(parts == sizes.argmax(), 1)
    depth = distance_transform_edt(region, sampling=truth.grid.spacing_mm)[1:-1, 1:-1, 1:-1]
    i, j, k = (int(one) for one in np.unravel_index(depth.argmax(), depth.shape))
    return Point((float(i), float(j), float(k)), Frame.IJK, bool(wanted[i, j, k]))


def dice(mask: ObjectMask, truth: ObjectMask) -> float:
    """Dice of two masks; 1 where both are empty."""
    both = mask.voxels + truth.voxels
    return 1.0 if both == 0 else 2 * int((mask.full() & truth.full()).sum()) / both
