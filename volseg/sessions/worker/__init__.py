"""A model in a process of its own, so that a window's process stays free. Knows no window toolkit."""

from volseg.sessions.worker.engine import WorkerEngine, worker_session
from volseg.sessions.worker.process import WorkerProcess

__all__ = ["WorkerEngine", "WorkerProcess", "worker_session"]
