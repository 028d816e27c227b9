"""Results, failures by name, and what is done again."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from batch_cases import BAD, SIZES, label_arrays, make_bad, make_case, make_good, phantom, points, sidecars
from batch_models import ByItselfModel, NamesModel, TroubleModel
from region_model import RegionModel

from volseg.batch import FindSettings, InlineExecutor, ModelChoice, OutputFormat, Status
from volseg.batch.executor import Lost
from volseg.batch.memory import WORKER_BYTES
from volseg.batch.plan import State
from volseg.batch.record import CaseRecord, read_record, sidecar_path
from volseg.batch.run import run_batch
from volseg.data import read_labelmap, write_labelmap
from volseg.errors import CapabilityError, PromptError
from volseg.models.options import EncodeOptions


@pytest.fixture
def inputs(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "out"


def test_every_format_gives_the_blocks(inputs, output, run):
    make_good(inputs, 4)
    summary = run()
    assert [record.status for record in summary.records] == [Status.DONE] * 4
    arrays = label_arrays(output)
    assert len(arrays) == 4
    for array in arrays.values():
        assert {value: int((array == value).sum()) for value in (1, 2)} == SIZES
    expected = phantom().array
    np.testing.assert_array_equal(arrays["case000"], (expected == 100) * 1 + (expected == 200) * 2)
    read = read_labelmap(output / "case000_seg.nii.gz")
    assert [label.name for label in read.labels] == ["first", "second"]


def test_sidecars_tell_what_was_done(inputs, output, run):
    make_good(inputs, 1)
    run(encode=EncodeOptions(window="0,300"))
    side = sidecars(output)["case000"]
    assert side["status"] == "done"
    assert side["options"]["window"] == "0,300"
    assert side["shape"] == [12, 10, 8]
    assert side["prompts"] == ["point"]
    assert side["identity"]["model"] == "region 1"
    assert len(side["identity"]["image_sha256"]) == 64
    assert set(side["seconds"]) == {"read", "compute", "write"}
    assert side["peak_memory_bytes"] > 0
    assert {"python", "torch", "volseg"} <= set(side["versions"])
    assert side["outputs"][0]["name"] == "case000_seg.nii.gz"
    assert json.loads(json.dumps(CaseRecord.from_json(side).to_json())) == side


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": "volseg.batch.case", "version": 1}'])
def test_a_damaged_sidecar_is_no_sidecar(tmp_path, text):
    sidecar_path(tmp_path, "a").parent.mkdir()
    sidecar_path(tmp_path, "a").write_text(text)
    assert read_record(tmp_path, "a") is None


def test_bad_cases_fail_by_name_and_the_others_do_not(inputs, output, run):
    make_good(inputs, 2)
    expected = make_bad(inputs)
    summary = run()
    assert len(summary.done) == 2
    kinds = sorted(str(record.error.kind) for record in summary.failed)
    assert kinds == sorted(expected.values())
    by_name = {record.case_id: record.error for record in summary.failed}
    for name, (kind, _, error) in BAD.items():
        if kind != "dicom":
            assert str(by_name[name].kind) == error
            assert not by_name[name].message.startswith(f"{name}: ")  # the record says whose it is
    assert len(label_arrays(output)) == 2
    assert not list(output.rglob(".volseg-partial-*"))


@pytest.mark.parametrize(
    ("trouble", "kind"), [("memory", "out-of-memory"), ("cuda memory", "out-of-memory"), ("bug", "other")]
)
def test_a_model_that_fails_is_reported(inputs, run, trouble, kind):
    make_case(inputs, "Doe", ".nii.gz", prompts=points(trouble))
    (record,) = run().failed
    assert (str(record.error.kind), str(record.error.stage)) == (kind, "compute")


def test_finished_cases_are_not_done_again(inputs, output, run):
    make_good(inputs, 2, (".nii.gz",))
    make_bad(inputs, ["garbage-mha", "not-json"])  # found out by a worker, and by the plan
    run()
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    model = TroubleModel()
    summary = run(model)
    assert model.computed == []
    assert summary.computed == ()
    assert (len(summary.done), len(summary.failed)) == (2, 2)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == before


def change_image(inputs, output):
    make_case(inputs, "case000", ".nii.gz", 55)


def change_prompts(inputs, output):
    (inputs / "case000.json").write_text(points(first="renamed").dumps())


def remove_result(inputs, output):
    (output / "case000_seg.nii.gz").unlink()


def tamper_with_result(inputs, output):
    path = output / "case000_seg.nii.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def damage_sidecar(inputs, output):
    path = sidecar_path(output, "case000")
    path.write_text(path.read_text()[:-20])


CHANGES = {
    "image changed": change_image,
    "prompts changed": change_prompts,
    "nifti is missing": remove_result,
    "nifti was changed": tamper_with_result,
    "new": damage_sidecar,
}


@pytest.mark.parametrize("reason", CHANGES)
def test_what_changed_is_done_again(inputs, output, run, plan_of, reason):
    make_good(inputs, 2, (".nii.gz",))
    run()
    CHANGES[reason](inputs, output)
    (planned,) = plan_of().of(State.TODO)
    assert (planned.case.case_id, planned.reason) == ("case000", reason)
    model = TroubleModel()
    summary = run(model)
    assert len(model.computed) == 2  # two objects of one case
    assert len(summary.done) == 2
    assert plan_of().of(State.TODO) == ()


def test_other_options_and_other_models_do_all_again(inputs, run, plan_of):
    make_good(inputs, 2, (".nii.gz",))
    run()
    assert {item.reason for item in plan_of(encode=EncodeOptions(window="0,10")).of(State.TODO)} == {"options changed"}
    assert {item.reason for item in plan_of(RegionModel(version="2")).of(State.TODO)} == {"model changed"}
    assert {item.state for item in plan_of().cases} == {State.DONE}


def test_failed_cases_are_tried_again_only_when_asked_or_changed(inputs, output, run, plan_of):
    make_good(inputs, 1, (".nii.gz",))
    make_bad(inputs, ["garbage-mha"])
    run()
    assert len(plan_of().of(State.FAILED)) == 1
    assert [item.reason for item in plan_of(retry_failed=True).of(State.TODO)] == ["failed before"]
    make_case(inputs, "garbage-mha", ".mha")
    assert len(run().done) == 2


def test_a_failed_case_leaves_no_earlier_result(inputs, output, run):
    path = make_case(inputs, "a", ".nii.gz")
    run()
    assert (output / "a_seg.nii.gz").exists()
    path.write_bytes(b"garbage")
    run()
    assert not (output / "a_seg.nii.gz").exists()


def test_a_case_that_does_not_fit_fails_by_name_before_it_is_read(inputs, run, plan_of):
    make_good(inputs, 1, (".nii.gz",))
    voxels = np.zeros((60, 60, 60), np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), inputs / "large.nii")
    (inputs / "large.json").write_text((inputs / "case000.json").read_text())
    budget = WORKER_BYTES + 1_000_000
    summary = run(budget=budget)
    (failed,) = summary.failed
    assert (failed.case_id, str(failed.error.kind), failed.seconds) == ("large", "too-large", {})
    assert "--memory-gb" in failed.error.message
    # With more memory it is tried, without --retry-failed; the prompts lie outside, which is another error.
    assert [item.case.case_id for item in plan_of().of(State.TODO)] == ["large"]


def test_cases_wait_for_memory(inputs, run, monkeypatch):
    """Three cases of which two do not fit together: never more than one is in flight."""
    make_good(inputs, 3, (".nii.gz",))
    size = 960 * (2 + 10)
    seen = []
    from volseg.batch.inline import InlineExecutor

    submit = InlineExecutor.submit
    monkeypatch.setattr(
        InlineExecutor, "submit", lambda self, task: (submit(self, task), seen.append(self._in_flight))[0]
    )
    assert len(run(budget=WORKER_BYTES + int(1.5 * size)).done) == 3
    assert seen == [1, 1, 1]
    seen.clear()
    run(budget=WORKER_BYTES + 10 * size, encode=EncodeOptions(window="1,2"))
    assert max(seen) == 3


def test_a_model_that_needs_no_prompts(inputs, output, run):
    path = make_case(inputs, "a", ".nii.gz")
    path.with_name("a.json").unlink()
    (record,) = run(ByItselfModel()).done
    made = read_labelmap(output / "a_seg.nii.gz")
    assert [(label.value, label.name, label.presence) for label in made.labels] == [(7, "block", 0.9)]
    assert int((made.array == 7).sum()) == SIZES[1]
    assert record.prompts == ()


def test_a_model_that_knows_its_structures_by_name(inputs, output, run):
    path = make_case(inputs, "a", ".nii.gz")
    path.with_name("a.json").unlink()
    run(NamesModel())
    made = read_labelmap(output / "a_seg.nii.gz")
    assert {label.name: int((made.array == label.value).sum()) for label in made.labels} == {
        "low block": SIZES[1],
        "high block": SIZES[2],
    }
    run(NamesModel(), settings=FindSettings(texts=("high block",)))
    made = read_labelmap(output / "a_seg.nii.gz")
    assert [label.name for label in made.labels] == ["high block"]


def test_cases_without_prompts(inputs, run, plan_of):
    make_case(inputs, "a", ".nii.gz").with_name("a.json").unlink()
    assert [item.state for item in plan_of().cases] == [State.REFUSED]
    with pytest.raises(PromptError, match="nothing is said about any of the 1 cases"):
        run()
    make_case(inputs, "b", ".nii.gz")
    (failed,) = run().failed
    assert (failed.case_id, str(failed.error.kind)) == ("a", "prompt")


def test_prompts_that_the_model_does_not_take_are_said_before_anything_runs(inputs, output, run, plan_of):
    make_case(inputs, "a", ".nii.gz")
    with pytest.raises(CapabilityError, match="names takes no positive point"):
        run(NamesModel())
    assert not output.exists()
    (inputs / "b.json").write_text(
        '{"schema": "volseg.prompts", "version": 1, "objects": [{"prompts": [{"type": "text", "text": "low block"}]}]}'
    )
    make_good(inputs, 1, (".nii.gz",))
    (inputs / "case000.json").rename(inputs / "a.json")
    (inputs / "b.json").rename(inputs / "case000.json")
    assert {item.case.case_id: item.state for item in plan_of(NamesModel()).cases} == {
        "a": State.REFUSED,
        "case000": State.TODO,
    }


@pytest.mark.parametrize("ending", ["nii.gz", "seg.nrrd"])
def test_a_label_map_as_prompts(inputs, output, run, ending):
    """Its objects become rough masks with their numbers and names."""
    path = make_case(inputs, "a", ".nii.gz")
    run()
    (result,) = output.glob("a_seg.nii.gz")
    said = inputs.parent / "said"
    said.mkdir()
    write_labelmap(read_labelmap(result), said / f"a.{ending}")
    path.with_name("a.json").unlink()
    before = label_arrays(output)["a"]
    (record,) = run(settings=FindSettings(prompts_folder=said)).done
    assert record.prompts == ("mask",)
    np.testing.assert_array_equal(label_arrays(output)["a"], before)


def test_formats_that_an_image_cannot_have(inputs, output, run):
    make_case(inputs, "a", ".nii.gz")
    (failed,) = run(formats=(OutputFormat.RTSTRUCT,)).failed
    assert str(failed.error.kind) == "output"
    assert run(formats=(OutputFormat.RTSTRUCT, OutputFormat.SEG_NRRD)).done
    assert [path.name for path in output.iterdir() if path.is_file()] == ["a_seg.seg.nrrd"]


def test_unfinished_files_of_a_killed_run_are_removed(inputs, output, run):
    make_good(inputs, 1, (".nii.gz",))
    output.mkdir()
    (output / "cases").mkdir()
    mine = [
        output / ".volseg-partial-0123456789ab-case000_seg.nii.gz",
        output / "cases" / ".volseg-partial-0-case000.json",
    ]
    other = output / ".volseg-partial-0123456789ab-another_seg.nii.gz"
    for path in (*mine, other):
        path.write_bytes(b"half")
    run()
    assert [path.exists() for path in (*mine, other)] == [False, False, True]


def test_unfinished_files_of_a_worker_that_died_in_this_run_are_removed(inputs, output, plan_of):
    """The worker dies while it writes; the case is done in another one, under other temporary names."""
    make_good(inputs, 1, (".nii.gz",))
    half = output / ".volseg-partial-0123456789ab-case000_seg.nii.gz"

    class DyingOnce(InlineExecutor):
        dead: tuple[Lost, ...] = ()

        def submit(self, task):
            if task.attempt > 1:
                super().submit(task)
                return
            half.write_bytes(b"half")
            self.dead = (Lost(task.case.case_id, "was ended"),)

        def poll(self, timeout_s):
            events, self.dead = self.dead, ()
            return events or super().poll(timeout_s)

    model = TroubleModel()
    summary = run_batch(plan_of(model), DyingOnce(model), ModelChoice("given"))
    assert (len(summary.done), summary.restarts, summary.done[0].attempts) == (1, 1, 2)
    assert not half.exists()


def test_the_plan_of_a_second_run_knows_how_long_cases_take(inputs, run, plan_of):
    make_good(inputs, 1, (".nii.gz",))
    assert plan_of().seconds is None
    run()
    make_case(inputs, "more", ".nii.gz", 5)
    planned = plan_of()
    assert planned.seconds > 0
    data = json.loads(json.dumps(planned.to_json()))
    assert data["states"] == {"done before": 1, "to do": 1}
    assert [item["shape"] for item in data["cases"]] == [[12, 10, 8]] * 2


def test_the_report(inputs, run):
    make_good(inputs, 2, (".nii.gz",))
    make_bad(inputs, ["empty-nrrd"])
    data = json.loads(json.dumps(run().to_json()))
    assert (data["done"], data["failed"], data["errors"]) == (2, 1, {"image": 1})
    assert 0 < data["compute_busy_part"] <= 1
    assert {item["id"]: item["status"] for item in data["results"]} == {
        "case000": "done",
        "case001": "done",
        "empty-nrrd": "failed",
    }
