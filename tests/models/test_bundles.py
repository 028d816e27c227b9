"""A bundle is data: what it says is checked, what it would run is listed, and nothing outside it is read."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from volseg.errors import LicenseError, ModelError, UntrustedBundleError
from volseg.inferers.slices.frames import Channels, FrameFormat
from volseg.inferers.slices.zoom import ZoomSettings
from volseg.models.bundles.folders import carried_folder
from volseg.models.bundles.load import load_bundle
from volseg.models.bundles.metadata import Identity, Origin, Sam2Bundle, Weights, settings_from_json
from volseg.models.bundles.trust import _is_harmless, foreign_code
from volseg.models.card import License
from volseg.models.registry import list_models, load_model, model_card
from volseg.networks.sam2 import Sam2Spec, Sam2Version

CARRIED = carried_folder() / "sam2_prompted_segmentation"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the carried bundle, so a bundle from outside."""
    return Path(shutil.copytree(CARRIED, tmp_path / "bundle"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "configs" / "metadata.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_copy_of_the_carried_bundle_loads(bundle: Path) -> None:
    assert foreign_code(bundle) == ()
    model = load_model(bundle, device="cpu")
    assert model.card == model_card("sam2-nano")


def test_loading_warns_of_weights_that_were_never_trained(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(bundle, lambda data: data["volseg"]["model"].update(random_weights=True))
    load_model(bundle, device="cpu")
    assert "never trained" in caplog.text


# ---- the block


@given(
    size=st.sampled_from([64, 128, 512]),
    version=st.sampled_from(Sam2Version),
    channels=st.sampled_from(Channels),
    below=st.sampled_from([0.0, 0.25, float("inf")]),
    click=st.none() | st.floats(1, 1e3),
    text=st.text(max_size=20),
    tracking=st.sampled_from([{}, {"stop_after_empty": None}, {"unchanged_dice": 0.95}]),
)
def test_the_block_survives_json(size, version, channels, below, click, text, tracking) -> None:  # type: ignore[no-untyped-def]
    said = Sam2Bundle(
        identity=Identity("name", "1", text),
        license=License("MIT", False, text),
        weights=Weights("models/model.safetensors", "0" * 64),
        network=Sam2Spec("tiny", version, size),
        frames=FrameFormat(size, channels),
        zoom=ZoomSettings(below=below, click_side_mm=click),
        tracking=tracking,
        origin=Origin(file=text),
    )
    assert Sam2Bundle.from_json(json.loads(json.dumps(said.to_json(), allow_nan=False))) == said


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda block: block.update(format=2), "format 2"),
        (lambda block: block.update(engine="sam3"), "'sam3'"),
        (lambda block: block.update(extra=1), "extra"),
        (lambda block: block["weights"].pop("sha256"), "sha256"),
        (lambda block: block["network"].update(image_size="128"), r"network\.image_size"),
        (lambda block: block["network"].update(image_size=True), r"network\.image_size"),
        (lambda block: block["network"].update(variant="huge"), r"network\.variant"),
        (lambda block: block["network"].update(image_size=100), "multiple of 32"),
        (lambda block: block["network"].update(image_size=256), "frames have 128 pixels"),
        (lambda block: block["frames"].update(mean=[0.5]), r"frames\.mean"),
        (lambda block: block["zoom"].update(fill=7), "fill"),
        (lambda block: block.update(tracking={"nonsense": 1}), "nonsense"),
        (lambda block: block.update(model=[]), "model"),
    ],
)
def test_a_damaged_block_is_refused(change: Callable[[Any], None], named: str, bundle: Path) -> None:
    edit(bundle, lambda data: change(data["volseg"]))
    with pytest.raises(ModelError, match=named):
        load_model(bundle)


