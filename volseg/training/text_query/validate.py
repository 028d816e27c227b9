"""Scores of a text-query model on cases it was never trained on, through the code that users run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volseg.geometry import Grid
from volseg.models.text_query import TextQueryModel
from volseg.prompts import PromptedObject, PromptSet, Text
from volseg.text.vocabulary import load_vocabulary
from volseg.training.cases import TrainingCase
from volseg.training.text_query.config import GroupConfig, TextTrainConfig
from volseg.training.text_query.run import absent_concepts, split_groups
from volseg.training.volume import read_arrays

ABSENT_ASKED = 6
"""Structures that are not in an image, asked for to see whether the network says so."""


@dataclass(frozen=True)
class CaseScore:
    """One structure in one case.

    Attributes:
        group: of the case.
        case: its name.
        concept: what was asked for.
        present: whether it is there.
        presence: what the model says.
        dice: of its mask, None where the structure is absent.
        expert: whether people drew the reference.
    """

    group: str
    case: str
    concept: str
    present: bool
    presence: float
    dice: float | None
    expert: bool


def score_cases(
    model: TextQueryModel, config: TextTrainConfig, folder: Path, groups: Sequence[str] = ()
) -> Iterator[CaseScore]:
    """Asks for every structure that a validation case is labelled with, and for some that it cannot have.

    Args:
        model: as users load it.
        config: names cases and their labels.
        folder: below which the sources lie.
        groups: names of groups; all if empty.
    """
    for group, cases in split_groups(config, folder, training=False):
        if groups and group.source.group not in groups:
            continue
        absent = [one for one in absent_concepts(config, group) if one in model.offered]
        for number, case in enumerate(cases):
            chosen = [absent[(number + step) % len(absent)] for step in range(min(ABSENT_ASKED, len(absent)))]
            yield from _score(model, group, case, chosen)


def dice_table(scores: Sequence[CaseScore]) -> Mapping[tuple[str, str], tuple[float, int, bool]]:
    """Mean Dice, number of cases, and whether people drew the reference, by group and concept."""
    found: defaultdict[tuple[str, str], list[CaseScore]] = defaultdict(list)
    for score in scores:
        if score.dice is not None:
            found[score.group, score.concept].append(score)
    return {
        key: (float(np.mean([one.dice for one in some])), len(some), all(one.expert for one in some))
        for key, some in found.items()
    }


def presence_auc(scores: Sequence[CaseScore]) -> tuple[float, int, int]:
    """Area under the ROC curve of presence, with the numbers of present and absent structures (Mann-Whitney)."""
    from scipy.stats import rankdata

    present = [one.presence for one in scores if one.present]
    absent = [one.presence for one in scores if not one.present]
    if not present or not absent:
        return float("nan"), len(present), len(absent)
    ranks = rankdata([*present, *absent])[: len(present)].sum()
    area = (ranks - len(present) * (len(present) + 1) / 2) / (len(present) * len(absent))
    return float(area), len(present), len(absent)


def _score(model: TextQueryModel, group: GroupConfig, case: TrainingCase, absent: Sequence[str]) -> Iterator[CaseScore]:
    import torch
    from monai.data import MetaTensor

    from volseg.models.options import EncodeOptions

    image, labels, grid = read_arrays(case)
    volume = MetaTensor(torch.from_numpy(np.ascontiguousarray(image.astype(np.float32)))[None], affine=grid.affine_ras)
    asked = [one for one in case.source.objects if one in model.offered] + list(absent)
    if not asked:
        return
    with model.encode(volume, EncodeOptions(modality=case.source.modality)) as encoding:
        result = model.segment(encoding, _prompts(grid, asked))
    for concept, mask in zip(asked, result.masks, strict=True):
        reference = np.isin(labels, case.source.objects.get(concept, ()))
        present = bool(reference.any())
        dice = _dice(mask.full(), reference) if present else None
        yield CaseScore(group.source.group, case.name, concept, present, mask.presence or 0.0, dice, case.source.expert)


def _prompts(grid: Grid, concepts: Sequence[str]) -> PromptSet:
    vocabulary = load_vocabulary()
    names = [vocabulary.by_id(concept).name for concept in concepts]
    return PromptSet(grid, tuple(PromptedObject(n, (Text(name),), name) for n, name in enumerate(names, start=1)))


def _dice(mask: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    total = int(mask.sum()) + int(reference.sum())
    return 2 * int((mask & reference).sum()) / total if total else 1.0
