"""Downloads from a server that behaves badly in every way it can; only whole, right files are ever in the cache."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from volseg.errors import Cancelled, DownloadError, LicenseError, ModelError
from volseg.models.bundles.metadata import read_bundle
from volseg.models.checkpoints import convert, download
from volseg.models.checkpoints.convert import download_model
from volseg.models.checkpoints.download import TransferSettings, download_checkpoint
from volseg.models.checkpoints.known import KnownModel
from volseg.models.registry import list_models, load_model
from volseg.networks.sam2 import Sam2Spec
from volseg.networks.sam2.network import Sam2Network

REVISION = "0123456789abcdef0123456789abcdef01234567"
CONTENT = os.urandom(300_000)
QUICK = TransferSettings(connect_seconds=2, stall_seconds=0.3, attempts=3, pause_seconds=0.01)


class Hub(ThreadingHTTPServer):
    """A hub on this machine, with a list of what it does wrong on the requests to come."""

    daemon_threads = True

    def __init__(self, content: bytes = CONTENT) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.faults: list[str] = []
        self.always = ""
        self.requests: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the test."""


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.requests.append((self.path, asked))
        fault = self.server.faults.pop(0) if self.server.faults else self.server.always
        if fault.isdecimal():
            self.send_error(int(fault))
            return
        content = self.server.content
        if fault == "lie":
            content = bytes(len(content))
        if fault == "longer":
            content += b"more"
        start = int(match[1]) if (match := re.fullmatch(r"bytes=(\d+)-", asked)) and fault != "no ranges" else 0
        if start >= len(content):
            self.send_error(416)
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        if fault != "endless":
            self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if fault in ("truncate", "stall", "no ranges"):
            body = body[: len(body) // 2]
        self.wfile.write(body)
        self.wfile.flush()
        if fault == "stall":
            threading.Event().wait(1)
        if fault == "endless":
            while True:
                self.wfile.write(bytes(1 << 16))
        self.close_connection = True


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "cache"))
    for name in ("VOLSEG_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def known(content: bytes = CONTENT, *, hashed: bool = True) -> KnownModel:
    return KnownModel(
        name="test-model",
        summary="For tests.",
        repository="somebody/some-model",
        file="weights.safetensors",
        revision=REVISION,
        sha256=hashlib.sha256(content).hexdigest() if hashed else "",
        size_bytes=len(content) if hashed else 0,
        spec=Sam2Spec.nano(64),
    )


def fetch(hub: Hub, one: KnownModel | None = None, settings: TransferSettings = QUICK, **others: object) -> Path:
    return download_checkpoint(one or known(), endpoint=hub.address, settings=settings, **others)  # type: ignore[arg-type]


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.name != ".lock")


def test_a_good_server(hub: Hub, cache: Path) -> None:
    path = fetch(hub)
    assert path.read_bytes() == CONTENT
    assert hub.requests == [(f"/somebody/some-model/resolve/{REVISION}/weights.safetensors", "")]
    assert fetch(hub) == path
    assert len(hub.requests) == 1  # it is there
    assert files(cache) == ["weights.safetensors"]


def test_endpoint_from_the_environment(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.address + "/")
    assert download_checkpoint(known(), settings=QUICK).read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["truncate", "stall"])
