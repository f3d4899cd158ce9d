"""The smallest model that says the same of some inputs: what retraining is where a model has more weights than it has data.

Source: Block, Mokhtari and Shakkottai 2025, arXiv 2505.22601
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot


def span(vectors: Tensor) -> Tensor:
    """An orthonormal basis, (width, rank), of what some vectors (n, width) span; their lengths do not matter."""
    units = normalize(vectors, dim=1)
    basis, sizes, _ = torch.linalg.svd(units.T, full_matrices=False)
    found: Tensor = basis[:, sizes > min(units.shape) * torch.finfo(units.dtype).eps * sizes.max()]
    return found


def within(vectors: Tensor, basis: Tensor) -> Tensor:
    """The part of vectors (..., width) that lies in the span of an orthonormal basis (width, rank)."""
    return (vectors @ basis) @ basis.T


def linear(weight: Tensor, inputs: Tensor) -> Tensor:
    """The smallest weight (..., width) that gives the same outputs for inputs (n, width)."""
    return within(weight, span(inputs))


def predictor(layers: Sequence[Tensor]) -> Tensor:
    """The weight (outputs, width) that a deep linear network has; layers: from the input on, each (out, in)."""
    return reduce(lambda done, layer: layer @ done, layers)


def first_layer(layers: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """The first layer with which a deep linear network of one output has the smallest predictor that says the same of inputs (n, width).

    layers: from the input on, each (out, in), at least two, the last (1, in); all but the first stay as they are.
    """
    after, whole = predictor(layers[1:])[0], predictor(layers)[0]
    excess = whole - linear(whole, inputs)
    return layers[0] - torch.outer(after, excess) / (after @ after).clamp_min(torch.finfo(after.dtype).tiny)


def balanced(weight: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """The deep linear network of smallest weights with a predictor (width,): every layer has the same norm, and works through one unit.

    widths: units of the hidden layers. Returns the layers from the input on, each (out, in), the last (1, in).
    """
    size, depth = weight.norm(), len(widths) + 1
    units = [one_hot(torch.tensor(0), w).to(weight) for w in widths]
    after = [*units[1:], weight.new_ones(1)]
    first = torch.outer(units[0], weight / size.clamp_min(torch.finfo(weight.dtype).tiny)) * size ** (1 / depth)
    return [first, *(torch.outer(b, a) * size ** (1 / depth) for a, b in zip(units, after, strict=True))]


def fewest(features: Tensor, targets: Tensor) -> Tensor:
    """Outer weights, (units, outputs), that give the targets (n, outputs) with at most as many units as the features (n, units) have rank.

    The units that differ most are kept, by QR with pivots; the others have weight 0. Exact where the features can give the targets at all.
    """
    from scipy.linalg import qr

    rank, exact = int(torch.linalg.matrix_rank(features)), features.double()
    order = torch.from_numpy(qr(exact.detach().cpu().numpy(), mode="r", pivoting=True)[1][:rank]).long().to(features.device)
    out = exact.new_zeros(features.shape[1], targets.shape[1])
    out[order] = torch.linalg.lstsq(exact[:, order], targets.double()).solution
    return out.to(features.dtype)
