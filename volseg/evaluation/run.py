"""Scores a model on cases."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.data.modality import Modality
from volseg.data.object_mask import ObjectMask
from volseg.errors import Cancelled, EvaluationError
from volseg.evaluation.answers import answers_path, write_answers
from volseg.evaluation.cases import EvaluationCase
from volseg.evaluation.identity import Identity, claim_folder
from volseg.evaluation.instances import instance_scores
from volseg.evaluation.page import shown_step, write_page
from volseg.evaluation.placement import acquisition_axis
from volseg.evaluation.protocols.base import Answer, Dialogue, Protocol
from volseg.evaluation.reference import (
    ReferenceObject,
    case_sha256,
    case_window,
    read_case_image,
    read_reference,
)
from volseg.evaluation.rows import Row, read_rows, write_rows
from volseg.evaluation.scores import dice, slices_past_ends, surface_dice, within_extent
from volseg.evaluation.summary import summarise
from volseg.evaluation.trial import Trial
from volseg.models.base import Model
from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback, report

if TYPE_CHECKING:
    from monai.data import MetaTensor

logger = logging.getLogger(__name__)

SCORES_FILE = "scores.csv"
SUMMARY_FILE = "summary.json"
PAGE_FILE = "index.html"
SCHEMA = "volseg.evaluation"
SCHEMA_VERSION = 1

BLANK_CT_HU = 40
"""A blank CT is soft tissue everywhere; other images are 0."""


@dataclass(frozen=True)
class _Checked:
    """A case that can be scored: hash of its files, and (object, step) of the rows it will have."""

    case: EvaluationCase
    sha256: str
    expected: frozenset[tuple[int, str]]


def evaluate(
    model: Model,
    cases: Sequence[EvaluationCase],
    protocol: Protocol,
    folder: Path,
    *,
    parts: Sequence[str] | None = None,
    seed: int = 0,
    blank: bool = False,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Scores a model and writes scores.csv, summary.json and index.html.

    All cases are checked before the first is run. Rows are written after every case; run again with the same folder,
    only what is missing, has failed or lies in changed files is computed.

    Args:
        model: what is scored.
        cases: on what.
        protocol: how.
        folder: for the results; made where it is missing.
        parts: of the protocol that are run; None runs all that the model serves.
        seed: of everything drawn.
        blank: replaces every image by a constant: what a model still finds, it has from the prompts alone.
        progress: told the part done; may cancel.

    Returns:
        What summary.json holds.

    Raises:
        CapabilityError: the model serves no part of the protocol.
        EvaluationError: a case cannot be scored (it is named), or the folder holds results of another kind.
        Cancelled: ``progress`` asked to stop; rows so far stay.
        WriteError: results cannot be written.
    """
    from volseg import __version__

    served = protocol.served(model.card, parts)
    left_out = [part for part in parts or protocol.parts if part not in served]
    if left_out:
        logger.warning("model %s cannot be asked for %s; left out", model.card.name, ", ".join(left_out))
    checked = _check(cases, protocol, served, seed, progress)
    card = model.card
    identity = Identity(card.name, card.version, card.weights_sha256, protocol.name, protocol.version, ",".join(served),
                        seed, blank, __version__)  # fmt: skip
    claim_folder(folder, identity)
    done = _kept_rows(folder / SCORES_FILE, checked)
    for number, item in enumerate(checked):
        if item.case.case_id in done:
            continue
        fraction = number / len(checked)
        report(progress, fraction, f"case {item.case.case_id}")
        rows, masks = _score_case(model, item, protocol, served, seed, blank, _cancelling(progress, fraction))
        done[item.case.case_id] = rows
        write_answers(answers_path(folder, item.case.case_id), masks)
        write_rows([row for one in checked for row in done.get(one.case.case_id, ())], folder / SCORES_FILE)
    rows = [row for one in checked for row in done[one.case.case_id]]
    write_rows(rows, folder / SCORES_FILE)
    summary = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        **asdict(identity),
        "data_sha256": hashlib.sha256("".join(item.sha256 for item in checked).encode()).hexdigest(),
        "cases": len(checked),
        "not_served": left_out,
        "failures": [
            {"case": row.case, "object": row.object, "step": row.step, "error": row.error} for row in rows if row.error
        ],
        "groups": summarise(rows, protocol, seed),
    }
    write_page(folder / PAGE_FILE, summary, rows, [item.case for item in checked], protocol)
    _write(folder / SUMMARY_FILE, json.dumps(summary, indent=1, allow_nan=False))
    report(progress, 1.0, "scored")
    return summary


def _check(
    cases: Sequence[EvaluationCase],
    protocol: Protocol,
    parts: tuple[str, ...],
    seed: int,
    progress: ProgressCallback | None,
) -> list[_Checked]:
    if not cases:
        raise EvaluationError("there are no cases to score")
    checked = []
    for case in cases:
        report(progress, 0.0, f"checking {case.case_id}")
        dialogues = protocol.dialogues(read_reference(case), parts, case_seed(seed, case.case_id))
        expected = frozenset((item.object_id, step) for one in dialogues for item in one.objects for step in one.steps)
        checked.append(_Checked(case, case_sha256(case), expected))
    return checked


def case_seed(seed: int, case_id: str) -> int:
    """A seed for one case that does not depend on which other cases there are."""
    return int.from_bytes(hashlib.sha256(f"{seed} {case_id}".encode()).digest()[:4], "little")


