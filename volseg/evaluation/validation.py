"""The cases a training configuration keeps for validation."""

from __future__ import annotations

from pathlib import Path

from volseg.errors import EvaluationError
from volseg.evaluation.cases import EvaluationCase, ObjectSpec
from volseg.text.vocabulary import load_vocabulary
from volseg.training.cases import TrainingCase, split_cases
from volseg.training.config import NANO_CONFIG, read_config
from volseg.training.text_query.config import NANO_CONFIG as TEXT_NANO_CONFIG
from volseg.training.text_query.config import TextTrainConfig, read_text_config
from volseg.training.text_query.run import split_groups

CONFIGS = {"sam2-nano": NANO_CONFIG}
TEXT_CONFIGS = {"text-nano": TEXT_NANO_CONFIG}


def validation_cases(config: str | Path, data: Path) -> tuple[EvaluationCase, ...]:
    """Held-out patients and structures never trained on.

    Where a source names objects, the one of the most label ids is scored: a hippocampus as one structure. Of text-nano,
    every structure that people drew is scored, by its name.

    Args:
        config: ``sam2-nano`` or ``text-nano`` for the shipped ones, or a YAML file of ``volseg train``.
        data: the folder its paths start from.

    Raises:
        TrainingError: the configuration or its data are not there.
        EvaluationError: a case lies in an archive, or objects are excluded without others being named.
    """
    if str(config) in TEXT_CONFIGS:
        return _text_cases(read_text_config(TEXT_CONFIGS[str(config)]), data)
    settings = read_config(CONFIGS.get(str(config), Path(config)))
    _, scored = split_cases(data, settings)
    return tuple(_case(one) for one in scored)


def _text_cases(config: TextTrainConfig, data: Path) -> tuple[EvaluationCase, ...]:
    vocabulary = load_vocabulary()
    found = []
    for group, cases in split_groups(config, data, training=False):
        source = group.source
        if source.expert and source.train:
            objects = tuple(ObjectSpec(vocabulary.by_id(one).name, tuple(ids)) for one, ids in source.objects.items())
            found += [
                EvaluationCase(one.name, Path(one.image), Path(one.label), source.modality, source.group, objects)
                for one in cases
            ]
    return tuple(found)


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
