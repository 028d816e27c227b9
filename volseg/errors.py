"""The exceptions volseg raises on purpose.

Each member also inherits the builtin that fits, so code that does not know volseg can still catch it. Messages say
what arrived, what was expected, and what to do.
"""

from __future__ import annotations


class VolsegError(Exception):
    """Base of every error volseg raises on purpose."""


class GeometryError(VolsegError, ValueError):
    """A grid, affine or spacing that no image can have, or two grids that should agree and do not."""


class ImageReadError(VolsegError, OSError):
    """A file or folder that cannot be read as one 3D scalar volume."""


class WriteError(VolsegError, OSError):
    """An output that cannot be written."""


class PromptError(VolsegError, ValueError):
    """A prompt that is malformed or does not fit the image. The message names the prompt."""


class WindowError(VolsegError, ValueError):
    """An intensity window that is malformed, unknown, or cannot be found for the image."""


class CapabilityError(VolsegError, ValueError):
    """Something was asked of a model that it cannot do."""


class ModelError(VolsegError, ValueError):
    """A model, checkpoint or bundle that cannot be found, recognised or loaded."""


class UntrustedBundleError(ModelError, PermissionError):
    """A bundle would run code that volseg does not know, and the user did not say ``--trust``."""


class LicenseError(ModelError, PermissionError):
    """Weights whose licence does not allow the stated use."""


class DownloadError(ModelError, ConnectionError):
    """A download that failed or did not match its hash."""


class TrainingError(VolsegError, ValueError):
    """A training configuration, case or checkpoint that cannot be trained with."""


class EvaluationError(VolsegError, ValueError):
    """Cases, labels or earlier results that cannot be scored. The message names the case."""


class SessionError(VolsegError, ValueError):
    """A session file or session operation that is not valid."""


class ServerError(VolsegError, ConnectionError):
    """A server that computes cannot be reached, broke off, or has no room now; it may do later."""


class ServerRefusedError(VolsegError, PermissionError):
    """A server refuses what was asked, such as for a wrong token; asking again is no use."""


class MissingExtraError(VolsegError, ImportError):
    """An optional dependency is not installed."""


class Cancelled(VolsegError):
    """The progress callback asked to stop."""
