"""What the server says to requests that no client of ours would send."""

from __future__ import annotations

import json
import time
import zlib

import numpy as np
import pytest
from region_model import blocks_image

from volseg.data import image_sha256
from volseg.geometry import Frame, Grid
from volseg.prompts import Point, PromptSet

IMAGE = blocks_image()
SHA256 = image_sha256(IMAGE)
GRID = Grid.of(IMAGE)
VOXELS = IMAGE[0].numpy().astype("<i2").tobytes()
PROMPTS = PromptSet.of(GRID, [Point((2, 2, 3), Frame.IJK)])


def put(client, body=None, sha256=SHA256, coding="deflate", **head):
    header = {**GRID.to_json(), "dtype": "<i2"} | head
    return client.put(
        f"/v1/images/{sha256}",
        content=zlib.compress(VOXELS) if body is None else body,
        headers={"x-volseg-image": json.dumps(header), "content-encoding": coding},
    )


def opened(client, **changed):
    body = {"model": "region", "image_sha256": SHA256, "grid": GRID.to_json(), "modality": "CT"} | changed
    return client.post("/v1/sessions", json=body)


def session_of(client):
    assert put(client).status_code == 200
    return f"/v1/sessions/{opened(client).json()['session']}"


def said(response, status, kind, words=""):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["type"] == kind, error
    assert words in error["message"], error


def finished(client, session, body):
    number = client.post(f"{session}/jobs", json=body).json()["job"]
    return news_of(client, session, number)


def news_of(client, session, number):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        news = client.get(f"{session}/jobs/{number}", params={"wait": 1}).json()
        if news["state"] not in ("queued", "running"):
            return news
    raise AssertionError("the job does not end")


def test_health_needs_no_token_and_all_else_does(app):
    client = app()
    del client.headers["authorization"]
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    for shown in (None, "Bearer wrong", "a-token-that-only-tests-know", "Basic x"):
        headers = {} if shown is None else {"authorization": shown}
        for address in ("/v1", f"/v1/images/{SHA256}", "/v1/nothing", "/"):
            said(client.get(address, headers=headers), 401, "ServerRefusedError", "token")


def test_an_image_is_taken_once_and_only_with_its_own_hash(app):
    client = app()
    assert client.get(f"/v1/images/{SHA256}").json() == {"present": False}
    said(put(client, sha256="0" * 64), 422, "ImageReadError", "hash")
    said(put(client, affine_ras=np.diag([1.0, 2, 4, 1]).tolist()), 422, "ImageReadError", "hash")
    assert put(client).json() == {"present": True}
    assert put(client, body=b"not read").json() == {"present": True}
    assert client.get("/v1").json()["image_bytes_held"] == len(VOXELS)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"coding": "gzip"}, 415, "deflate"),
        ({"coding": "identity"}, 415, "deflate"),
        ({"sha256": "../../etc"}, 404, ""),
        ({"sha256": "XY"}, 422, "hexadecimal"),
        ({"dtype": "O"}, 422, "types"),
        ({"dtype": ["<i2"]}, 422, "types"),
        ({"shape": [12, 10]}, 422, "grid"),
        ({"shape": [12, 10, -8]}, 422, "grid"),
        ({"shape": "many"}, 422, "grid"),
        ({"affine_ras": [[0] * 4] * 4}, 422, "grid"),
        ({"shape": [12, 10, 9]}, 400, "announced"),
        ({"shape": [12, 10, 7]}, 413, "announced"),
        ({"body": b"no zlib at all"}, 400, "zlib"),
        ({"body": zlib.compress(VOXELS)[:-10]}, 400, "announced"),
        ({"body": zlib.compress(VOXELS) + b"more"}, 413, "more"),
        ({"body": zlib.compress(bytes(50_000_000))}, 413, "compressed bytes"),
        ({"body": zlib.compress(bytes(4_000_000))}, 413, "more voxels"),
        ({"shape": [4000, 4000, 4000]}, 413, "takes"),
    ],
)
def test_images_that_are_not_what_they_say_are_refused_and_leave_nothing(app, change, status, words):
    client = app()
    response = put(client, **change)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]
    assert client.get("/v1").json()["image_bytes_held"] == 0
    assert put(client).json() == {"present": True}


@pytest.mark.parametrize("header", [None, "", "{", "[]", "[" * 50_000])
def test_an_image_without_its_header(app, header):
    headers = {"content-encoding": "deflate"} | ({} if header is None else {"x-volseg-image": header})
    response = app().put(f"/v1/images/{SHA256}", content=b"", headers=headers)
    assert response.status_code in (400, 422)
    assert response.json()["error"]["message"]


def test_a_chunked_image_is_stopped_where_it_exceeds_what_was_announced(app):
    client = app(image_bytes=1 << 20, memory_bytes=1 << 20)
    sent = []

    def pieces():
        for piece in (zlib.compress(VOXELS, 0)[:100], bytes(10), *([b"\0" * 1000] * 10)):
            sent.append(piece)
            yield piece

    assert put(client, body=pieces()).status_code in (400, 413)
    assert client.get("/v1").json()["image_bytes_held"] == 0


def test_full_memory_makes_room_from_what_nobody_uses(app):
    client = app(memory_bytes=len(VOXELS) + 100)
    session = session_of(client)
    other = blocks_image()
    other[0, 0, 0, 0] = 5
    body = zlib.compress(other[0].numpy().astype("<i2").tobytes())
    said(put(client, body, image_sha256(other)), 503, "ServerFull", "memory")
    client.delete(session)
    end = time.monotonic() + 10
    while put(client, body, image_sha256(other)).status_code == 503:
        assert time.monotonic() < end
    assert client.get(f"/v1/images/{SHA256}").json() == {"present": False}