def _kept_rows(path: Path, checked: list[_Checked]) -> dict[str, list[Row]]:
    """Rows of earlier runs, by case, of the cases that need not be run again."""
    if not path.exists():
        return {}
    earlier: dict[str, list[Row]] = {}
    for row in read_rows(path):
        earlier.setdefault(row.case, []).append(row)
    strangers = sorted(set(earlier) - {item.case.case_id for item in checked})
    if strangers:
        raise EvaluationError(
            f"{path} holds scores of {len(strangers)} cases that are not asked for now, such as {strangers[0]}; "
            "choose another folder"
        )
    kept = {}
    for item in checked:
        rows = earlier.get(item.case.case_id, [])
        same = all(row.data_sha256 == item.sha256 and not row.error for row in rows)
        if same and {(row.object, row.step) for row in rows} == item.expected:
            # The group is no part of the data: it may be renamed between runs.
            kept[item.case.case_id] = [replace(row, group=item.case.group) for row in rows]
    return kept


def _score_case(
    model: Model,
    item: _Checked,
    protocol: Protocol,
    parts: tuple[str, ...],
    seed: int,
    blank: bool,
    progress: ProgressCallback | None,
) -> tuple[list[Row], dict[int, ObjectMask]]:
    """Rows, and by object the masks of the step that the page shows."""
    case = item.case
    reference = read_reference(case)
    dialogues = protocol.dialogues(reference, parts, case_seed(seed, case.case_id))
    image: MetaTensor | None = None
    rows: list[Row] = []
    masks: dict[int, ObjectMask] = {}
    shown = shown_step(protocol, [step for one in dialogues for step in one.steps])
    failure = ""
    try:
        image = read_case_image(case)
        options = EncodeOptions(window=case_window(case), modality=_modality(image, case))
        if blank:
            image = _blank(image, options.modality)
    except Exception as error:
        failure = _failure(error)
        logger.warning("case %s: %s", case.case_id, failure)
    for dialogue in dialogues:
        if image is None:
            rows += [_failed(item, one, step, failure) for one in dialogue.objects for step in dialogue.steps]
        else:
            rows += _hold(dialogue, Trial(model, image, options, progress), item, shown, masks)
    return list(protocol.settled(tuple(rows))), masks


def _hold(dialogue: Dialogue, trial: Trial, item: _Checked, shown: str, masks: dict[int, ObjectMask]) -> list[Row]:
    """The rows of one dialogue; a step without an answer is scored 0 with the reason. Adds shown ones to ``masks``."""
    rows: list[Row] = []
    failure = ""
    try:
        with trial:
            for answer in dialogue.answers(trial):
                rows.append(_row(item, answer))
                if answer.step == shown:
                    masks[answer.item.object_id] = answer.mask
    except Cancelled:
        raise
    except Exception as error:
        failure = _failure(error)
        logger.warning("case %s: %s: %s", item.case.case_id, ", ".join(o.name for o in dialogue.objects), failure)
        logger.debug("", exc_info=True)
    found = {(row.object, row.step) for row in rows}
    missing = [(one, step) for one in dialogue.objects for step in dialogue.steps if (one.object_id, step) not in found]
    return rows + [_failed(item, one, step, failure or "the protocol gave no answer") for one, step in missing]


def _row(item: _Checked, answer: Answer) -> Row:
    truth, axis = answer.item.truth, acquisition_axis(answer.item.truth.grid)
    past = slices_past_ends(answer.mask, truth, axis)
    last = answer.prompts[-1] if answer.prompts else None
    overlap, f1 = dice(answer.mask, truth), math.nan
    if answer.item.instances:
        f1, overlap = instance_scores(answer.mask.full(), answer.item.instances)
    return replace(
        _failed(item, answer.item, answer.step, ""),
        prompt="" if last is None else f"{'+' if last.positive else '-'}{last.kind}",
        prompts=len(answer.prompts),
        dice=overlap,
        f1=f1,
        nsd=surface_dice(answer.mask, truth),
        dice_in_extent=dice(within_extent(answer.mask, truth, axis), truth),
        slices_past_end=math.nan if past is None else past,
        answer_ml=answer.mask.volume_ml,
        seconds=answer.cost.seconds,
        peak_mib=answer.cost.peak_mib,
        gpu_peak_mib=answer.cost.gpu_peak_mib,
    )


def _failed(item: _Checked, target: ReferenceObject, step: str, error: str) -> Row:
    """A row with scores of 0."""
    case = item.case
    modality = "" if case.modality is None else str(case.modality)
    return Row(case.case_id, case.group, modality, target.object_id, target.name, step, error=error,
               truth_ml=target.truth.volume_ml, data_sha256=item.sha256)  # fmt: skip


def _failure(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _modality(image: MetaTensor, case: EvaluationCase) -> Modality | None:
    """Said by the case or the image; else guessed from the image as it is, which a blank one would not allow."""
    from volseg.transforms.windows import guess_modality

    return case.modality or guess_modality(image)[0]


def _blank(image: MetaTensor, modality: Modality | None) -> MetaTensor:
    import torch
    from monai.data import MetaTensor

    value = BLANK_CT_HU if modality is Modality.CT else 0
    return MetaTensor(torch.full_like(image.as_tensor(), value), affine=image.affine, meta=image.meta)


def _cancelling(progress: ProgressCallback | None, fraction: float) -> ProgressCallback | None:
    """A callback for models, which may cancel and does not move the bar."""
    return None if progress is None else lambda _, text: progress(fraction, text)


def _write(path: Path, text: str) -> None:
    from volseg.data import atomic_path

    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")
