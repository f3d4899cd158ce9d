"""Influence unlearning (IU): one Newton-like step away from the forget rows, with the curvature of the retain rows.

On a quadratic loss the step ends where retraining does. On other losses it is as good as the curvature at one point allows.

Equation: theta <- theta + alpha A^-1 v; v = (1/n) (sum_forget g - (n_f/n_r) sum_retain g), g the gradient of a row's NLL, n = n_f + n_r;
  exact: A = d I + (1/N) sum g g^T over N retain rows, so A^-1 v = (v - G^T (N d I + G G^T)^-1 G v) / d, G the N gradients;
  published: o = g_1, k = v, and for each later g: t = o.g, k -= (k.g) o / (N + t), o -= t o / (N + t); A^-1 v is k
Source: Koh and Liang 2017, arXiv 1703.04730; the inverse: Singh and Alistarh 2020, arXiv 2004.14340; as a baseline: Fan et al. 2024,
  arXiv 2310.12508
Needs: forget, retain; gradients of single rows
Cost: one forward and backward of all rows, and N single ones; exact: as many numbers as N times the weights, or, where `memory` does not
  hold them, N/k times as many single ones, k the number of rows that fit
Differs: exact is the default, because in the published recursion o never leaves the line of g_1, so that k equals v except along that
  direction; N is the actual number of rows, while the authors' code divides by 1000; the N rows are drawn, while the authors take the first
  ones; in a row with several labels g is the gradient of their mean loss
Status: not shown
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from expunge.core.hyperparameters import hp, part
from expunge.core.modality import ModelOutput
from expunge.core.needs import Need
from expunge.core.parts import Edit
from expunge.core.plan import Plan
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.methods.terms import NLL, Ascent


def published_recursion(gradients: Iterable[Tensor], v: Tensor, count: int) -> Tensor:
    """The inverse curvature times v, by the published recursion.

    Args:
        gradients: Gradients of single rows, each (weights,).
        v: The vector, (weights,).
        count: Number of gradients, N in the card.

    Returns:
        The product, (weights,).
    """
    k, o = v.clone(), None
    for g in gradients:
        if o is None:
            o = g.clone()
            continue
        t = o @ g
        k -= (k @ g) / (count + t) * o
        o -= t / (count + t) * o
    return k


def row_losses(output: ModelOutput) -> Tensor:
    """Mean loss of each row's labels, (rows,)."""
    return output.loss.mean()


@part
class Influence(Edit):
    """Steps by the inverse curvature times the gradient contrast of forget and retain rows."""

    alpha: float = hp(1.0, "factor on the step; published runs tune it from 1 to 20", ge=0)
    inverse: Literal["exact", "published"] = hp("exact", "the inverse of the damped Fisher matrix, or the authors' recursion")
    damping: float = hp(1.0, "d: number added to the diagonal of the Fisher matrix; the step grows as it nears 0. Published: unused", gt=0)
    samples: int = hp(1000, "N: largest number of retain rows for the curvature estimate", ge=1)
    memory: float = hp(2.0, "gigabytes for gradients of single rows; with less memory they are computed more than once", gt=0)
    reads = frozenset({"forget", "retain"})
    needs = frozenset({Need.EXAMPLE_GRADS})

    def apply(self, view: View) -> None:
        n_f, n_r = len(view.forget), len(view.retain)
        contrast = view.grad(Ascent() + NLL("retain"))  # minus mean forget gradient, plus mean retain gradient
        v = torch.cat([g.flatten() for g in contrast]) * (-n_f / (n_f + n_r))
        rows = view.retain.select(torch.randperm(n_r, generator=view.rng())[: self.samples].tolist())
        if self.inverse == "exact":
            step = self._exact(view, rows, v)
        else:
            gradients = (g for batch in view.example_grads(rows, row_losses) for g in as_matrix(batch))
            step = published_recursion(gradients, v, len(rows))
        for p, s in zip(view.params, step.split([p.numel() for p in view.params]), strict=True):
            p.add_(self.alpha * s.view_as(p))

    def _exact(self, view: View, rows: Rows, v: Tensor) -> Tensor:
        """The inverse of d I + G^T G / N times v, computed from the N by N matrix of inner products, block by block of rows."""
        count = len(rows)
        size = min(count, max(1, int(self.memory * 1e9) // (2 * v.numel() * v.element_size())))  # two blocks at a time
        starts = range(0, count, size)

        @lru_cache(maxsize=1)
        def block(start: int) -> Tensor:
            batch = rows.select(range(start, min(start + size, count)))
            return torch.cat([as_matrix(gradients) for gradients in view.example_grads(batch, row_losses)])

        gram, products = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        for i in starts:
            gradients = block(i)
            products[i : i + size] = (gradients @ v).cpu()
            gram[i : i + size, i : i + size] = (gradients @ gradients.T).cpu()
            for j in range(0, i, size):
                gram[i : i + size, j : j + size] = (gradients @ block(j).T).cpu()
        gram = gram.tril() + gram.tril(-1).T + count * self.damping * torch.eye(count, dtype=torch.float64)
        weights = torch.linalg.solve(gram, products).to(v)
        return (v - sum((weights[i : i + size] @ block(i) for i in starts), torch.zeros_like(v))) / self.damping


def as_matrix(gradients: list[Tensor]) -> Tensor:
    """Gradients of rows, one tensor (rows, ...) for each parameter, as one matrix, (rows, weights)."""
    return torch.cat([g.flatten(1) for g in gradients], 1)


def plan() -> Plan:
    return Plan(Influence())
