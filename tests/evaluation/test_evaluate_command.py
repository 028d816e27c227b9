"""``volseg evaluate`` from files to scores, with a model whose answers are known."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest

from volseg.cli.exit_codes import ExitCode
from volseg.evaluation.cases import find_cases
from volseg.evaluation.protocols import find_protocol
from volseg.evaluation.run import evaluate
from volseg.models.baselines import load_baseline


def _rows(folder):
    with (folder / "scores.csv").open() as file:
        return list(csv.DictReader(file))


def _save(array, path, affine):
    import nibabel

    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def test_scores_of_a_model_that_is_right(run, cases, tmp_path):
    folder = tmp_path / "scores"
    result = run("evaluate", "--model", "region", "--cases", cases, "--parts", "click,mask,box3d", "-o", folder)
    assert result.exit_code == 0, result.output
    rows = _rows(folder)
    assert len(rows) == 3 * 2 * 3
    for row in rows:
        assert (float(row["dice"]), float(row["nsd"]), float(row["slices_past_end"])) == (1, 1, 0), row
        assert float(row["seconds"]) > 0
        assert float(row["peak_mib"]) > 1
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["model"], summary["protocol"], summary["protocol_version"], summary["seed"]) == (
        "region", "static", 1, 0)  # fmt: skip
    assert list(summary["groups"]) == ["x", "y", "all"]
    assert summary["groups"]["x"]["steps"]["click"]["dice"] == {"mean": 1, "low": 1, "high": 1, "n": 2}
    assert len(summary["data_sha256"]) == 64
    page = (folder / "index.html").read_text()
    assert page.count("data:image/png;base64,") >= 1
    assert "http" not in page.replace("http-equiv", "")


def test_a_run_goes_on_where_it_was(run, model, cases, blocks, tmp_path):
    folder = tmp_path / "scores"
    base = ("evaluate", "--model", "region", "--cases", cases, "--parts", "click", "-o", folder)
    assert run(*base, "--limit", 2).exit_code == 0
    assert [row["case"] for row in _rows(folder)] == ["a", "a", "c", "c"]  # one of each group
    asked = len(model.computed)
    assert run(*base).exit_code == 0
    assert len(model.computed) == asked + 2
    assert len(_rows(folder)) == 6
    _save(blocks[1].astype(np.int16), tmp_path / "labels/b.nii.gz", blocks[2])
    assert run(*base).exit_code == 0
    assert len(model.computed) == asked + 4  # only the case whose file changed
    other = run(*base, "--seed", 1)
    assert other.exit_code == ExitCode.FAILED
    assert "seed 0, now 1" in other.stderr
    assert len(_rows(folder)) == 6


def test_a_failing_case_is_scored_0_and_named(run, model, cases, tmp_path, monkeypatch):
    encode = model.encode

    def failing(image, options=None, progress=None):
        if len(model.encodings) == 2:
            model.encodings.append(None)
            raise MemoryError("too large")
        return encode(image, options, progress)

    monkeypatch.setattr(model, "encode", failing)
    folder = tmp_path / "scores"
    result = run("evaluate", "--model", "region", "--cases", cases, "--parts", "click", "-o", folder)
    assert result.exit_code == 0
    failed = [row for row in _rows(folder) if row["error"]]
    assert [(row["case"], row["object"], float(row["dice"])) for row in failed] == [("b", "1", 0.0)]
    assert "case b: object 1, click: MemoryError: too large" in result.stderr
    assert "MemoryError: too large" in (folder / "index.html").read_text()
    assert json.loads((folder / "summary.json").read_text())["groups"]["x"]["steps"]["click"]["dice"]["mean"] == 0.75


def test_a_blank_image_is_constant(run, model, cases, tmp_path):
    base = ("evaluate", "--model", "region", "--cases", cases, "--parts", "click", "--limit", 1)
    assert run(*base, "-o", tmp_path / "blank", "--blank").exit_code == 0
    values = model.encodings[-1].image
    assert values.min() == values.max() == 40
    assert all(float(row["dice"]) < 0.5 for row in _rows(tmp_path / "blank"))
    assert run(*base, "-o", tmp_path / "seen").exit_code == 0
    compared = run("evaluate", "compare", tmp_path / "blank", tmp_path / "seen", "--json")
    (found,) = [d for d in json.loads(compared.stdout)["differences"] if (d["group"], d["score"]) == ("x", "dice")]
    assert found["second"] == 1
    assert found["difference"]["mean"] == pytest.approx(1 - found["first"], abs=1e-4)


def test_the_interactive_challenge(run, cases, tmp_path):
    """The region model answers a 3D box by filling it: here exactly the object, or enlarged by the seeded draw of 0."""
    folder = tmp_path / "scores"
    result = run("evaluate", "--model", "region", "--cases", cases, "--protocol", "cvpr25-interactive", "-o", folder)
    assert result.exit_code == 0, result.output
    group = json.loads((folder / "summary.json").read_text())["groups"]["all"]
    assert list(group["steps"]) == ["box", *(f"click {n}" for n in range(1, 6))]
    assert group["curves"]["clicks"]["dsc_auc"]["mean"] == 4
    assert run("evaluate", "compare", folder, folder).exit_code == 0


def _wrong(kind, tmp_path, blocks):
    _, labels, affine = blocks
    moved = affine.copy()
    moved[0, 3] += 5
    match kind:
        case "another grid":
            _save(labels, tmp_path / "labels/b.nii.gz", moved)
        case "fractions":
            _save(labels * np.float32(0.3), tmp_path / "labels/b.nii.gz", affine)
        case "empty":
            _save(labels * 0, tmp_path / "labels/b.nii.gz", affine)
        case "no image":
            (tmp_path / "images/b.nii.gz").unlink()
        case "no cases":
            (tmp_path / "cases.csv").write_text("id,image,label,modality,group\n")
        case "modality":
            text = (tmp_path / "cases.csv").read_text()
            (tmp_path / "cases.csv").write_text(text.replace("b.nii.gz,CT", "b.nii.gz,XR"))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("another grid", "case b: image and label lie on different grids"),
        ("fractions", "case b: .*whole numbers"),
        ("empty", "case b: .*no voxel is labelled"),
        ("no image", "case 'b': there is no"),
        ("no cases", "holds no cases"),
        ("modality", "case 'b' has the modality 'XR'"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_runs(kind, said, run, model, cases, blocks, tmp_path):
    _wrong(kind, tmp_path, blocks)
    result = run("evaluate", "--model", "region", "--cases", cases, "-o", tmp_path / "scores")
    assert result.exit_code == ExitCode.FAILED
    assert re.search(said, result.stderr), result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not model.computed
    assert not (tmp_path / "scores").exists()


def test_a_protocol_that_the_model_does_not_serve_is_refused(run, cases, tmp_path):
    result = run("evaluate", "--model", "region", "--cases", cases, "--protocol", "cvpr25-text", "-o", tmp_path / "s")
    assert result.exit_code == ExitCode.MODEL
    assert "cvpr25-text" in result.stderr
    unknown = run("evaluate", "--model", "region", "--cases", cases, "--protocol", "mine", "-o", tmp_path / "s")
    assert "known are static, cvpr25-interactive, cvpr25-text, nninteractive-like" in unknown.stderr


def test_the_annotator_draws_the_same_with_the_same_seed(cases, tmp_path, model):
    first, again, other = (
        evaluate(model, find_cases(cases), find_protocol("nninteractive-like"), tmp_path / str(n), seed=seed)
        for n, seed in enumerate((1, 1, 2))
    )
    prompts = [[(row["prompt"], row["dice"]) for row in _rows(tmp_path / str(n))] for n in range(3)]
    assert first["failures"] == again["failures"] == other["failures"] == []
    assert prompts[0] == prompts[1] != prompts[2]


def test_the_ellipse_is_scored_on_what_it_serves(cases, tmp_path):
    summary = evaluate(load_baseline("ellipse"), find_cases(cases), find_protocol("static"), tmp_path / "scores")
    assert summary["not_served"] == ["box+clicks", "click", "mask"]
    # Copied through the image: slices of 8, of which the objects take 4.
    assert summary["groups"]["all"]["steps"]["box"]["slices_past_end"]["mean"] == 2
    assert summary["groups"]["all"]["steps"]["box3d"]["slices_past_end"]["mean"] == 0