@pytest.mark.parametrize("text", ["", "[]", "{", "nonsense", "[" * 100_000])
def test_metadata_that_is_no_json_object(text: str, bundle: Path) -> None:
    (bundle / "configs" / "metadata.json").write_text(text)
    with pytest.raises(ModelError, match=r"metadata\.json"):
        load_model(bundle)


def test_an_integer_is_a_number_but_a_boolean_is_not() -> None:
    assert settings_from_json(ZoomSettings, {"min_side_mm": 20}, "zoom").min_side_mm == 20.0
    with pytest.raises(ModelError, match="min_side_mm"):
        settings_from_json(ZoomSettings, {"min_side_mm": True}, "zoom")


# ---- the weights


def test_changed_weights_are_refused(bundle: Path) -> None:
    path = bundle / "models" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="was changed or is damaged"):
        load_model(bundle)


@pytest.mark.parametrize(
    "file", ["../outside.safetensors", "/etc/passwd", "models/../../outside.safetensors", "C:/x.safetensors",
             "models\\model.safetensors", "", "models/model.pt"],
)  # fmt: skip
def test_weights_outside_the_bundle_are_refused(file: str, bundle: Path) -> None:
    shutil.copy(bundle / "models" / "model.safetensors", bundle.parent / "outside.safetensors")
    edit(bundle, lambda data: data["volseg"]["weights"].update(file=file))
    with pytest.raises(ModelError, match=r"expected a \.safetensors file inside the bundle"):
        load_model(bundle)


@pytest.mark.parametrize("linked", ["models", "models/model.safetensors"])
def test_links_out_of_the_bundle_are_refused(linked: str, bundle: Path) -> None:
    (bundle / linked).rename(bundle.parent / "elsewhere")
    (bundle / linked).symlink_to(bundle.parent / "elsewhere")
    with pytest.raises(ModelError, match="a link that leads out of the bundle"):
        load_model(bundle)


def test_missing_weights(bundle: Path) -> None:
    (bundle / "models" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="is missing"):
        load_model(bundle)


def test_licence(bundle: Path) -> None:
    edit(bundle, lambda data: data["volseg"]["license"].update(commercial=False, spdx="CC-BY-NC-4.0"))
    assert load_model(bundle, device="cpu").card.license.spdx == "CC-BY-NC-4.0"
    with pytest.raises(LicenseError, match=r"CC-BY-NC-4\.0"):
        load_model(bundle, commercial=True)


def test_unknown_device(bundle: Path) -> None:
    with pytest.raises(ModelError, match="'tpu'"):
        load_model(bundle, device="tpu")
    with pytest.raises(ModelError, match="no device 'cuda:99'"):
        load_model(bundle, device="cuda:99")


# ---- trust


@pytest.mark.parametrize(
    "config",
    [
        {"a": {"_target_": "os.system", "command": "true"}},
        {"a": {"_target_": "scripts.evil.Model"}},
        {"a": {"_target_": "monai.transforms.Lambda", "func": "$print"}},
        {"a": {"_target_": "monai.bundle.run"}},
        {"a": {"_target_": "torch.nn.functional.torch.hub.load"}},
        {"a": {"_target_": "torch.nn.modules.module.os.system"}},
        {"a": {"_target_": "volseg.models.registry.load_model", "trust": True}},
        {"a": {"_target_": "$__import__('os').system"}},
        {"a": {"_target_": ["os.system"]}},
        {"a": [{"b": {"_target_": "subprocess.run"}}]},
        {"imports": ["$import os"]},
        {"a": "$__import__('os').system('true')"},
        {"a": "$@b.__class__.__bases__"},
        {"a": "$@b.load('x')"},
        {"a": "$torch.hub.load('a', 'b')"},
        {"a": "$(lambda: 1)()"},
        {"a": "$[x for x in (1, 2)]"},
        {"a": "$torch.load"},
        {"a": "$f'{@b}'"},
        {"a": "%../../other.yaml::a"},
    ],
)
def test_configs_that_would_run_something_unknown_are_refused(config: Any, bundle: Path) -> None:
    (bundle / "configs" / "extra.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UntrustedBundleError, match=r"would run code.*configs/extra\.yaml: .*--trust"):
        load_model(bundle)
    assert load_model(bundle, device="cpu", trust=True).card.name == "sam2-nano"


@pytest.mark.parametrize(
    "expression",
    [
        "@a + '/eval'", "torch.device('cuda' if torch.cuda.is_available() else 'cpu')", "@model.network",
        "str(@device)",
        "@evaluator.run()", "@net.parameters()", "@a#b#0 * 2", "len(@data[:3])", "{'a': (1, -@b)}", "not @a and @b > 3",
    ],
)  # fmt: skip
def test_harmless_expressions(expression: str) -> None:
    assert _is_harmless(expression)


def test_python_files_are_listed(bundle: Path) -> None:
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "__init__.py").write_text("raise SystemExit")
    assert foreign_code(bundle) == ("scripts/__init__.py: Python code",)
    with pytest.raises(UntrustedBundleError, match=r"scripts/__init__\.py"):
        load_model(bundle)