def test_sessions_are_limited_and_close(app):
    client = app(sessions=2)
    first = session_of(client)
    opened(client)
    said(opened(client), 503, "ServerFull", "2 sessions")
    assert client.delete(first).status_code == 200
    said(client.delete(first), 404, "UnknownSession")
    assert opened(client).status_code == 201


def test_sessions_that_cannot_be(app):
    client = app()
    said(opened(client), 404, "UnknownImage", "send it")
    put(client)
    said(opened(client, model="../secret"), 422, "ModelError", "does not offer")
    said(opened(client, model="broken"), 422, "ModelError", "damaged")
    said(opened(client, model=3), 422, "SessionError")
    said(opened(client, grid=None), 422, "GeometryError")
    said(opened(client, grid=GRID.reoriented("LPS").to_json()), 422, "GeometryError", "not that of the image")
    assert client.get("/v1").json()["sessions"] == 0
    for address in ("/v1/sessions/none", "/v1/sessions/none/jobs/1"):
        said(client.delete(address), 404, "UnknownSession", "open a new one")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"[" * 200_000, {}, 400),
        (b"x" * 3_000, {}, 413),
        (b"{}", {"content-encoding": "gzip"}, 415),
        (b'{"options": 3}', {}, 422),
        (b'{"options": {"plane": "diagonal"}}', {}, 422),
        (b'{"options": {"window": 7}}', {}, 422),
        (b'{"options": {}, "prompts": 3}', {}, 422),
        (b'{"options": {}, "prompts": {"schema": "volseg.prompts", "version": 1, "objects": []}}', {}, 422),
    ],
)
def test_malformed_jobs_are_refused(app, body, headers, status):
    client = app(json_bytes=2_000 if status == 413 else 1 << 20)
    session = session_of(client)
    response = client.post(f"{session}/jobs", content=body, headers=headers)
    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]
    news = finished(
        client, session, {"options": {}, "prompts": PROMPTS.to_json()} if status != 413 else {"options": {}}
    )
    assert news["state"] == "done"


def test_masks_that_would_fill_the_memory_are_refused(app):
    client = app()
    session = session_of(client)
    bits = "eJztwTEBAAAAwqD1T20ND6AAAAAAAAAAAAAAAAAA"
    huge = {"type": "mask", "grid": {**GRID.to_json(), "shape": [1000, 1000, 2000]}, "bits": bits}
    prompts = PROMPTS.to_json()
    prompts["objects"][0]["prompts"] = [huge]
    said(client.post(f"{session}/jobs", json={"options": {}, "prompts": prompts}), 422, "PromptError", "many times")

    from volseg.prompts import MaskPrompt

    wide = MaskPrompt(np.ones((2, 2, 2), bool), Grid((2, 2, 2), np.diag([4000.0, 4000.0, 4000.0, 1.0])))
    news = finished(client, session, {"options": {}, "prompts": PromptSet.of(GRID, [wide]).to_json()})
    assert (news["state"], news["error"]["type"]) == ("failed", "PromptError")
    assert "beyond the image" in news["error"]["message"]


def test_jobs_that_are_not_there(app):
    client = app()
    session = session_of(client)
    said(client.get(f"{session}/jobs/1"), 404, "SessionError")
    first = client.post(f"{session}/jobs", json={"options": {}}).json()["job"]
    client.post(f"{session}/jobs", json={"options": {}})
    assert client.get(f"{session}/jobs/{first}").json()["state"] == "cancelled"
    said(client.get(f"{session}/jobs/2", params={"after": "x"}), 400, "SessionError")
    said(client.get("/v1/sessions/x/jobs/y"), 404, "ServerRefusedError")
    said(client.post("/v1"), 405, "ServerRefusedError")


def test_a_lost_answer_is_made_up_for_with_the_whole_mask(app):
    client = app()
    session = session_of(client)
    body = {"options": {}, "prompts": PROMPTS.to_json()}
    finished(client, session, body)
    again = client.get(f"{session}/jobs/1", params={"after": 0}).json()  # as if nothing had arrived
    assert [(mask["base"], mask["shape"]) for mask in again["masks"]] == [(0, [3, 4, 4])]
    client.post(f"{session}/jobs", json=body)
    after, masks, state = again["revision"], [], "queued"
    end = time.monotonic() + 10
    while state != "done":
        assert time.monotonic() < end
        news = client.get(f"{session}/jobs/2", params={"after": after, "wait": 1}).json()
        after, state = news["revision"], news["state"]
        masks += news["masks"]
    assert masks
    assert all(mask["base"] > 0 for mask in masks)


def test_an_idle_session_ends_and_its_image_goes(app):
    client = app(idle_s=0.3)
    session = session_of(client)
    end = time.monotonic() + 10
    while client.get("/v1").json()["image_bytes_held"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    said(client.post(f"{session}/jobs", json={"options": {}}), 404, "UnknownSession", "idle")


def test_a_job_nobody_asks_after_or_that_takes_too_long_is_given_up(app):
    client = app(silent_s=0.2)
    client.gate.touch()
    session = session_of(client)
    number = client.post(f"{session}/jobs", json={"options": {}, "prompts": PROMPTS.to_json()}).json()["job"]
    time.sleep(0.5)
    assert news_of(client, session, number)["state"] == "cancelled"
    client = app(job_s=0.2)
    client.gate.touch()
    session = session_of(client)
    news = finished(client, session, {"options": {}, "prompts": PROMPTS.to_json()})
    assert (news["state"], news["error"]["type"]) == ("failed", "ServerRefusedError")
    assert "longer than" in news["error"]["message"]
