"""A server in a process of its own, for tests here and of the windows."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import region_server

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
