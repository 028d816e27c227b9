"""Weights files are told, refused or converted; nothing in them ever runs."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from volseg.errors import LicenseError, ModelError
from volseg.models.bundles.metadata import read_bundle
from volseg.models.checkpoints import known
from volseg.models.checkpoints.convert import convert_checkpoint, require_commercial, stated_license
from volseg.models.checkpoints.hashing import file_sha256
from volseg.models.checkpoints.known import KNOWN_MODELS, known_model
from volseg.models.checkpoints.read import FileFormat, read_state_dict
from volseg.models.checkpoints.recognise import inspect_checkpoint
from volseg.models.registry import load_model
from volseg.networks.sam2 import Sam2Spec, Sam2Variant, Sam2Version
from volseg.networks.sam2.layouts import Layout
from volseg.networks.sam2.network import Sam2Network

ONLY_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj")


@pytest.fixture(scope="module")
def meta_tiny() -> dict[str, Tensor]:
    """SAM 2.1 tiny as Meta's own code names and shapes it, random, in half precision to be quick."""
    build_sam = pytest.importorskip("sam2.build_sam")
    torch.manual_seed(0)
    network = build_sam.build_sam2_video_predictor("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu")
    return {key: tensor.half() for key, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def meta_file(meta_tiny: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("meta") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": meta_tiny}, path)
    return path


@pytest.fixture(scope="module")
def nano_state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return Sam2Network(Sam2Spec.nano(64)).weights()


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_meta_layout_is_told_with_size_and_version(meta_file: Path) -> None:
    found = inspect_checkpoint(meta_file)
    assert found.complete
    assert (found.format, found.layout) == (FileFormat.TORCH_ZIP, Layout.META)
    assert found.spec == Sam2Spec(Sam2Variant.TINY, Sam2Version.V2_1, 1024)
    assert found.sha256 == file_sha256(meta_file)
    assert found.known is None  # random weights are nobody's


def test_medsam2_is_told_by_its_name_or_the_user(meta_file: Path, tmp_path: Path) -> None:
    link = tmp_path / "MedSAM2_latest.pt"
    link.symlink_to(meta_file)
    assert inspect_checkpoint(link).spec.image_size == 512
    assert inspect_checkpoint(meta_file, image_size=256).spec.image_size == 256


def test_known_hash_decides_name_size_and_licence(meta_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    medsam2 = known_model("medsam2")
    assert medsam2 is not None
    pretended = known.KnownModel(**{**vars(medsam2), "sha256": file_sha256(meta_file)})
    monkeypatch.setattr(known, "KNOWN_MODELS", (pretended,))
    found = inspect_checkpoint(meta_file)
    assert found.known == pretended
    assert found.spec.image_size == 512  # although the file is called sam2.1_hiera_tiny


def test_sam_2_0_bare_state_dict(meta_tiny: dict[str, Tensor], tmp_path: Path) -> None:
    old = {key: tensor for key, tensor in meta_tiny.items() if not key.startswith(ONLY_2_1)}
    torch.save(old, tmp_path / "sam2_hiera_tiny.pth")
    found = inspect_checkpoint(tmp_path / "sam2_hiera_tiny.pth")
    assert found.complete
    assert found.spec.version is Sam2Version.V2_0


def test_transformers_layout_with_and_without_its_tied_tensor(meta_file: Path, tmp_path: Path) -> None:
    state = {key: tensor.contiguous() for key, tensor in inspect_checkpoint(meta_file).state.items()}
    del state["prompt_encoder.shared_embedding.positional_embedding"]
    save_file(state, tmp_path / "model.safetensors")
    found = inspect_checkpoint(tmp_path)  # a folder, as on the hub
    assert found.complete
    assert (found.format, found.layout) == (FileFormat.SAFETENSORS, Layout.TRANSFORMERS)


def test_missing_and_unexpected_keys_are_listed(meta_tiny: dict[str, Tensor], tmp_path: Path) -> None:
    state = dict(meta_tiny)
    del state["maskmem_tpos_enc"]
    state["extra.weight"] = torch.zeros(2)
    state["no_mem_embed"] = torch.zeros(1, 1, 8)
    torch.save({"model": state}, tmp_path / "x.pt")
    found = inspect_checkpoint(tmp_path / "x.pt")
    assert found.missing == ("memory_temporal_positional_encoding",)
    assert found.unexpected == ("extra.weight",)
    assert found.misshapen == ("no_memory_embedding is (1, 1, 8), expected (1, 1, 256)",)
    with pytest.raises(ModelError, match=r"1 missing: memory_temporal.*1 unexpected: extra\.weight"):
        convert_checkpoint(tmp_path / "x.pt", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["class_head.class_embeddings.weight", "image_encoder.encoder.conv_init.weight"], "VISTA3D"),
        (["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"], "ResNet"),
        (["image_encoder.pos_embed", "image_encoder.patch_embed.proj.weight"], "SAM"),
        (["some.weight"], "no SAM 2 checkpoint"),
    ],
)
def test_other_networks_are_refused_by_name(keys: list[str], named: str, tmp_path: Path) -> None:
    torch.save({"model": {key: torch.zeros(1) for key in keys}}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=named):
        inspect_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_with_code_are_refused_and_do_not_run(legacy: bool, tmp_path: Path) -> None:
    made = tmp_path / "made by the pickle"
    path = tmp_path / "evil.pt"
    torch.save({"model": {"a": torch.zeros(1)}, "x": Bomb(made)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError, match=r"would run .*mkdir|would run code"):
        inspect_checkpoint(path)
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()  # it would have worked


def test_plain_pickles_do_not_run(tmp_path: Path) -> None:
    made = tmp_path / "made by the pickle"
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Bomb(made)))
    with pytest.raises(ModelError):
        inspect_checkpoint(tmp_path / "evil.pt")
    assert not made.exists()


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_truncated_files_are_refused(kept: float, kind: str, nano_state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"whole.{kind}"
    if kind == "pt":
        torch.save(nano_state, path)
    else:
        save_file(nano_state, path)
    data = path.read_bytes()
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
    with pytest.raises(ModelError, match=r"cut\.\w+"):
        inspect_checkpoint(cut)


@pytest.mark.parametrize(
    "content",
    [torch.zeros(3), {"model": {}}, {"model": {"a": 1}}, {"epoch": 3}, [torch.zeros(1)]],
    ids=["tensor", "empty", "number", "no-weights", "list"],
)
def test_files_without_a_state_dict_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="state dict"):
        read_state_dict(tmp_path / "x.pt")


