"""Minimum-norm solutions: the smallest model with the same outputs on some inputs.

Where a model has more weights than data, retraining ends at this solution.

Source: Block, Mokhtari and Shakkottai 2025, arXiv 2505.22601
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot


def span(vectors: Tensor) -> Tensor:
    """An orthonormal basis of the span of some vectors. The rank is judged on the normalized vectors, so their lengths do not matter.

    Args:
        vectors: (n, width).

    Returns:
        The basis, (width, rank).
    """
    directions = normalize(vectors, dim=1)
    basis, singular_values, _ = torch.linalg.svd(directions.T, full_matrices=False)
    kept: Tensor = basis[:, singular_values > min(directions.shape) * torch.finfo(directions.dtype).eps * singular_values.max()]
    return kept


def within(vectors: Tensor, basis: Tensor) -> Tensor:
    """Project vectors (..., width) onto the span of an orthonormal basis (width, rank)."""
    return (vectors @ basis) @ basis.T


def linear(weight: Tensor, inputs: Tensor) -> Tensor:
    """The smallest weight (..., width) with the same outputs on the inputs (n, width)."""
    return within(weight, span(inputs))


def predictor(layers: Sequence[Tensor]) -> Tensor:
    """The product (outputs, width) of a deep linear network's layers, which are given from the input on, each (out, in)."""
    return reduce(lambda product, layer: layer @ product, layers)


def first_layer(layers: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """The first layer that gives a deep linear network of one output the smallest predictor with the same outputs on the inputs.

    Args:
        layers: layers from the input on, at least two, each (out, in), the last (1, in); all but the first stay unchanged.
        inputs: (n, width).

    Returns:
        The new first layer, of the shape of `layers[0]`.
    """
    later_layers, whole = predictor(layers[1:])[0], predictor(layers)[0]
    excess = whole - linear(whole, inputs)
    return layers[0] - torch.outer(later_layers, excess) / (later_layers @ later_layers).clamp_min(torch.finfo(later_layers.dtype).tiny)


def balanced(weight: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """The deep linear network of smallest weights with a given predictor: all layers have the same norm and use one unit each.

    Args:
        weight: the predictor, (width,).
        widths: units of the hidden layers.

    Returns:
        The layers from the input on, each (out, in), the last (1, in).
    """
    size, depth = weight.norm(), len(widths) + 1
    units = [one_hot(torch.tensor(0), w).to(weight) for w in widths]
    targets = [*units[1:], weight.new_ones(1)]
    first = torch.outer(units[0], weight / size.clamp_min(torch.finfo(weight.dtype).tiny)) * size ** (1 / depth)
    return [first, *(torch.outer(target, source) * size ** (1 / depth) for source, target in zip(units, targets, strict=True))]


def fewest(features: Tensor, targets: Tensor) -> Tensor:
    """Output weights that map features to targets with at most as many units as the rank of the features.

    QR with pivoting keeps the units that differ most; all other units get weight 0. The result is exact if any weights are exact.

    Args:
        features: outputs of the units, (n, units).
        targets: (n, outputs).

    Returns:
        Output weights, (units, outputs).
    """
    from scipy.linalg import qr

    rank, exact = int(torch.linalg.matrix_rank(features)), features.double()
    order = torch.from_numpy(qr(exact.detach().cpu().numpy(), mode="r", pivoting=True)[1][:rank]).long().to(features.device)
    weights = exact.new_zeros(features.shape[1], targets.shape[1])
    weights[order] = torch.linalg.lstsq(exact[:, order], targets.double()).solution
    return weights.to(features.dtype)
