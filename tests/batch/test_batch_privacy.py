"""Planted patient names and numbers come out nowhere: no log, report, sidecar, page, table or file name."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from batch_cases import _damaged_slice, _garbage, _short_slice, _truncated, _without_a_slice, make_case, points
from batch_models import TroubleModel
from typer.testing import CliRunner

from volseg.batch import Case, FileSource, OutputFormat, SeriesSource
from volseg.batch.options import NEEDS_DICOM
from volseg.batch.privacy import private_message
from volseg.batch.summary import write_report
from volseg.cli import app

# PatientName and PatientID are those that ``write_series`` puts into every slice.
PLANTED = re.compile(r"(?<![a-z])doe(?![a-z])|jane|(?<![0-9a-f])4711(?![0-9a-f])|kowalski|77812", re.IGNORECASE)


@pytest.fixture
def archive(tmp_path) -> Path:
    """Folders and files named after patients, some of them damaged in every way."""
    folder = tmp_path / "in"
    spoilt = (None, _without_a_slice, _damaged_slice, _short_slice)
    for number, spoil in enumerate(spoilt):
        home = folder / "Kowalski^Anna" / f"K-77812 {number}"
        home.mkdir(parents=True)
        path = make_case(home, "Doe Jane CT", "dicom", number)
        if spoil is not None:
            spoil(path)
    for number, (kind, spoil) in enumerate(((".nii.gz", _truncated), (".mha", _garbage), (".nrrd", _garbage))):
        home = folder / "Doe_Jane" / f"4711-{number}"
        home.mkdir(parents=True)
        spoil(make_case(home, "Kowalski", kind, 50 + number))
    home = folder / "doe"
    home.mkdir()
    make_case(home, "image", ".nii.gz", 77, points("bug"))
    make_case(home, "ct", ".nii.gz", 78)
    (home / "ct.json").write_text('{"schema": "other", "patient": "Doe"}')
    return folder


def everything_written(output: Path) -> str:
    """Names of all files, and the content of those that are not DICOM objects, which copy the patient by standard."""
    texts = [str(path.relative_to(output)) for path in output.rglob("*")]
    for path in output.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".csv", ".html"):
            texts.append(path.read_bytes().decode("latin-1"))
        elif path.name.endswith(".nii.gz"):
            import gzip

            texts.append(gzip.decompress(path.read_bytes()).decode("latin-1"))
    return "\n".join(texts)


def test_planted_names_are_nowhere(archive, tmp_path, plan_of, run, caplog, capfd):
    from volseg.batch import FindSettings

    formats = tuple(item for item in OutputFormat if item not in NEEDS_DICOM)
    with caplog.at_level("DEBUG"):
        summary = run(TroubleModel(), formats=formats, settings=FindSettings())
    output = tmp_path / "out"
    write_report(summary, output / "run.json")
    assert (len(summary.done), len(summary.failed)) == (1, 8)
    said = everything_written(output) + "".join(capfd.readouterr())
    said += "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("volseg"))
    found = PLANTED.search(said)
    assert found is None, said[max(0, found.start() - 200) : found.end() + 200]
    # The messages still say what is wrong.
    messages = " ".join(record.error.message for record in summary.failed)
    for word in ("truncated", "slice", "not a MetaImage", "schema"):
        assert word in messages
    assert (output / "index.html").is_file()
    assert len(list(output.glob("*_overlay.png"))) == 1


def test_the_command_says_no_names_either(archive, tmp_path):
    out = tmp_path / "out"
    arguments = ["batch", str(archive), "-o", str(out), "--dry-run", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert PLANTED.search(result.output) is None
    assert not out.exists()
    missing = CliRunner().invoke(app, ["batch", str(archive / "Doe^Jane"), "-o", str(out)])
    assert missing.exit_code == 3
    assert PLANTED.search(missing.output) is None


def test_the_mapping_is_written_only_when_asked_for(archive, tmp_path):
    mapping = tmp_path / "private.csv"
    arguments = ["batch", str(archive), "-o", str(tmp_path / "out"), "--dry-run", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--write-mapping", str(mapping)])
    assert result.exit_code == 0, result.output
    with mapping.open() as stream:
        rows = list(csv.DictReader(stream))
    ids = {item["id"] for item in json.loads(result.stdout)["cases"]}
    assert {row["id"] for row in rows} == ids
    # It is a list of the same cases with the same prompts.
    again = CliRunner().invoke(app, ["batch", str(mapping), *arguments[2:]])
    assert again.exit_code == 0, again.output
    planned = [json.loads(said.stdout)["cases"] for said in (result, again)]
    assert planned[0] == planned[1]
    assert PLANTED.search(mapping.read_text())
    assert mapping.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/Doe^Jane/CT/0001.dcm: truncated", "truncated"),
        ("in /data/Doe^Jane/CT: 2 series", "in dicom-1: 2 series"),
        ("cannot decode 0001.dcm", "cannot decode (withheld)"),
        ("Doe^Jane is no valid PN", "(withheld) is no valid PN"),
        ("the slices of DOE are 3 mm apart", "the slices of (withheld) are 3 mm apart"),
        ("/data/Doe^Jane/CT/other file.dcm", "dicom-1 file.dcm"),
    ],
)
def test_messages_are_cleaned(text, expected):
    folder = Path("/data/Doe^Jane/CT")
    case = Case("dicom-1", SeriesSource(folder, (folder / "0001.dcm",), "1.2.3", "CT", (2, 2, 1), 16))
    assert private_message(text, case) == expected


def test_plain_words_of_folders_stay_readable():
    case = Case("ct", FileSource(Path("/data/images/ct.nii.gz")))
    assert private_message("/data/images/ct.nii.gz: the data of the image is truncated", case) == (
        "the data of the image is truncated"
    )
