"""``volseg serve`` as a person starts it."""

from __future__ import annotations

import signal
import subprocess
import sys

import httpx
import pytest
from typer.testing import CliRunner

from volseg.cli import app


def test_it_says_where_it_is_makes_a_token_and_stops_when_told():
    command = [sys.executable, "-c", "from volseg.cli import main; main()", "serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--model", "random-walker"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        url = process.stdout.readline().split(" on ")[1].split(";")[0]
        token = process.stdout.readline().removeprefix("token: ").strip()
        assert url.startswith("http://127.0.0.1:")
        assert len(token) >= 32
        assert httpx.get(f"{url}/health", trust_env=False).json()["status"] == "ok"
        about = httpx.get(f"{url}/v1", headers={"authorization": f"Bearer {token}"}, trust_env=False)
        assert about.json()["models"] == ["random-walker"]
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=20)
        assert (process.returncode, rest) == (0, "stopped; clients keep their sessions\n")
        assert complaints == ""
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def given(monkeypatch):
    """What the command would have served."""
    calls = []
    monkeypatch.setattr("volseg.server.run.run_server", lambda *arguments: calls.append(arguments))
    return calls


def test_it_warns_where_others_can_listen_and_of_short_tokens(given):
    quiet = CliRunner().invoke(app, ["serve", "--token", "sixteen-letters-or-more"])
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    loud = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0", "--token", "short"])
    assert loud.exit_code == 0
    assert "nothing is encrypted" in loud.stderr
    assert "can be guessed" in loud.stderr
    assert [call[0] for call in given] == ["127.0.0.1", "0.0.0.0"]
    limits = given[0][5]
    assert (limits.image_bytes, limits.idle_s) == (2 << 30, 1800)


@pytest.mark.parametrize("token", ["", " ", "with space", "ümlaut", "line\nbreak"])
def test_tokens_that_cannot_be_sent_are_refused(given, token):
    assert CliRunner().invoke(app, ["serve", "--token", token]).exit_code == 2
    assert not given


def test_a_taken_port_is_one_sentence(given, monkeypatch):
    import socket

    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = CliRunner().invoke(app, ["serve", "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 9
    assert "choose another --host or --port" in result.stderr
