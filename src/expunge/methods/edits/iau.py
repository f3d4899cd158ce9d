"""Influence approximation unlearning (IAU): one step up the loss of the rows to forget and down that of the rest, over both sets at once.

To remove a row is, to first order, to learn one with the opposite gradient; that is an ordinary step, and no Hessian is inverted.

Equation: theta <- theta - opt(grad [NLL(retain) - NLL(forget)]), each a mean over its whole set; opt: the first step of Adam, which is
  lr sign(grad) but for its epsilon, or lr grad (sgd)
Source: "Efficient Machine Unlearning via Influence Approximation", 2025, arXiv 2507.23257
Needs: forget, retain; its authors train the model with `gradient_restriction` first
Cost: one forward and backward of all forget and retain rows a step
Differs: batch norm uses its stored statistics and dropout is off, where the released script leaves the model in training mode; rows go
  through the model in batches, with the same sum
Status: reproduced
"""

from typing import Literal

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit
from expunge.core.plan import Plan, Train
from expunge.core.view import View
from expunge.engine.schedule import optimizer_of
from expunge.methods.terms import NLL, Ascent


@part
class FullBatch(Edit):
    """Steps of an optimizer by the gradient over whole sets."""

    lr: float = hp(1e-3, "length of a step: with adam of each weight's, with sgd in units of the gradient", ge=0)
    optimizer: Literal["adam", "sgd"] = hp("adam", "adam: a step of the gradient's signs, as released; sgd: of the gradient, as derived")
    steps: int = hp(1, "steps", ge=1)
    batch_size: int = hp(128, "rows in one forward; changes memory, not the result", ge=1)
    reads = frozenset({"forget", "retain"})

    def apply(self, view: View) -> None:
        params, sets = view.params, {n: view.rows(n) for n in ("forget", "retain")}
        optimizer = optimizer_of(Train(lr=self.lr, optimizer=self.optimizer), params)
        for _ in range(self.steps):
            for p, g in zip(params, view.grad(Ascent() + NLL("retain"), sets, self.batch_size), strict=True):
                p.grad = g
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def plan() -> Plan:
    return Plan(FullBatch())
