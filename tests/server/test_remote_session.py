"""A session whose masks a real server computes."""

from __future__ import annotations

import socket
import struct
import threading
import time

import numpy as np
import pytest
import torch
from region_model import RegionModel, blocks_image

from volseg.errors import Cancelled, CapabilityError, ModelError, PromptError, ServerError, ServerRefusedError
from volseg.geometry import Frame
from volseg.models.options import EncodeOptions
from volseg.models.random_walker import RandomWalker
from volseg.prompts import Box, MaskPrompt, Point, PromptSet, Text
from volseg.server import connect, offered_models, remote_session
from volseg.server.connection import Connection
from volseg.sessions import Session
from volseg.sessions.desk import Connected, Desk, Disconnected, Idle

TOKEN = "a-token-that-only-tests-know"
FIRST = Point((2, 2, 3), Frame.IJK)
SECOND = Point((7, 6, 2), Frame.IJK)
NOWHERE = Point((0, 0, 0), Frame.IJK)


def other_image(seed):
    """The blocks with one voxel changed, so that no test finds another's image on the server."""
    image = blocks_image()
    image[0, 0, 0, 7] = seed
    return image


class Asked:
    """Notes what a connection asks, and how much it sends and gets."""

    def __init__(self, monkeypatch):
        self.requests = []
        original = Connection.ask

        def ask(connection, method, path, **parts):
            sent = 0
            if "content" in parts:
                pieces = list(parts["content"])
                sent = sum(map(len, pieces))
                parts["content"] = iter(pieces)
            answer = original(connection, method, path, **parts)
            self.requests.append((method, path.split("/")[1] if path else "", sent, answer))
            return answer

        monkeypatch.setattr(Connection, "ask", ask)

    @property
    def uploads(self):
        return [sent for method, room, sent, _ in self.requests if (method, room) == ("PUT", "images")]

    @property
    def masks(self):
        return [mask for *_, answer in self.requests for mask in answer.get("masks", ())]


def both(server, local_model, name, image, say):
    """The label map of a session here and of one on the server."""
    made = []
    for session in (Session(local_model, image), connect(server.url, TOKEN, name, image)):
        with session:
            say(session)
            made.append((session.predict(), session))
    return made


@pytest.mark.parametrize("axcodes", ["RAS", "PIL"])
def test_label_maps_are_those_of_a_local_session(server, axcodes):
    def say(session):
        liver, other = session.add_object("liver"), session.add_object("other")
        session.add_prompt(liver, Point(first, Frame.RAS))
        session.add_prompt(other, Point(second, Frame.RAS))
        session.add_prompt(other, Point(first, Frame.RAS))
        session.add_prompt(other, Point(first, Frame.RAS, positive=False))

    grid = Session(RegionModel(), blocks_image()).grid
    first, second = (tuple(grid.to_ras_mm(p).tolist()) for p in ((2, 2, 3), (7, 6, 2)))
    image = blocks_image(axcodes)
    (local, here), (remote, there) = both(server, RegionModel(), "region", image, say)
    np.testing.assert_array_equal(remote.array, local.array)
    assert np.count_nonzero(remote.array == 1) == 3 * 4 * 4
    assert np.count_nonzero(remote.array == 2) == 4 * 4 * 4
    assert remote.labels == local.labels
    assert remote.grid == local.grid
    assert remote.provenance == local.provenance
    assert there.card == here.card
    assert there.result(1).presence == 0.75


