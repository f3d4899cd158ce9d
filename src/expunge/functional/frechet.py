"""The Fréchet distance between two sets of vectors, each taken as normal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def frechet_distance(x: NDArray[Any], y: NDArray[Any]) -> float:
    """|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)), with means and covariances of the two sets.

    Args:
        x, y: (vectors, width), at least two each.

    Returns:
        The squared distance, 0 for equal moments. Small sets bias it upwards, so only distances of sets of one size compare.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    roots = [_root(np.atleast_2d(np.cov(v, rowvar=False))) for v in (x, y)]
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()  # the trace of the root of the product of both
    spread = sum(float((r * r).sum()) for r in roots)
    return float(max(0.0, ((x.mean(0) - y.mean(0)) ** 2).sum() + spread - 2 * overlap))


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root
