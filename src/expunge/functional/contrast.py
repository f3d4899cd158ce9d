"""Contrast of two views: each vector of one view is to be nearest to its own counterpart in the other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def info_nce(x: Tensor, other: Tensor, temperature: float) -> Tensor:
    """-log softmax of the cosines of each vector with all vectors of the other view, at its own counterpart: the mean over vectors.

    Args:
        x, other: the views, each (vectors, width).
        temperature: that cosines are divided by.

    Returns:
        A scalar. Source: van den Oord et al. 2018, arXiv 1807.03748, with cosines as in Yu et al. 2023, arXiv 2308.03588.
    """
    cosines = normalize(x) @ normalize(other).T / temperature
    return (cosines.logsumexp(1) - torch.diagonal(cosines)).mean()
