"""Where the session of an image is computed: in this process, or by a server."""

from volseg.server import remote_session
from volseg.sessions.desk import OpenSession, local_session

__all__ = ["OpenSession", "local_session", "remote_session"]
