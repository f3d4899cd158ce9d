"""Datamodels: a model's output as a linear function of its training rows, estimated from models trained on many subsets.

Source: Ilyas et al. 2022, arXiv 2202.00622
"""

from __future__ import annotations

import torch
from torch import Tensor


def estimator(trained_on: Tensor, ridge: float = 0.0) -> Tensor:
    """The matrix E for which E @ outputs is the effect of each row on an output, by least squares with an intercept.

    Each row of E sums to zero, so outputs need no centering.

    Args:
        trained_on: 1 where a model was trained on a row, (models, rows).
        ridge: penalty of the squared effects; 0: the effects of least norm.

    Returns:
        E in float64, (rows, models).
    """
    x = trained_on.double()
    u, s, vt = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    nonzero = s > s[0] * max(x.shape) * torch.finfo(s.dtype).eps
    return torch.einsum("kr,k,mk->rm", vt, torch.where(nonzero, s / (s.square() + ridge), 0.0), u)


def effects(trained_on: Tensor, outputs: Tensor, ridge: float = 0.0) -> Tensor:
    """The effect of each row on the outputs of models: by how much training on the row changes an output.

    Args:
        trained_on: 1 where a model was trained on a row, (models, rows).
        outputs: outputs of the models, (models, ...).
        ridge: penalty of the squared effects; 0: the effects of least norm.

    Returns:
        Effects, (rows, ...).
    """
    return torch.einsum("rm,m...->r...", estimator(trained_on, ridge), outputs.double()).to(outputs.dtype)


def sparse_effects(trained_on: Tensor, outputs: Tensor, penalty: float) -> Tensor:
    """Effects by least squares with a penalty of the absolute effects (lasso): most rows have no effect at all.

    Args:
        trained_on: 1 where a model was trained on a row, (models, rows).
        outputs: outputs of the models, (models, ...).
        penalty: weight of the absolute effects against half the mean squared error over models, as in `sklearn.linear_model.Lasso`.

    Returns:
        Effects, (rows, ...).
    """
    from sklearn.linear_model import Lasso

    flat = outputs.flatten(1).cpu().double().numpy()
    coefficients = Lasso(alpha=penalty, max_iter=10_000).fit(trained_on.cpu().double().numpy(), flat).coef_.reshape(flat.shape[1], -1)
    return torch.as_tensor(coefficients.T.copy()).view(-1, *outputs.shape[1:]).to(outputs)


def without(start: Tensor, effects: Tensor, multiplier: float = 1.0) -> Tensor:
    """Predict the output of a model retrained without some rows by subtracting their effects (DM-Direct).

    Args:
        start: output of the model trained on all rows, (...).
        effects: effects of the rows to remove, (removed rows, ...).
        multiplier: factor of the effects.

    Returns:
        The predicted output, (...).
    """
    return start - multiplier * effects.sum(0).to(start)
