"""The other commands, the start-up, and interrupts, in processes of their own where that matters."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest

from volseg.cli import choices
from volseg.cli.exit_codes import ExitCode, exit_code_of
from volseg.data.labelmap import OverlapPolicy
from volseg.data.modality import Modality
from volseg.errors import Cancelled, MissingExtraError, UntrustedBundleError, VolsegError, WindowError
from volseg.geometry import Frame, Plane

HEAVY = ("torch", "monai", "numpy", "scipy", "skimage", "matplotlib", "SimpleITK", "nibabel", "pydicom", "transformers")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from volseg.cli import main\n"
        "sys.argv = ['volseg', '--help']\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "segment" in done.stdout


def test_choices_are_those_of_the_enumerations():
    assert set(choices.FRAMES) == set(Frame)
    assert set(choices.PLANES) == set(Plane)
    assert set(choices.MODALITIES) == set(Modality)
    assert set(choices.OVERLAPS) == set(OverlapPolicy)
    assert choices.FRAMES[0] == Frame.RAS
    assert choices.OVERLAPS[0] == OverlapPolicy.LAST_WINS


def test_exit_codes():
    assert [code.value for code in ExitCode] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130]
    for error, code in (
        (Cancelled("x"), ExitCode.CANCELLED),
        (MissingExtraError("x"), ExitCode.MISSING_EXTRA),
        (UntrustedBundleError("x"), ExitCode.MODEL),
        (WindowError("x"), ExitCode.USAGE),
        (VolsegError("x"), ExitCode.FAILED),
    ):
        assert exit_code_of(error) is code


def test_info(run, image_path, tmp_path):
    data = json.loads(run("info", image_path, "--json").stdout)
    assert data["shape"] == [12, 10, 8]
    assert data["axcodes"] == "RAS"
    assert "12 x 10 x 8" in run("info", image_path, "--values").stdout
    done = run("info", tmp_path / "missing.nii.gz")
    assert done.exit_code == ExitCode.IMAGE
    assert len(done.stderr.strip().splitlines()) == 1


def test_models_list(run):
    names = [card["name"] for card in json.loads(run("models", "list", "--json").stdout)["models"]]
    assert "random-walker" in names
    assert "random-walker" in run("models", "list").stdout


def test_version(run):
    assert run("--version").stdout.startswith("volseg ")


def test_debug_shows_the_traceback(run, tmp_path):
    done = run("--debug", "info", tmp_path / "missing.nii.gz")
    assert "Traceback" in done.stderr
    assert done.exit_code == ExitCode.IMAGE


def test_demo_without_samples_names_the_extra(run, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run("demo", "-o", tmp_path / "demo")
    assert done.exit_code == ExitCode.MISSING_EXTRA
    assert "pip install volseg[samples]" in done.stderr
    assert not (tmp_path / "demo").exists()


def test_demo_segments_and_draws(run, tmp_path, model):
    from importlib.util import find_spec

    if find_spec("TPTBox") is None or find_spec("nilearn") is None:
        pytest.skip("needs TPTBox and nilearn, whose samples the demo segments")
    done = run("demo", "-o", tmp_path / "demo", "--json")
    assert done.exit_code == 0, done.stderr
    cases = json.loads(done.stdout)["cases"]
    # This test's model fills the box, so Dice follows from the volumes alone: 2 truth / (truth + box).
    *vertebrae, brain = cases
    for case, truth_ml in zip(vertebrae, (59.7, 53.2), strict=True):
        assert case["dice"] == pytest.approx(2 * truth_ml / (truth_ml + case["ml"]), abs=0.01)
        assert case["ml"] > 150
    assert brain["dice"] is None
    assert brain["ml"] == pytest.approx(25 * 33 * 23 / 1000, rel=0.1)
    found = {path.name for path in (tmp_path / "demo").iterdir()}
    assert found == {f"{name}.{end}" for name in ("ct", "mr", "brain") for end in ("png", "nii.gz")}


SLOW_MODEL = """
import sys, time
sys.path.insert(0, 'tests')
from region_model import RegionModel
import volseg.models.registry as registry
class Slow(RegionModel):
    def _segment(self, *arguments, **options):
        print('computing', flush=True)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
        raise ValueError('a library that hides the interrupt')
registry.load_model = lambda name, **options: Slow()
from volseg.cli import main
sys.argv = ['volseg', *sys.argv[1:]]
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_leaves_nothing(image_path, tmp_path, repository):
    """Also where a library swallows the interrupt and fails with something else."""
    command = [sys.executable, "-c", SLOW_MODEL, "segment", str(image_path), "-o",
               str(tmp_path / "out.nii.gz"), "--point=-18,34,409", "--overlay", str(tmp_path / "o.png")]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=repository, start_new_session=True,
        # Jobs that a shell put into the background inherit that they ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout.readline() == "computing\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == ExitCode.CANCELLED, errors
    assert errors.strip() == "error: cancelled; nothing was written"
    assert [path.name for path in tmp_path.iterdir()] == ["ct.nii.gz"]


def test_the_installed_command_with_the_baseline(image_path, tmp_path):
    """End to end, in a process of its own: a real model, a terminal-less stdout, no output but the JSON."""
    command = [sys.executable, "-c", "from volseg.cli import main; main()", "segment", str(image_path), "-o",
               str(tmp_path / "out.nii.gz"), "--model", "random-walker", "--box", "-20,30,403,-15,40,418",
               "--window", "0,200", "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    labels = np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
    assert json.loads(done.stdout)["objects"][0]["voxels"] == (labels == 1).sum() >= 12
    assert not labels[np.asarray(nibabel.load(image_path).dataobj) == 0].any(), "only the block is labelled"
