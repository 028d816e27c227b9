"""Where the session of an image is computed."""

from volseg.sessions.desk import local_session

__all__ = ["local_session"]
