"""Every kind of bad file, given on the command line: a fixed exit code, one sentence, no traceback, no output."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_files import BAD

from volseg.cli.exit_codes import ExitCode


def test_there_are_at_least_twelve_kinds() -> None:
    assert len(BAD) >= 12


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_sentence_and_no_output(kind: str, run, tmp_path: Path) -> None:
    make, _ = BAD[kind]
    (tmp_path / "in").mkdir()
    image = make(tmp_path / "in")
    output, overlay = tmp_path / "out.nii.gz", tmp_path / "out.png"
    result = run("segment", str(image), "-o", str(output), "--point", "0,0,0", "--overlay", str(overlay))
    assert result.exit_code == ExitCode.IMAGE
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
