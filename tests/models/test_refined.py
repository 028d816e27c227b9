"""SAM 2 and a second look in 3D behind the contract."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from volseg.data.object_mask import ObjectMask
from volseg.errors import ModelError
from volseg.geometry import Frame, Grid
from volseg.inferers.refine.settings import RefineSettings
from volseg.inferers.slices.frames import Channels, FrameFormat
from volseg.inferers.slices.zoom import ZoomSettings
from volseg.models.bundles.metadata import METADATA_FILE, Identity, Refinement, Sam2Bundle, Weights, read_bundle
from volseg.models.bundles.write import REFINE_FILE, WEIGHTS_FILE, write_bundle
from volseg.models.card import License
from volseg.models.refined import RefinedModel, opening_and_corrections
from volseg.models.registry import load_model
from volseg.networks.refine.config import RefineSpec
from volseg.networks.refine.network import RefineNetwork
from volseg.networks.sam2.config import Sam2Spec
from volseg.networks.sam2.network import Sam2Network
from volseg.prompts import Box, Lasso, MaskPrompt, Point, PromptedObject, PromptSet, Scribble

SPEC = replace(Sam2Spec.nano(64), width=64, memory_layers=1, feed_forward=64)
REFINE = RefineSpec(8, (1, 1), (1,))
GRID = Grid((24, 24, 12), np.diag([1.0, 1.0, 2.0, 1.0]))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both networks with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "looks"
    described = Sam2Bundle(
        identity=Identity("looks", "1.0.0", "Looks twice."),
        license=License("CC-BY-SA-4.0", True, "nobody"),
        weights=Weights(WEIGHTS_FILE, ""),
        network=SPEC,
        frames=FrameFormat(64, Channels.GREY, (0.5,) * 3, (0.25,) * 3),
        zoom=ZoomSettings(fill=0.4),
        refinement=Refinement(Weights(REFINE_FILE, ""), REFINE, RefineSettings(samples=4096)),
    )
    state = {name: value.half() for name, value in Sam2Network(SPEC).weights().items()}
    write_bundle(folder, described, state, refine_state=RefineNetwork(REFINE).state_dict())
    return folder


@pytest.fixture(scope="module")
def model(bundle: Path) -> RefinedModel:
    found = load_model(bundle, device="cpu")
    assert isinstance(found, RefinedModel)
    return found


@pytest.fixture
def image() -> MetaTensor:
    values = np.random.default_rng(0).normal(100, 20, (1, *GRID.shape)).astype(np.float32)
    values[0, 6:16, 8:18, 3:9] += 120
    return MetaTensor(torch.from_numpy(values), affine=GRID.affine_ras)


BOX = Box((6, 8, 6), (15, 17, 6), Frame.IJK)
CLICKS = (Point((8, 9, 4), Frame.IJK), Point((20, 20, 6), Frame.IJK, positive=False), Point((14, 10, 8), Frame.IJK))


def test_the_opening_shows_and_the_rest_corrects() -> None:
    scribble = Scribble(((8, 8, 6), (9, 12, 6)), Frame.IJK)
    ring = ((7, 7, 5), (9, 7, 5), (9, 9, 5))
    mask = np.zeros(GRID.shape, bool)
    mask[8, 8, 8] = True
    drawn, taken = MaskPrompt(mask, GRID), Lasso(ring, Frame.IJK, positive=False)
    cases = [
        ((BOX, *CLICKS), (BOX,), CLICKS),
        ((CLICKS[1], CLICKS[0], BOX), (BOX,), CLICKS[1::-1]),
        (CLICKS[:2], CLICKS[:1], CLICKS[1:2]),
        ((CLICKS[1], scribble, CLICKS[0]), (scribble,), (CLICKS[1], CLICKS[0])),
        ((CLICKS[0], drawn, taken, Lasso(ring, Frame.IJK)), (drawn, Lasso(ring, Frame.IJK)), (CLICKS[0], taken)),
        (CLICKS[1:2], CLICKS[1:2], ()),
    ]
    for said, opening, corrections in cases:
        assert opening_and_corrections(said) == (tuple(opening), tuple(corrections))


def test_a_click_costs_one_look_and_undo_none(
    model: RefinedModel, image: MetaTensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    plain = model.refiner.refine

    def counted(*arguments: object, **named: object) -> object:
        looks.append(1)
        return plain(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(model.refiner, "refine", counted)
    with model.encode(image) as encoding:
        masks = []
        for count in range(4):
            before = len(looks)
            masks.append(model.segment(encoding, PromptSet.of(GRID, [BOX, *CLICKS[:count]])).masks[0].full())
            assert len(looks) == before + 1
        assert masks[1][8, 9, 4]
        assert not masks[2][20, 20, 6]
        before = len(looks)
        again = model.segment(encoding, PromptSet.of(GRID, [BOX, CLICKS[0]])).masks[0].full()
        assert len(looks) == before
        assert np.array_equal(again, masks[1])
    with model.encode(image) as fresh:
        assert np.array_equal(model.segment(fresh, PromptSet.of(GRID, [BOX, *CLICKS])).masks[0].full(), masks[3])


def test_a_correction_is_seen_before_it_is_done(bundle: Path) -> None:
    model = load_model(bundle, device="cpu")
    grid = Grid((64, 64, 40), np.diag([1.0, 1.0, 1.0, 1.0]))
    values = np.random.default_rng(0).normal(100, 20, (1, *grid.shape)).astype(np.float32)
    values[0, 10:50, 12:52, 8:32] += 120
    image = MetaTensor(torch.from_numpy(values), affine=grid.affine_ras)
    cube = np.zeros(grid.shape, bool)
    cube[10:50, 12:52, 8:30] = True
    opening = MaskPrompt(cube, grid)
    clicks = (Point((30, 30, 31), Frame.IJK), Point((9, 30, 20), Frame.IJK, positive=False))
    assert isinstance(model, RefinedModel)
    model.refiner.settings = RefineSettings(samples=64_000)
    grown: list[ObjectMask] = []

    def said(count: int, object_id: int) -> PromptSet:
        return PromptSet(grid, (PromptedObject(object_id, (opening, *clicks[:count])),))

    with model.encode(image) as encoding:
        model.segment(encoding, said(0, 3), partial=grown.append)
        grown.clear()
        for count in (1, 2):
            # Another object may have been shown in the same way before.
            done = model.segment(encoding, said(count, 3 + count), partial=grown.append).masks[0]
            assert [one.object_id for one in grown] == [3 + count]
            grown.clear()
        model.segment(encoding, said(1, 3), partial=grown.append)
        assert not grown  # it is remembered
    with model.encode(image) as fresh:
        assert np.array_equal(model.segment(fresh, said(2, 3)).masks[0].full(), done.full())


def test_objects_do_not_disturb_each_other(model: RefinedModel, image: MetaTensor) -> None:
    objects = (PromptedObject(4, (BOX, CLICKS[0]), "a"), PromptedObject(9, (CLICKS[2],), "b"))
    with model.encode(image) as encoding:
        both = model.segment(encoding, PromptSet(GRID, objects)).masks
    assert [one.object_id for one in both] == [4, 9]
    for item, together in zip(objects, both, strict=True):
        with model.encode(image) as encoding:
            alone = model.segment(encoding, PromptSet(GRID, (item,))).masks[0]
        assert np.array_equal(alone.full(), together.full())
        assert alone.presence == together.presence


def test_a_second_object_with_the_same_prompts_keeps_its_number(model: RefinedModel, image: MetaTensor) -> None:
    with model.encode(image) as encoding:
        first = model.segment(encoding, PromptSet(GRID, (PromptedObject(1, (BOX,), "a"),))).masks[0]
        second = model.segment(encoding, PromptSet(GRID, (PromptedObject(7, (BOX,), "b"),))).masks[0]
    assert (first.object_id, second.object_id) == (1, 7)
    assert np.array_equal(first.full(), second.full())


def test_the_card_names_both_weights(bundle: Path, model: RefinedModel) -> None:
    described = read_bundle(bundle)
    assert described.refinement is not None
    hashes = {described.weights.sha256, described.refinement.weights.sha256}
    assert model.card.weights_sha256 not in hashes
    assert model.card.weights_sha256 == described.card.weights_sha256
    alone = replace(described, refinement=None)
    assert alone.card.weights_sha256 == described.weights.sha256
    assert Sam2Bundle.from_json(json.loads(json.dumps(described.to_json()))) == described
    assert Sam2Bundle.from_json(json.loads(json.dumps(alone.to_json()))) == alone


@pytest.mark.parametrize("change", ["weights", "network", "unknown"])
def test_a_damaged_refinement_is_refused(bundle: Path, tmp_path: Path, change: str) -> None:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(bundle, folder)
    metadata = json.loads((folder / METADATA_FILE).read_text())
    said = metadata["volseg"]["refinement"]
    if change == "weights":
        (folder / REFINE_FILE).write_bytes((folder / REFINE_FILE).read_bytes()[:-1] + b"x")
    elif change == "network":
        said["network"]["width"] = 16
    else:
        said["surprise"] = 1
    (folder / METADATA_FILE).write_text(json.dumps(metadata))
    with pytest.raises(
        ModelError, match={"weights": "SHA-256", "network": "do not fit", "unknown": "refinement"}[change]
    ):
        load_model(folder, device="cpu")


def test_a_bundle_with_a_refinement_needs_its_weights(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(ModelError, match="give its weights"):
        write_bundle(tmp_path / "half", read_bundle(bundle), {})
    assert not (tmp_path / "half").exists()