def test_missing_file_and_text_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        inspect_checkpoint(tmp_path / "none.pt")
    (tmp_path / "page.pt").write_text("<html>404</html>")
    with pytest.raises(ModelError, match="no weights file"):
        inspect_checkpoint(tmp_path / "page.pt")


def test_conversion_gives_a_bundle_with_the_same_numbers(meta_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "tiny"
    said = convert_checkpoint(meta_file, folder)
    assert said == read_bundle(folder)
    assert said.identity.name == "tiny"
    assert not said.license.commercial  # nobody knows this file
    assert (said.origin.file, said.origin.sha256) == (meta_file.name, file_sha256(meta_file))
    weights = folder / said.weights.file
    assert file_sha256(weights) == said.weights.sha256
    stored, expected = load_file(weights), inspect_checkpoint(meta_file).state
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[key], expected[key]) for key in expected)
    assert sorted(path.name for path in folder.iterdir()) == ["LICENSE", "configs", "docs", "models"]
    shapes = json.loads((folder / "configs" / "metadata.json").read_text())["network_data_format"]
    assert shapes["inputs"]["image"]["spatial_shape"] == [1024, 1024]
    model = load_model(folder, device="cpu")
    assert model.card.weights_sha256 == said.weights.sha256
    assert not model.card.random_weights
    with pytest.raises(LicenseError, match="licence is not known"):
        load_model(folder, device="cpu", commercial=True)


def test_conversion_never_overwrites_unasked_and_leaves_no_trace(
    nano_state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "nano.safetensors"
    save_file(nano_state, source)
    folder = tmp_path / "out" / "nano"
    convert_checkpoint(source, folder, image_size=64)
    before = (folder / "configs" / "metadata.json").read_bytes()
    with pytest.raises(ModelError, match="is there already"):
        convert_checkpoint(source, folder, image_size=64)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("volseg.models.bundles.write._readme", full_disk)
        with pytest.raises(OSError, match="No space left"):
            convert_checkpoint(source, folder, image_size=64, overwrite=True)
    assert (folder / "configs" / "metadata.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["nano"]
    convert_checkpoint(source, folder, image_size=96, overwrite=True)
    assert read_bundle(folder).network.image_size == 96
    assert [path.name for path in folder.parent.iterdir()] == ["nano"]


def test_weights_that_are_not_finite_are_refused(nano_state: dict[str, Tensor], tmp_path: Path) -> None:
    state = {**nano_state, "no_memory_embedding": torch.full_like(nano_state["no_memory_embedding"], float("nan"))}
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(ModelError, match="no_memory_embedding holds numbers that are not finite"):
        convert_checkpoint(tmp_path / "nan.safetensors", tmp_path / "bundle")


def test_every_known_model_is_pinned() -> None:
    assert len({one.name for one in KNOWN_MODELS}) == len(KNOWN_MODELS)
    for one in KNOWN_MODELS:
        commit = len(one.revision) == 40 and set(one.revision) <= set("0123456789abcdef")
        assert commit or (one.revision == "main" and len(one.sha256) == 64)
        assert one.license.spdx


def test_commercial_use() -> None:
    apache, medsam2 = known_model("sam2.1-tiny"), known_model("medsam2")
    assert apache is not None
    assert medsam2 is not None
    require_commercial(apache.license, apache.name)
    with pytest.raises(LicenseError, match=r"medsam2 may not be used commercially: their licence is CC-BY-SA-4\.0"):
        require_commercial(medsam2.license, medsam2.name)
    assert stated_license("MIT").commercial
    assert not stated_license("CC-BY-NC-SA-4.0").commercial
