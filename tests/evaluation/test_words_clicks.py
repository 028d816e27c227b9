"""The protocol that compares clicks after words with clicks alone."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.conftest import save
from tests.models.test_text_query_model import text_model
from tests.region_model import RegionModel, blocks_image
from volseg.evaluation.cases import EvaluationCase, ObjectSpec
from volseg.evaluation.protocols import find_protocol
from volseg.evaluation.run import evaluate
from volseg.models.text_then_clicks import TextThenClicks


def test_words_then_clicks_beside_clicks_alone(tmp_path: Path) -> None:
    """The words find the right block alone; of the union of both the clicks add the other one."""
    image = blocks_image(spacing_mm=(1.0, 1.0, 1.0))
    values, affine = image[0].numpy(), image.affine.numpy()
    shown = save(values, tmp_path / "image.nii.gz", affine)
    truth = save((values > 0).astype(np.uint8), tmp_path / "label.nii.gz", affine)
    case = EvaluationCase("a", shown, truth, None, "g", (ObjectSpec("right kidney", (1,)),))
    model = TextThenClicks(text_model(), RegionModel())
    evaluate(model, (case,), find_protocol("words-clicks"), tmp_path / "scores")
    with (tmp_path / "scores" / "scores.csv").open() as file:
        dice = {row["step"]: float(row["dice"]) for row in csv.DictReader(file)}
    assert list(dice) == [
        "1 click",
        "2 clicks",
        "3 clicks",
        "words",
        "words, 1 click",
        "words, 2 clicks",
        "words, 3 clicks",
    ]
    small, large = int((values == 100).sum()), int((values == 200).sum())
    assert dice["words"] == pytest.approx(2 * large / (2 * large + small), abs=1e-4)
    assert dice["words, 1 click"] == dice["words, 3 clicks"] == 1
    assert dice["3 clicks"] == 1
    assert dice["1 click"] < 1
