"""Turning volumes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix [3, 3] that turns about x, then y, then z, by angles [3] in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    result: NDArray[np.float64] = z @ y @ x
    return result
