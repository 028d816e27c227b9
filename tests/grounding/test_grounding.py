"""Reports on a phantom whose structures are known."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
from region_model import RegionModel, blocks_image
from text_phantom import NameModel, phantom_image
from typer.testing import CliRunner

from volseg.cli import app
from volseg.cli.exit_codes import ExitCode
from volseg.data import read_labelmap
from volseg.errors import Cancelled, CapabilityError, PromptError
from volseg.geometry import all_orientations
from volseg.grounding.document import schema, to_json, to_labelmap
from volseg.grounding.ground import Status, ground_report
from volseg.grounding.page import draw_page

REPORT = """FINDINGS:
Liver: The largest cyst measures 12 x 9 mm. No suspicious metastasis.
Both kidneys are normal. The spleen is enlarged. Possible aneurysm of the aorta.
The aorta is absent. The SMA is patent. <script>alert("x")</script> & tolerated well.
"""


@pytest.fixture(scope="module")
def grounding():
    return ground_report(phantom_image(), REPORT, NameModel())


def by_meaning(grounding):
    return {item.finding.query.describe(): item for item in grounding.findings}


def test_findings_get_the_masks_of_what_they_name(grounding):
    found = by_meaning(grounding)
    assert {name: (item.status.value, item.mask.voxels) for name, item in found.items()} == {
        "largest liver cyst": ("found", 4 * 4 * 4),
        "metastasis in liver": ("not_offered", 0),
        "kidney": ("found", 6 * 4 * 6 + 6 * 5 * 4),
        "spleen": ("found", 8 * 8 * 8),
        "aortic aneurysm": ("not_offered", 0),
        "aorta": ("not_found", 0),
    }


def test_boxes_are_those_of_the_phantom(grounding):
    spleen = by_meaning(grounding)["spleen"]
    # i 6..13 at 2 mm from x = -47, j 8..15 at 2.5 mm from y = 10, k 8..15 at 3 mm from z = -300; whole voxels.
    assert spleen.box.low_ras_mm == (-47 + 6 * 2 - 1, 10 + 8 * 2.5 - 1.25, -300 + 8 * 3 - 1.5)
    assert spleen.box.high_ras_mm == (-47 + 13 * 2 + 1, 10 + 15 * 2.5 + 1.25, -300 + 15 * 3 + 1.5)
    assert spleen.oriented_box.size_mm == (24.0, 20.0, 16.0)
    assert spleen.key_slice.area_mm2 == 8 * 8 * 2 * 2.5
    assert spleen.presence == 0.9


def test_agreement_says_only_what_is_known(grounding):
    agrees = {name: item.agrees for name, item in by_meaning(grounding).items()}
    assert agrees["spleen"] is True
    assert agrees["aorta"] is True
    assert agrees["metastasis in liver"] is None
    assert agrees["aortic aneurysm"] is None
    contrary = ground_report(phantom_image(), "No spleen. Liver cyst is not seen. The aorta is normal.", NameModel())
    assert [item.agrees for item in contrary.findings] == [False, False, False]
    assert all(item.message for item in contrary.findings)


def test_each_concept_is_asked_for_once_by_the_models_own_name():
    model = NameModel()
    ground_report(phantom_image(), "The spleen is large. Spleen normal. Both kidneys are normal. Left kidney.", model)
    assert sorted(model.asked) == ["left kidney", "right kidney", "spleen"]


def test_a_model_without_a_table_is_asked_freely_and_may_refuse():
    model = NameModel(labelled=False)
    found = ground_report(phantom_image(), "Liver cyst. Spleen. Pancreas.", model).findings
    assert model.asked == ["liver cyst", "spleen", "pancreas"]
    assert [item.status for item in found] == [Status.FOUND, Status.FOUND, Status.NOT_OFFERED]
    assert "pancreas" in found[2].message


def test_appearances_are_carried_and_sent_on_request():
    model = NameModel(labelled=False)
    found = ground_report(phantom_image(), "A simple 12 mm cyst in the liver.", model, attributes=True).findings[0]
    assert model.asked == [found.attribute_prompt]
    assert found.attribute_prompt.startswith("liver cyst: simple, 12 mm; round")
    assert found.status is Status.FOUND
    plain = ground_report(phantom_image(), "A simple 12 mm cyst in the liver.", NameModel()).findings[0]
    assert plain.attribute_prompt == found.attribute_prompt


@pytest.mark.parametrize("axcodes", list(all_orientations())[::5])
def test_left_is_left_in_every_orientation(axcodes, grounding):
    text = "The left kidney is normal. The largest cyst in the liver."
    here = ground_report(phantom_image(), text, NameModel()).findings
    there = ground_report(phantom_image(axcodes), text, NameModel()).findings
    for a, b in zip(here, there, strict=True):
        assert a.mask.voxels == b.mask.voxels > 0
        np.testing.assert_allclose(a.box.low_ras_mm, b.box.low_ras_mm, atol=1e-3)
        np.testing.assert_allclose(a.mask.centroid_ras_mm(), b.mask.centroid_ras_mm(), atol=1e-6)
        np.testing.assert_allclose(sorted(a.oriented_box.size_mm), sorted(b.oriented_box.size_mm), atol=1e-2)
    assert here[0].mask.centroid_ras_mm()[0] < 0  # x runs to the right, so left is negative


def test_the_json_fits_its_schema(grounding):
    data = json.loads(json.dumps(to_json(grounding, "ab" * 32)))
    jsonschema.validate(data, schema())
    assert data["version"] == 1
    assert len(data["findings"]) == 6
    assert [problem["phrase"] for problem in data["report"]["problems"]] == ["SMA"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "version": 2}, schema())


def test_the_label_map_holds_every_finding(grounding):
    labelmap = to_labelmap(grounding)
    for item in grounding.findings:
        np.testing.assert_array_equal(labelmap.mask(item.mask.object_id), item.mask.full())


def test_the_page_stands_alone_and_runs_nothing(grounding):
    page = draw_page(phantom_image(), grounding, title="A <b> & c")
    assert page.count("data:image/png;base64,") == 3
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "A &lt;b&gt; &amp; c" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "src=" not in page.replace('src="data:image/png', "")
    assert 'href="#finding-1"' in page
    assert "SMA" in page
    for number in range(1, 7):
        assert f'id="finding-{number}"' in page


def test_a_model_without_words_and_a_report_without_findings_are_refused():
    with pytest.raises(CapabilityError, match="takes no words"):
        ground_report(blocks_image(), "Spleen.", RegionModel())
    with pytest.raises(PromptError, match="no structure or lesion"):
        ground_report(phantom_image(), "The patient is well.", NameModel())


def test_it_can_be_cancelled():
    with pytest.raises(Cancelled):
        ground_report(phantom_image(), "Spleen.", NameModel(), progress=lambda part, text: False)


@pytest.fixture
def files(tmp_path, monkeypatch):
    import nibabel

    image = phantom_image("LPS")
    nibabel.save(nibabel.Nifti1Image(image[0].numpy(), image.affine.numpy()), tmp_path / "ct.nii.gz")
    (tmp_path / "report.txt").write_text(REPORT)
    monkeypatch.setattr("volseg.models.registry.load_model", lambda name, **options: NameModel())
    return tmp_path


def run(folder, *arguments):
    return CliRunner().invoke(app, ["ground", str(folder / "ct.nii.gz"), *map(str, arguments)])


def test_the_command_writes_everything(files):
    out = files / "out"
    done = run(files, "--report", files / "report.txt", "-o", out, "--model", "any")
    assert done.exit_code == 0, done.output
    assert "SMA" in done.stderr
    data = json.loads((out / "findings.json").read_text())
    jsonschema.validate(data, schema())
    assert "largest liver cyst" in done.stdout
    labelmap = read_labelmap(out / "findings.seg.nrrd")
    spleen = next(item for item in data["findings"] if item["meaning"] == "spleen")
    assert int(labelmap.mask(spleen["label"]).sum()) == spleen["voxels"] == 512
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    again = run(files, "--report", files / "report.txt", "-o", out, "--model", "any", "--json")
    assert json.loads(again.stdout) == data


def test_the_command_refuses_what_cannot_be(files):
    report = files / "report.txt"
    (files / "latin.txt").write_bytes(b"N\xf6 liver")
    assert run(files, "--report", files / "none.txt", "-o", files / "out").exit_code == ExitCode.PROMPT
    assert run(files, "--report", files / "latin.txt", "-o", files / "out").exit_code == ExitCode.PROMPT
    assert run(files, "--report", report, "-o", report, "--model", "any").exit_code == ExitCode.OUTPUT
    assert run(files, "--report", report, "-o", files / "a" / "b", "--model", "any").exit_code == ExitCode.OUTPUT
    report.write_text("The patient is well.")
    assert run(files, "--report", report, "-o", files / "out", "--model", "any").exit_code == ExitCode.PROMPT
    assert not (files / "out").exists()
