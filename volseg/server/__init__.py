"""Sessions over HTTP: a server that computes, and the engine that drives it.

The person's machine keeps the session (prompts, history, results). The server only computes, so one that is lost or
restarted loses nothing. ``RemoteEngine`` is an ``Engine``; what speaks to the server's side is in ``run`` and ``app``.
"""

from volseg.server.limits import ServerLimits
from volseg.server.opening import connect, offered_models, remote_session
from volseg.server.remote_engine import RemoteEngine

__all__ = ["RemoteEngine", "ServerLimits", "connect", "offered_models", "remote_session"]