def test_the_random_walker_gives_the_same_with_every_kind_of_prompt(server):
    noise = np.random.default_rng(1).integers(0, 5, (12, 10, 8)).astype(np.int16)
    image = blocks_image()
    image[0] += torch.from_numpy(noise)
    image.meta["modality"] = "CT"

    def say(session):
        rough = np.zeros(session.grid.shape, dtype=bool)
        rough[6:10, 5:9, 1:4] = True
        session.add_prompts(
            PromptSet.of(session.grid, [Box((1, 1, 2), (3, 4, 5), Frame.IJK), Point((2, 2, 3), Frame.IJK)], "a")
        )
        session.add_prompt(session.add_object("b"), MaskPrompt(rough, session.grid))

    (local, here), (remote, there) = both(server, RandomWalker(), "random-walker", image, say)
    assert np.count_nonzero(local.array == 1) > 10
    assert np.count_nonzero(local.array == 2) > 10
    np.testing.assert_array_equal(remote.array, local.array)
    assert remote.provenance == local.provenance
    assert [r.settings for r in (here.result(1), here.result(2))] == [
        r.settings for r in (there.result(1), there.result(2))
    ]


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", "int64", "float32", "float64", "float16"]
)
def test_every_type_of_voxels_arrives(server, dtype):
    image = blocks_image().to(getattr(torch, dtype)) if dtype != "int8" else (blocks_image() // 2).to(torch.int8)
    with connect(server.url, TOKEN, "region", image) as session:
        session.add_prompt(session.add_object(), FIRST)
        assert np.count_nonzero(session.predict().array) == 48


def test_a_second_session_on_the_same_image_sends_nothing(server, monkeypatch):
    asked = Asked(monkeypatch)
    image = other_image(-11)
    for _ in range(2):
        with connect(server.url, TOKEN, "region", image) as session:
            session.add_prompt(session.add_object(), FIRST)
            session.predict()
    assert len(asked.uploads) == 1
    assert 0 < asked.uploads[0] < image.numel() * 2


def test_only_what_changed_is_sent(server, monkeypatch):
    asked = Asked(monkeypatch)
    with connect(server.url, TOKEN, "region", other_image(-12)) as session:
        one, two = session.add_object(), session.add_object()
        session.add_prompt(one, FIRST)
        session.add_prompt(two, SECOND)
        session.predict()
        assert {mask["object"] for mask in asked.masks} == {one, two}
        asked.requests.clear()
        session.add_prompt(two, Point((7, 6, 2), Frame.IJK))  # says nothing new
        session.predict()
        assert {mask["object"] for mask in asked.masks} == {two}
        # Whether a growing mask was seen in between is a matter of time; the last change leads to the whole.
        assert all(mask["base"] > 0 for mask in asked.masks)
        finals = [mask for mask in asked.masks if mask["final"]]
        assert len(finals) == 1
        if len(asked.masks) == 1:
            assert finals[0]["shape"] == [0, 0, 0]
        asked.requests.clear()
        session.predict()
        assert not asked.requests
        assert np.count_nonzero(session.result(two).mask().full()) == 64


def test_previews_come_while_it_computes(server, shut):
    with connect(server.url, TOKEN, "region", other_image(-13)) as session:
        number = session.add_object()
        session.add_prompt(number, FIRST)
        seen = []

        def partial(mask):
            seen.append(mask.voxels)
            shut.unlink(missing_ok=True)

        session.compute(partial=partial)
        assert seen[0] == 3 * 4 * 1
        assert session.result(number).mask().voxels == 48


def test_cancel_stops_the_server_and_leaves_the_session_usable(server, shut):
    with connect(server.url, TOKEN, "region", other_image(-14)) as session:
        number = session.add_object("liver")
        session.add_prompt(number, FIRST)
        texts = []

        def progress(fraction, text):
            texts.append(text)
            return not text.startswith("waiting for liver")

        with pytest.raises(Cancelled, match="liver"):
            session.compute(progress=progress)
        assert session.result(number) is None
        # The gate is still shut: had the job not ended, this would never be reached.
        with connect(server.url, TOKEN, "region", other_image(-14)) as other:
            other.encode()
        shut.unlink()
        session.compute()
        assert session.result(number).mask().voxels == 48


def test_a_new_job_supersedes_the_one_before(server, shut):
    session = connect(server.url, TOKEN, "region", other_image(-15))
    engine = session.engine
    prompts = PromptSet.of(session.grid, [FIRST])
    failures = []
    running = threading.Event()

    def first():
        try:
            engine.segment(EncodeOptions(), prompts, partial=lambda mask: running.set())
        except ServerError as error:
            failures.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    assert running.wait(30)
    line = Connection(server.url, TOKEN)
    line.ask("POST", f"/sessions/{engine._session_id}/jobs", json={"options": {}, "prompts": None})
    thread.join(20)
    assert "gave the computation up" in str(failures[0])
    session.close()


def test_two_clients_at_once(server):
    found = {}

    def work(name, image, voxel):
        with connect(server.url, TOKEN, "region", image) as session:
            for _ in range(5):
                session.add_prompt(session.add_object(name), Point(voxel, Frame.IJK))
                session.compute()
            found[name] = [session.result(item.object_id).mask().voxels for item in session.objects]

    threads = [
        threading.Thread(target=work, args=("one", other_image(-16), (2, 2, 3))),
        threading.Thread(target=work, args=("two", other_image(-17), (7, 6, 2))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {"one": [48] * 5, "two": [64] * 5}


def test_a_wrong_token_is_refused(server):
    with pytest.raises(ServerRefusedError, match="token"):
        connect(server.url, "wrong", "region", blocks_image())
    with pytest.raises(ServerRefusedError, match="token"):
        offered_models(server.url, "")
    assert offered_models(server.url, TOKEN) == ("region", "random-walker", "broken")


def test_errors_are_those_of_a_local_session(server):
    with pytest.raises(ModelError, match="does not offer"):
        connect(server.url, TOKEN, "/etc", blocks_image())
    with pytest.raises(ModelError, match="damaged"):
        connect(server.url, TOKEN, "broken", blocks_image())
    session = connect(server.url, TOKEN, "region", blocks_image())
    outside = PromptSet.of(session.grid, [Point((50, 0, 0), Frame.IJK)], "the liver")
    with pytest.raises(PromptError, match=r"prompt 1 \(point\) of the liver"):
        session.engine.segment(EncodeOptions(), outside)
    with pytest.raises(CapabilityError, match="takes no positive text"):
        session.engine.segment(EncodeOptions(), PromptSet.of(session.grid, [Text("liver")]))
    with pytest.raises(ServerRefusedError, match="KeyError"):
        session.engine.segment(EncodeOptions("-1,0"), PromptSet.of(session.grid, [FIRST]))
    session.add_prompt(session.add_object(), FIRST)
    assert np.count_nonzero(session.predict().array) == 48
    session.close()


def test_nobody_there(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match="cannot be reached"):
        connect(f"http://127.0.0.1:{port}", TOKEN, "region", blocks_image())
    for url in ("http://", "ftp://127.0.0.1", "http://[::1"):
        with pytest.raises(ServerRefusedError, match="no address"):
            connect(url, TOKEN, "region", blocks_image())


def test_a_client_that_is_killed_while_sending_harms_nobody(server):
    import httpx

    def held():
        answer = httpx.get(f"{server.url}/v1", headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False)
        return answer.json()["image_bytes_held"]

    with connect(server.url, TOKEN, "region", other_image(-18)) as session:
        session.add_prompt(session.add_object(), FIRST)
        before = held()
        line = socket.create_connection(("127.0.0.1", server.port))
        head = '{"shape": [100, 100, 100], "affine_ras": [[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]], "dtype": "<i2"}'
        line.sendall(
            f"PUT /v1/images/{'ab' * 32} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"X-Volseg-Image: {head}\r\nContent-Encoding: deflate\r\nContent-Length: 100000\r\n\r\n".encode()
            + b"\x78\x9c"
        )
        end = time.monotonic() + 10
        while held() != before + 2_000_000:
            assert time.monotonic() < end
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.close()
        while held() != before:
            assert time.monotonic() < end
        assert np.count_nonzero(session.predict().array) == 48


def test_a_killed_server_loses_nothing(own_server):
    """A desk shows the lost connection, goes on when the server is back, and ends with the same masks."""
    events, news = [], threading.Condition()

    def heard(event):
        with news:
            events.append(event)
            news.notify_all()

    def wait(happened):
        with news:
            assert news.wait_for(happened, 60), events

    def told(kind):
        return lambda: any(isinstance(event, kind) for event in events)

    desk = Desk(remote_session(blocks_image, own_server.url, TOKEN, "region"), heard)
    wait(told(Idle))
    first = desk.session.add_object("first")
    desk.session.add_prompt(first, FIRST)
    wait(lambda: desk.session.result(first) is not None)
    own_server.gate.touch()
    second = desk.session.add_object("second")
    desk.session.add_prompt(second, SECOND)
    wait(lambda: desk.canvas.array[7, 6, 2] == second)  # a preview: it computes
    own_server.kill()
    wait(told(Disconnected))
    own_server.gate.unlink()
    events.clear()
    own_server.start()
    wait(told(Connected))
    wait(lambda: desk.session.result(second) is not None)
    desk.close()
    with Session(RegionModel(), blocks_image()) as local:
        local.add_prompts(desk.session.prompts)
        local.compute()
        for number in (first, second):
            np.testing.assert_array_equal(desk.session.result(number).mask().full(), local.result(number).mask().full())
    assert [desk.session.result(number).mask().voxels for number in (first, second)] == [48, 64]


def test_an_image_beyond_the_limit_is_not_sent(server_with, monkeypatch):
    server = server_with(image_bytes=1000)
    asked = Asked(monkeypatch)
    with pytest.raises(ServerRefusedError, match="MB of voxels"):
        connect(server.url, TOKEN, "region", blocks_image())
    assert not asked.uploads


def test_a_session_that_was_idle_is_opened_anew(server_with):
    server = server_with(idle_s=0.2)
    with connect(server.url, TOKEN, "region", blocks_image()) as session:
        number = session.add_object()
        session.add_prompt(number, FIRST)
        session.compute()
        line = Connection(server.url, TOKEN)
        end = time.monotonic() + 20
        while (about := line.ask("GET", ""))["sessions"] or about["image_bytes_held"]:
            assert time.monotonic() < end
            time.sleep(0.05)
        session.add_prompt(number, SECOND)
        session.compute()
        assert session.result(number).mask().voxels == 48 + 64


def test_a_full_server_is_one_that_may_answer_later(server_with):
    server = server_with(sessions=1)
    with connect(server.url, TOKEN, "region", blocks_image()), pytest.raises(ServerError, match="1 sessions open"):
        connect(server.url, TOKEN, "region", blocks_image())


def test_sigterm_ends_it_within_seconds_also_while_it_computes(own_server):
    own_server.gate.touch()
    session = connect(own_server.url, TOKEN, "region", blocks_image())
    session.add_prompt(session.add_object(), FIRST)
    failures = []
    ready = threading.Event()

    def work():
        try:
            session.compute(partial=lambda mask: ready.set())
        except ServerError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(30)
    status, seconds = own_server.stop()
    thread.join(20)
    assert status == 0, own_server.log
    assert seconds < 8
    assert len(failures) == 1


def test_nothing_about_the_patient_is_sent_or_logged(server, tmp_path, monkeypatch):
    secret = "Doe^Jane"
    image = other_image(-19)
    image.meta |= {"filename_or_obj": f"/scans/{secret}.nii", "PatientName": secret, "modality": "MR"}
    bodies = []
    original = Connection.ask
    monkeypatch.setattr(
        Connection,
        "ask",
        lambda self, method, path, **parts: bodies.append((path, str(parts))) or original(self, method, path, **parts),
    )
    with connect(server.url, TOKEN, "region", image) as session:
        session.add_prompt(session.add_object(secret), FIRST)
        assert session.predict().labels[0].name == secret
        with pytest.raises(ServerRefusedError):
            session.engine.segment(EncodeOptions("-1,0"), session.prompts)
    assert len(bodies) > 4
    assert not [body for body in bodies if secret in str(body)]
    assert "a computation failed with KeyError" in server.log
    assert secret not in server.log
    assert TOKEN not in server.log
