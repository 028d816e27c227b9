from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from volseg.data.modality import Modality
from volseg.errors import TrainingError
from volseg.models.bundles.metadata import read_bundle
from volseg.networks.sam2.config import Sam2Variant
from volseg.training.config import NANO_CONFIG, read_config


def changed(tmp_path: Path, **changes: object) -> Path:
    values = yaml.safe_load(NANO_CONFIG.read_text()) | changes
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_shipped_configuration_reads() -> None:
    config = read_config(NANO_CONFIG)
    assert config.spec.variant is Sam2Variant.NANO
    assert config.spec.draw_prompts
    hippocampus = next(source for source in config.sources if source.group == "hippocampus")
    assert hippocampus.modality is Modality.MR
    assert hippocampus.objects["whole"] == (1, 2)
    assert sum(config.sampling.weights.values()) == pytest.approx(1)


def test_the_shipped_configuration_is_that_of_the_shipped_weights(repository: Path) -> None:
    config, bundle = read_config(NANO_CONFIG), repository / "bundles" / "sam2_prompted_segmentation"
    assert config.spec.carry_mask
    assert read_bundle(bundle).network == config.spec
    assert read_bundle(bundle).frames == config.frames
    assert json.loads((bundle / "docs" / "card.json").read_text())["steps"] == config.schedule.steps


def test_the_shipped_split_keeps_enough_patients_and_one_kind_of_structure_out() -> None:
    config = read_config(NANO_CONFIG)
    assert sum(name.startswith("STS") for name in config.validation) >= 8
    assert sum(name.startswith("hippocampus") for name in config.validation) >= 12
    assert len(set(config.validation)) == len(config.validation)
    held_out = [source.group for source in config.sources if not source.train]
    assert held_out == ["cord"]
    assert {79, 21} <= {one for source in config.sources for one in source.exclude}
    assert not any("tptbox" in source.image or "mni" in source.image.lower() for source in config.sources)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sead": 3}, "sead"),
        ({"seed": "three"}, "seed"),
        ({"validation": "STS_003"}, "expected a list"),
        ({"precision": "float8"}, "float8"),
        ({"spec": {"variant": "nano", "image_size": 100}}, "image_size"),
        ({"sampling": {"weights": [1, 2]}}, "expected values by name"),
        ({"sampling": {"box_fill": [0.1]}}, "expected 2"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        read_config(changed(tmp_path, **changes))


def test_a_missing_setting_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("seed: 1\n")
    with pytest.raises(TrainingError, match="sources"):
        read_config(path)
    with pytest.raises(TrainingError, match=r"absent\.yaml"):
        read_config(tmp_path / "absent.yaml")
