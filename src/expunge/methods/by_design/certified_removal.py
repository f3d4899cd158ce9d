"""Certified removal: a linear head, fitted with random noise in its loss, from which rows are taken out by Newton steps.

The noise hides what a step leaves behind. The steps add up what they may have left; once that exceeds what the noise hides, the head is
fitted anew.

Equation: L_b(w) = sum_i l(w x_i, y_i) + lambda n/2 |w|^2 + b w, b ~ N(0, sigma^2 I), for each class against the rest, |x_i| = 1; to
  remove M: w <- w + H^-1 (|M| lambda w + sum_M grad l_i(w)), H the Hessian without M; what is left is at most beta = gamma |X| |H^-1 g|
  |X H^-1 g|; the sum of beta over all removals and classes stays below sigma epsilon / sqrt(2 ln(1.5/delta)), or the head is fitted anew
Source: Guo et al. 2020, Certified data removal from machine learning models, arXiv 1911.03030
Needs: retain, to make the store; forget, to take rows out; a classifier whose head is a linear layer of its own
Cost: one forward pass over the rows; a Newton step for each class, a matrix of the head's width squared each
Guarantee: C(epsilon, delta) for the head; the layers below it are frozen and count as public. H with `secret false`, where the noise can
  be repeated
Differs: gamma is the tight constant of the logistic loss, 1/(6 sqrt 3), not 1/4; |X| is exact, not estimated from below; the gradient
  that fitting leaves counts too; lambda and b belong to the sum of the losses throughout. The squared loss is left exactly, with beta =
  0. Features have unit length in training, and the head reads them as they are, which changes no prediction
Status: shown
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical, DifferentiableInputs
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Weights
from expunge.core.parts import ByDesign
from expunge.core.plan import Plan
from expunge.core.view import View
from expunge.functional.linear_models import Loss, budget, fit, gradient, largest_singular_value, remove
from expunge.methods.linear_heads import FROZEN, head_of, head_weights, noise_of, table_of, targets_of, without
from expunge.methods.stores import check_known, check_width, guarantee, meant, seed_in

Store = Mapping[str, Any]


@part
class CertifiedRemoval(ByDesign):
    """A head that was fitted with noise, and the account of what removals may have left in it."""

    loss: Loss = hp("logistic", "logistic, or squared, which rows leave exactly")
    weight_decay: float = hp(1e-2, "lambda: weight of the squared length of the weights, for each row", gt=0, allow_inf_nan=False)
    sigma: float = hp(1.0, "deviation of the noise in the loss; more: more removals before the head is fitted anew, less accurate", gt=0)
    epsilon: float = hp(1.0, "of the certificate", gt=0, allow_inf_nan=False)
    delta: float = hp(1e-4, "of the certificate", gt=0, lt=1)
    secret: bool = hp(True, "draw the noise from the operating system; false: from the seed, which anybody can repeat")
    reads = frozenset({"retain"})
    requires = frozenset({Categorical, DifferentiableInputs})  # a row is a point with one label

    def fit(self, view: View) -> Store:
        return self._fitted({**table_of(view, view.retain), "fits": 0}, seed_in(view))

    def forget(self, store: Store, ids: frozenset[str], view: View) -> Store:
        check_width(store["x"], head_of(view)[1].in_features)
        check_known([store["rows"]], view)
        leaving = meant(store["rows"], ids)
        gone = torch.tensor(leaving)
        x, targets, rest = store["x"], targets_of(store), without(store, leaving)
        norm = largest_singular_value(rest["x"])
        removals = [
            remove((rest["x"], targets[~gone, k]), (x[gone], targets[gone, k]), w, self.loss, self.weight_decay, norm)
            for k, w in enumerate(store["w"].unbind(1))
        ]
        spent = store["spent"] + sum(r.bound for r in removals)
        whole = spent > self._budget
        view.show("certificate", [{"spent": spent, "budget": self._budget, "fitted_anew": float(whole)}])
        if whole:
            return self._fitted(rest, seed_in(view))
        return self._promised({**rest, "w": torch.stack([r.weights for r in removals], 1), "spent": spent})

    def weights(self, store: Store, view: View) -> Weights:
        return head_weights(view, store["w"])

    @property
    def _budget(self) -> float:
        return budget(self.sigma, self.epsilon, self.delta)

    def _fitted(self, table: Mapping[str, Any], seed: int) -> Store:
        """A store with a head that was fitted with new noise."""
        x, targets = table["x"], targets_of(table)
        b = self.sigma * noise_of((x.shape[1], targets.shape[1]), self.secret, seed, "noise", table["fits"])
        w = torch.stack([fit(x, t, self.loss, self.weight_decay, b[:, k]) for k, t in enumerate(targets.unbind(1))], 1)
        left = [float(self._gradient(x, t, w[:, k], b[:, k]).norm()) for k, t in enumerate(targets.unbind(1))]
        return self._promised({**table, "w": w, "b": b, "spent": sum(left), "fits": table["fits"] + 1})

    def _gradient(self, x: Tensor, targets: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return gradient(x, targets, w, self.loss, self.weight_decay, b)

    def _promised(self, store: dict[str, Any]) -> Store:
        numbers = {"epsilon": self.epsilon, "delta": self.delta, "spent": store["spent"], "budget": self._budget}
        return {**store, "guarantee": guarantee("C" if self.secret else "H", *FROZEN, **numbers)}


def plan() -> Plan:
    return Plan(CertifiedRemoval())
