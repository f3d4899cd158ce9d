"""Datamodels: what a model says as a linear function of the rows that it was trained on, estimated from models of many subsets.

Source: Ilyas et al. 2022, arXiv 2202.00622
"""

from __future__ import annotations

import torch
from torch import Tensor


def estimator(seen: Tensor, ridge: float = 0.0) -> Tensor:
    """The matrix E, (rows, models), by which E @ outputs is the effect of each row on an output, by least squares with an intercept.

    seen: (models, rows), 1 where a model was trained on a row. ridge: penalty of the squared effects; 0: the effects of least norm. The
    columns of E cancel out, so outputs need no centring. In float64.
    """
    x = seen.double()
    u, s, vt = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    real = s > s[0] * max(x.shape) * torch.finfo(s.dtype).eps
    return torch.einsum("kr,k,mk->rm", vt, torch.where(real, s / (s.square() + ridge), 0.0), u)


def effects(seen: Tensor, outputs: Tensor, ridge: float = 0.0) -> Tensor:
    """The effect of each row on what models say, (rows, ...): by how much training on it moves an output. outputs: (models, ...)."""
    return torch.einsum("rm,m...->r...", estimator(seen, ridge), outputs.double()).to(outputs.dtype)


def sparse_effects(seen: Tensor, outputs: Tensor, penalty: float) -> Tensor:
    """The same by least squares with a penalty of the absolute effects (lasso), (rows, ...): most rows have none at all.

    penalty: as in `sklearn.linear_model.Lasso`, of half the mean squared error over the models.
    """
    from sklearn.linear_model import Lasso

    flat = outputs.flatten(1).double().cpu().numpy()
    found = Lasso(alpha=penalty, max_iter=10_000).fit(seen.double().cpu().numpy(), flat).coef_.reshape(flat.shape[1], -1)
    return torch.as_tensor(found.T.copy()).view(-1, *outputs.shape[1:]).to(outputs)


def without(start: Tensor, effects: Tensor, multiplier: float = 1.0) -> Tensor:
    """What a model that was retrained without some rows is predicted to say (DM-Direct), (...): their effects are taken off.

    start: what the model says that was trained on all rows, (...). effects: of the rows that leave, (rows that leave, ...).
    """
    return start - multiplier * effects.sum(0).to(start)
