"""The bundle of text-nano: data only, small, honest about what it offers; and that it works."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor

from volseg.data.modality import Modality
from volseg.errors import CapabilityError, ModelError
from volseg.geometry import Grid
from volseg.models.bundles.folders import carried_folder
from volseg.models.bundles.metadata import BLOCK
from volseg.models.bundles.read import read_any_bundle
from volseg.models.bundles.text_metadata import TextQueryBundle
from volseg.models.bundles.trust import foreign_code
from volseg.models.registry import PIPELINE, list_models, load_model, model_card
from volseg.prompts import PromptedObject, PromptSet, Text

FOLDER = carried_folder() / "text_prompted_segmentation"
MAX_MEGABYTES = 25


def block() -> dict[str, object]:
    data: dict[str, object] = json.loads((FOLDER / "configs" / "metadata.json").read_text())[BLOCK]
    return data


def test_it_is_data_and_small() -> None:
    assert foreign_code(FOLDER) == ()
    assert not list(FOLDER.rglob("*.py"))
    assert (FOLDER / "models" / "model.safetensors").stat().st_size <= MAX_MEGABYTES * 1e6
    for part in ("LICENSE", "docs/README.md", "docs/card.json", "docs/data_license.txt", "configs/inference.yaml"):
        assert (FOLDER / part).is_file()


def test_the_block_comes_back() -> None:
    bundle = read_any_bundle(FOLDER)
    assert isinstance(bundle, TextQueryBundle)
    assert TextQueryBundle.from_json(json.loads(json.dumps(bundle.to_json()))) == bundle


def test_every_offered_structure_says_what_it_rests_on() -> None:
    bundle = read_any_bundle(FOLDER)
    assert isinstance(bundle, TextQueryBundle)
    for one in bundle.structures:
        assert set(one.queries or [one.concept]) <= set(bundle.network.concepts)
    for one in bundle.structures:
        assert one.reference
        assert one.dice is None or one.cases > 0


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("structures", [], "offers no structure"),
        ("structures", [{"concept": "blorbium", "spacing_mm": 1.0}], "blorbium"),
        ("structures", [{"concept": "spleen", "spacing_mm": 7.0}], "no window"),
        ("search", {"windows": [], "speed": 9}, "unknown parts"),
        ("engine", "other", "expected format"),
        ("network", {"widths": "wide"}, "widths"),
    ],
)
def test_damaged_blocks_are_refused(part: str, value: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        TextQueryBundle.from_json({**block(), part: value})


def test_it_is_found_by_name_and_joined_with_clicks() -> None:
    names = [card.name for card in list_models()]
    assert {"text-nano", PIPELINE} <= set(names)
    assert model_card(PIPELINE).labels == model_card("text-nano").labels


def test_a_small_image_goes_through(tmp_path: Path) -> None:
    model = load_model("text-nano", device="cpu")
    values = torch.rand(1, 20, 24, 18, generator=torch.Generator().manual_seed(0)) * 100
    image = MetaTensor(values, affine=torch.diag(torch.tensor([1.0, 1.0, 1.5, 1.0])))
    name = model.card.labels[0].name
    with model.encode(image) as encoding:
        result = model.segment(encoding, PromptSet(Grid.of(image), (PromptedObject(3, (Text(name),)),)))
    assert result.masks[0].object_id == 3
    assert 0 <= (result.masks[0].presence or 0) <= 1
    with pytest.raises(CapabilityError, match="was not trained for"):
        model.segment(model.encode(image), PromptSet.of(Grid.of(image), [Text("uterus")]))


@pytest.mark.shared
@pytest.mark.accept
def test_hippocampus_of_patients_never_trained_on(shared_data: Path) -> None:
    from volseg.training.text_query.config import NANO_CONFIG, read_text_config
    from volseg.training.text_query.validate import dice_table, score_cases

    model = load_model("text-nano", device="cpu")
    scores = list(score_cases(model, read_text_config(NANO_CONFIG), shared_data, ["hippocampus"]))  # type: ignore[arg-type]
    table = dice_table(scores)
    for part in ("hippocampus_anterior", "hippocampus_posterior"):
        assert table["hippocampus", part][0] >= 0.80
        assert table["hippocampus", part][1] == 16


@pytest.mark.shared
@pytest.mark.accept
def test_a_leg_has_no_hippocampus(shared_data: Path) -> None:
    from volseg.data import read_image

    model = load_model("text-nano", device="cpu")
    image = read_image(shared_data / "sts" / "STS_003" / "CT_image.nii.gz", modality=Modality.CT)
    prompts = (PromptedObject(1, (Text("hippocampus"),)), PromptedObject(2, (Text("anterior hippocampus"),)))
    with model.encode(image) as encoding:
        result = model.segment(encoding, PromptSet(Grid.of(image), prompts))
    for mask in result.masks:
        assert mask.voxels == 0
        assert mask.presence is not None
        assert mask.presence < 0.5


SETTINGS = """
spec: {widths: [8, 8, 16], width: 16, heads: 2, layers: 1, mask_levels: 2, query_width: 8}
precision: float32
groups:
  - source:
      group: body
      modality: MR
      image: "{case}_image.nii.gz"
      label: "{case}_label.nii.gz"
      objects: {liver: [1]}
    views: [{spacing_mm: 1.0, window: [16, 16, 16], concepts: [liver]}]
validation: []
schedule: {steps: 2, steps_per_epoch: 1, queries: 1}
"""


def test_its_training_configuration_trains(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(100, 5, (20, 20, 20)).astype(np.float32)
    labels = np.zeros(values.shape, np.uint8)
    labels[5:12, 5:12, 5:12] = 1
    for part, array in (("image", values + 80 * labels), ("label", labels)):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"a_{part}.nii.gz")
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    workflow = ConfigWorkflow(
        str(FOLDER / "configs" / "train.yaml"),
        workflow_type="train",
        bundle_root=str(FOLDER),
        dataset_dir=str(tmp_path),
        output_dir=str(tmp_path / "out"),
        device="cpu",
    )
    workflow.initialize()
    workflow.run()
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert len((tmp_path / "out" / "log.jsonl").read_text().splitlines()) == 2
