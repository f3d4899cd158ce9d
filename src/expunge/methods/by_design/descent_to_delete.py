"""Descent-to-delete: a linear head that is kept near its optimum by a few gradient steps after every deletion, published with noise.

The steps bring a retrained and an unlearned state so near to each other that noise hides the difference, for any number of deletions.

Equation: f(w) = (1/n) sum_i l(w x_i, y_i) + m/2 |w|^2 over a ball, for each class against the rest, |x_i| = 1; for each row that leaves,
  I steps w <- P(w - 2/(m + M) grad f(w)) over the rows left; published: w + Z, Z ~ N(0, s^2), s = 4 sqrt2 L rho^I / (m n (1 - rho^I)
  (sqrt(ln(1/delta) + epsilon) - sqrt(ln(1/delta)))), rho = (M - m)/(M + m); the first training takes I + ln(D m n / (2 L)) / ln(1/rho)
  steps
Source: Neel et al. 2020, Descent-to-delete: gradient-based methods for machine unlearning, arXiv 2007.02923
Needs: retain, to make the store; forget, to take rows out; a classifier whose head is a linear layer of its own
Cost: one forward pass over the rows; I gradients of the head over all rows for each row that leaves
Guarantee: C(epsilon, delta) for the head that is published, the state in the store being secret; the layers below it are frozen and count
  as public. H with `secret false`, where the noise can be repeated
Differs: n is the present number of rows, so that the noise grows as rows leave; the constants L and D are those of all classes together;
  the noise is that of the paper, twice what the distance of the two states asks for. Features have unit length in training, and the head
  reads them as they are, which changes no prediction
Status: shown
"""

from collections.abc import Mapping
from typing import Any

from expunge.core.capabilities import Categorical, DifferentiableInputs
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Weights
from expunge.core.parts import ByDesign
from expunge.core.plan import Plan
from expunge.core.view import View
from expunge.functional.linear_models import Geometry, Loss, descend, geometry
from expunge.methods.linear_heads import FROZEN, head_of, head_weights, noise_of, table_of, targets_of, without
from expunge.methods.stores import check_known, check_width, guarantee, meant, seed_in

Store = Mapping[str, Any]


@part
class DescentToDelete(ByDesign):
    """A head with a secret state near the optimum."""

    loss: Loss = hp("logistic", "logistic or squared")
    weight_decay: float = hp(0.05, "m: weight of half the squared length of the weights; more: less noise, less accurate", gt=0)
    steps_each: int = hp(20, "I: gradient steps for each row that leaves; more: less noise", ge=1)
    epsilon: float = hp(1.0, "of the certificate", gt=0, allow_inf_nan=False)
    delta: float = hp(1e-4, "of the certificate", gt=0, lt=1)
    secret: bool = hp(True, "draw the noise from the operating system; false: from the seed, which anybody can repeat")
    reads = frozenset({"retain"})
    requires = frozenset({Categorical, DifferentiableInputs})  # a row is a point with one label

    def fit(self, view: View) -> Store:
        table = table_of(view, view.retain)
        x, targets, shape = table["x"], targets_of(table), self._geometry(table)
        steps = shape.first_steps(self.steps_each, len(x))
        state = descend(x, targets, x.new_zeros(x.shape[1], targets.shape[1]), self.loss, self.weight_decay, steps, shape)
        return self._published({**table, "state": state, "releases": 0}, seed_in(view))

    def forget(self, store: Store, ids: frozenset[str], view: View) -> Store:
        check_width(store["x"], head_of(view)[1].in_features)
        check_known([store["rows"]], view)
        left, state, shape = dict(store), store["state"], self._geometry(store)
        for row_id in [i for i, leaves in zip(store["rows"].ids, meant(store["rows"], ids), strict=True) if leaves]:
            left = without(left, [i == row_id for i in left["rows"].ids])  # one update for each: the bound is for single ones
            state = descend(left["x"], targets_of(left), state, self.loss, self.weight_decay, self.steps_each, shape)
        return self._published({**left, "state": state}, seed_in(view))

    def weights(self, store: Store, view: View) -> Weights:
        return head_weights(view, store["published"])

    def _geometry(self, table: Mapping[str, Any]) -> Geometry:
        return geometry(self.loss, self.weight_decay, table["classes"])

    def _published(self, store: dict[str, Any], seed: int) -> Store:
        """The store with a newly published head: its state, with new noise."""
        deviation = self._geometry(store).deviation(self.steps_each, len(store["x"]), self.epsilon, self.delta)
        noise = noise_of(tuple(store["state"].shape), self.secret, seed, "noise", store["releases"])
        promise = guarantee(
            "C" if self.secret else "H", *FROZEN, epsilon=self.epsilon, delta=self.delta, noise=deviation, rows=len(store["x"])
        )
        return {**store, "published": store["state"] + deviation * noise, "releases": store["releases"] + 1, "guarantee": promise}


def plan() -> Plan:
    return Plan(DescentToDelete())
