"""The cases a training configuration keeps for validation."""

from __future__ import annotations

from pathlib import Path

from volseg.errors import EvaluationError
from volseg.evaluation.cases import EvaluationCase, ObjectSpec
from volseg.training.cases import TrainingCase, split_cases
from volseg.training.config import NANO_CONFIG, read_config

CONFIGS = {"sam2-nano": NANO_CONFIG}


def validation_cases(config: str | Path, data: Path) -> tuple[EvaluationCase, ...]:
    """Held-out patients and structures never trained on.

    Where a source names objects, the one of the most label ids is scored: a hippocampus as one structure.

    Args:
        config: ``sam2-nano`` for the shipped one, or a YAML file.
        data: the folder its paths start from.

    Raises:
        TrainingError: the configuration or its data are not there.
        EvaluationError: a case lies in an archive, or objects are excluded without others being named.
    """
    settings = read_config(CONFIGS.get(str(config), Path(config)))
    _, scored = split_cases(data, settings)
    return tuple(_case(one) for one in scored)


def _case(case: TrainingCase) -> EvaluationCase:
    source = case.source
    if "::" in case.image or (source.exclude and not source.objects):
        raise EvaluationError(f"case {case.name}: arrays in archives and excluded labels are not scored; list it in a "
                              "table of cases instead")  # fmt: skip
    objects: tuple[ObjectSpec, ...] = ()
    if source.objects:
        name, ids = max(source.objects.items(), key=lambda pair: len(pair[1]))
        objects = (ObjectSpec(name, tuple(ids)),)
    return EvaluationCase(case.name, Path(case.image), Path(case.label), source.modality, source.group, objects)