def test_interrupted_transfers_go_on_where_they_stopped(fault: str, hub: Hub) -> None:
    hub.faults = [fault, fault]
    assert fetch(hub).read_bytes() == CONTENT
    starts = [int(re.sub(r"\D", "", asked) or 0) for _, asked in hub.requests]
    halves = (0, len(CONTENT) // 2, len(CONTENT) * 3 // 4)
    assert len(starts) == len(halves)
    for start, half in zip(starts, halves, strict=True):
        assert half - 2 * download.CHUNK_BYTES < start <= half


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(hub: Hub, cache: Path) -> None:
    hub.faults = ["truncate", "500", "500", "500"]
    with pytest.raises(DownloadError, match=r"gave up after 3 attempts .*500.*1\d{5} bytes are kept"):
        fetch(hub)
    assert files(cache) == ["weights.safetensors.part"]
    assert fetch(hub).read_bytes() == CONTENT
    assert hub.requests[-1][1].startswith("bytes=1")
    assert files(cache) == ["weights.safetensors"]


def test_a_server_without_ranges_that_always_breaks_off_ends(hub: Hub) -> None:
    hub.always = "no ranges"
    with pytest.raises(DownloadError, match="gave up"):
        fetch(hub)
    assert len(hub.requests) <= 2 * QUICK.attempts


def test_wrong_bytes_of_the_right_length_never_get_a_name(hub: Hub, cache: Path) -> None:
    hub.faults = ["lie"]
    with pytest.raises(DownloadError, match="SHA-256 is not"):
        fetch(hub)
    assert files(cache) == []
    assert fetch(hub).read_bytes() == CONTENT  # and the lie is not built on


def test_a_lie_after_an_interruption_is_noticed_too(hub: Hub, cache: Path) -> None:
    hub.faults = ["truncate", "lie"]
    with pytest.raises(DownloadError, match="SHA-256 is not"):
        fetch(hub)
    assert files(cache) == []


@pytest.mark.parametrize("fault", ["longer", "endless"])
def test_too_many_bytes_are_refused(fault: str, hub: Hub, cache: Path) -> None:
    hub.always = fault
    with pytest.raises(DownloadError, match=r"has 300004 bytes, the known one 300000|more than the 300000 bytes"):
        fetch(hub)
    assert files(cache) == []


def test_an_endless_file_of_unknown_size_is_cut(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_UNKNOWN_BYTES", 1_000_000)
    hub.always = "endless"
    with pytest.raises(DownloadError, match="more than the 1000000 bytes"):
        fetch(hub, known(hashed=False))
    assert files(cache) == []


def test_missing_and_forbidden_files_are_not_asked_for_twice(hub: Hub, cache: Path) -> None:
    for status, words in (("404", "there is no such file"), ("403", "refused with 403")):
        hub.faults = [status]
        with pytest.raises(DownloadError, match=words):
            fetch(hub)
    assert len(hub.requests) == 2
    assert files(cache) == []


def test_a_server_in_trouble_is_asked_again(hub: Hub) -> None:
    hub.faults = ["500", "503"]
    assert fetch(hub).read_bytes() == CONTENT


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(DownloadError, match="gave up after 3 attempts"):
            download_checkpoint(known(), endpoint=address, settings=QUICK)


def test_a_kept_part_that_is_too_long_or_another_file_does_no_harm(hub: Hub) -> None:
    part = download.downloads_folder() / "test-model" / REVISION / "weights.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(len(CONTENT) + 1))
    assert fetch(hub).read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_fetched_again(hub: Hub) -> None:
    path = fetch(hub)
    path.write_bytes(b"damaged")
    assert fetch(hub).read_bytes() == CONTENT


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLSEG_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"VOLSEG_OFFLINE .*forbids the network.*volseg models convert FILE"):
        fetch(hub)
    assert hub.requests == []
    monkeypatch.delenv("VOLSEG_OFFLINE")
    path = fetch(hub)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(hub) == path


def test_cancelling_keeps_what_arrived(hub: Hub, cache: Path) -> None:
    with pytest.raises(Cancelled):
        fetch(hub, progress=lambda fraction, text: fraction < 0.5)
    assert files(cache) == ["weights.safetensors.part"]
    assert fetch(hub).read_bytes() == CONTENT
    assert hub.requests[-1][1].startswith("bytes=1")


def test_another_revision_has_no_known_hash_but_must_be_a_commit(hub: Hub) -> None:
    with pytest.raises(DownloadError, match="40 hexadecimal digits"):
        fetch(hub, revision="main")
    assert fetch(hub, replace(known(b"other"), size_bytes=5), revision="f" * 40).read_bytes() == CONTENT
    assert "/resolve/" + "f" * 40 in hub.requests[0][0]


@pytest.fixture(scope="module")
def nano_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("nano") / "nano.safetensors"
    save_file({key: tensor.half() for key, tensor in Sam2Network(Sam2Spec.nano(64)).weights().items()}, path)
    return path.read_bytes()


@pytest.mark.parametrize("hashed", [True, False])
def test_download_to_loaded_model(
    hashed: bool, hub: Hub, cache: Path, nano_bytes: bytes, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    hub.content = nano_bytes
    one = known(nano_bytes, hashed=hashed)
    monkeypatch.setattr(convert, "known_or_raise", lambda name: one)
    folder = download_model("test-model", endpoint=hub.address, settings=QUICK)
    origin = read_bundle(folder).origin
    assert (origin.repository, origin.revision) == (one.repository, REVISION)
    assert origin.sha256 == hashlib.sha256(nano_bytes).hexdigest()
    assert ("nobody published the hash" in caplog.text) is not hashed
    assert not (cache / "downloads").exists() or files(cache / "downloads") == []
    assert "test-model" in [card.name for card in list_models()]
    model = load_model("test-model", device="cpu")
    weight = model.network.model.state_dict()["no_memory_embedding"]  # type: ignore[attr-defined]
    assert weight.dtype is torch.float32
    requests = len(hub.requests)
    assert download_model("test-model", endpoint=hub.address, settings=QUICK) == folder
    assert len(hub.requests) == requests


def test_what_is_no_sam2_leaves_no_model(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "known_or_raise", lambda name: known())
    with pytest.raises(ModelError):
        download_model("test-model", endpoint=hub.address, settings=QUICK)
    assert not (cache / "models" / "test-model").exists()


def test_commercial_use_is_checked_before_anything_is_fetched(hub: Hub) -> None:
    with pytest.raises(LicenseError, match="medsam2"):
        download_model("medsam2", endpoint=hub.address, commercial=True)
    assert hub.requests == []


def test_unknown_name() -> None:
    with pytest.raises(DownloadError, match=r"no public checkpoint named 'sam3'; known are sam2\.1-tiny"):
        download_model("sam3")


def test_known_but_not_here() -> None:
    with pytest.raises(ModelError, match=r"fetch it with 'volseg models download sam2\.1-tiny'"):
        load_model("sam2.1-tiny")
