"""Where the session of an image is computed: in a process of its own on this machine, or by a server."""

from volseg.server import remote_session
from volseg.sessions.desk import OpenSession
from volseg.sessions.worker import worker_session

__all__ = ["OpenSession", "remote_session", "worker_session"]