def test_yaml_that_builds_objects_or_repeats_itself(bundle: Path) -> None:
    extra = bundle / "configs" / "extra.yaml"
    extra.write_text("a: !!python/object/apply:os.system ['true']")
    with pytest.raises(ModelError, match=r"extra\.yaml cannot be read"):
        load_model(bundle)
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    extra.write_text("\n".join(["a0: &a0 [x]", *levels]))
    assert foreign_code(bundle) == ()  # and it took no time


MODEL_OF_ITS_OWN = """
from volseg.models.random_walker import RandomWalker
class Mine(RandomWalker):
    pass
"""


def test_a_bundle_without_a_block_runs_only_when_trusted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(bundle, lambda data: data.pop("volseg"))
    with pytest.raises(UntrustedBundleError, match="no 'volseg' block"):
        load_model(bundle)
    (bundle / "scripts_of_mine.py").write_text(MODEL_OF_ITS_OWN)
    (bundle / "configs" / "inference.yaml").write_text("volseg_model:\n  _target_: scripts_of_mine.Mine\n")
    with pytest.raises(UntrustedBundleError, match=r"scripts_of_mine\.Mine"):
        load_model(bundle)
    assert "scripts_of_mine" not in sys.modules
    try:
        assert type(load_model(bundle, device="cpu", trust=True)).__name__ == "Mine"
        assert str(bundle) not in sys.path
    finally:
        sys.modules.pop("scripts_of_mine", None)
    (bundle / "configs" / "inference.yaml").write_text("network_def: 1\n")
    with pytest.raises(ModelError, match="defines no 'volseg_model'"):
        load_bundle(bundle, device="cpu", trust=True)


# ---- finding


def test_names_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path))
    assert [card.name for card in list_models()] == ["random-walker", "sam2-nano", "text-nano", "text-then-clicks"]
    with pytest.raises(ModelError, match="there is no model 'nonsense'; known are random-walker, sam2-nano"):
        load_model("nonsense")
    with pytest.raises(ModelError, match="is no bundle"):
        load_model(tmp_path)
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(ModelError, match="volseg models convert"):
        load_model(tmp_path / "x.pt")


def test_a_damaged_or_unfinished_bundle_in_the_cache_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path))
    models = tmp_path / "models"
    for name in ("damaged", ".unfinished.partial", "mine"):
        shutil.copytree(CARRIED / "configs", models / name / "configs")
        edit(models / name, lambda data, name=name: data["volseg"]["model"].update(name=name))  # type: ignore[misc]
    edit(models / "damaged", lambda data: data["volseg"].update(format=99))
    assert [card.name for card in list_models()] == [
        "random-walker",
        "sam2-nano",
        "text-nano",
        "mine",
        "text-then-clicks",
    ]
    assert "format 99" in caplog.text
