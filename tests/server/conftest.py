"""Servers: real processes, and the application without a network."""

from __future__ import annotations

import pytest
import region_server
from server_process import TOKEN, ServerProcess

pytest.importorskip("starlette", reason="needs the extra 'server'")
pytest.importorskip("uvicorn", reason="needs the extra 'server'")
pytest.importorskip("httpx", reason="needs the extra 'server'")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server for all tests that leave it as it was."""
    one = ServerProcess(tmp_path_factory.mktemp("server")).start()
    yield one
    one.gate.unlink(missing_ok=True)
    one.kill()


@pytest.fixture
def own_server(tmp_path):
    """A server that a test may kill."""
    one = ServerProcess(tmp_path).start()
    yield one
    one.kill()


@pytest.fixture
def server_with(tmp_path):
    """Starts a server with limits of one's choice."""
    started = []

    def start(**limits):
        started.append(ServerProcess(tmp_path, limits).start())
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def shut(server):
    """The shared server's gate, shut."""
    server.gate.touch()
    yield server.gate
    server.gate.unlink(missing_ok=True)


@pytest.fixture
def app(tmp_path):
    """The application without a network, with limits of one's choice; use it with ``TestClient``."""
    from starlette.testclient import TestClient

    from volseg.server import ServerLimits
    from volseg.server.app import create_app

    opened = []

    def make(**limits):
        gate = tmp_path / "gate"
        names = ("region", "random-walker", "broken")
        client = TestClient(
            create_app(TOKEN, lambda name: region_server.load(name, gate), names, ServerLimits(**limits)),
            headers={"authorization": f"Bearer {TOKEN}"},
            raise_server_exceptions=False,
        )
        client.__enter__()
        client.gate = gate
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.gate.unlink(missing_ok=True)
        client.__exit__(None, None, None)
