"""Servers: real processes, and the application without a network."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import region_server

pytest.importorskip("starlette", reason="needs the extra 'server'")
pytest.importorskip("uvicorn", reason="needs the extra 'server'")
pytest.importorskip("httpx", reason="needs the extra 'server'")

TOKEN = "a-token-that-only-tests-know"


# Processes start from one that has imported everything, which takes many times longer than all else here.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["monai.data", "volseg.server.run", "volseg.models.random_walker", "uvicorn"])


@dataclass
class ServerProcess:
    """A server in a process of its own."""

    folder: Path
    limits: dict[str, float] = field(default_factory=dict)
    port: int = 0
    process: Any = None
    url: str = ""

    @property
    def gate(self):
        """While this file is there, computations stand still."""
        return self.folder / "gate"

    @property
    def log(self):
        return (self.folder / "log").read_text()

    def start(self):
        heard, told = PROCESSES.Pipe(duplex=False)
        arguments = (self.port, TOKEN, str(self.gate), self.limits, str(self.folder / "log"), told)
        self.process = PROCESSES.Process(target=region_server.serve, args=arguments)
        self.process.start()
        told.close()
        self.url = heard.recv()
        self.port = int(self.url.rpartition(":")[2])
        return self

    def kill(self):
        self.process.kill()
        self.process.join(20)

    def stop(self):
        """Ends it as a service manager would; returns the status and the seconds it took."""
        start = time.monotonic()
        self.process.terminate()
        self.process.join(20)
        return self.process.exitcode, time.monotonic() - start


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
