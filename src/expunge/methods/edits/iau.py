"""Influence approximation unlearning (IAU): one step up the forget loss and down the retain loss, over both whole sets at once.

Removing a row is, to first order, learning a row with the opposite gradient. That is an ordinary step, so no Hessian is inverted.

Equation: theta <- theta - opt(grad [NLL(retain) - NLL(forget)]), each a mean over its whole set; opt: the first step of Adam, which is
  lr sign(grad) except for its epsilon, or lr grad (sgd)
Source: "Efficient Machine Unlearning via Influence Approximation", 2025, arXiv 2507.23257
Needs: forget, retain; its authors train the model with `gradient_restriction` first
Cost: one forward and backward of all forget and retain rows a step
Differs: batch norm uses its stored statistics and dropout is off, while the released script leaves the model in training mode; rows pass
  through the model in batches, which gives the same sum
Status: shown
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
    """Takes optimizer steps with the gradient over whole sets."""

    lr: float = hp(1e-3, "learning rate: with adam the step of each weight, with sgd the factor on the gradient", ge=0)
    optimizer: Literal["adam", "sgd"] = hp(
        "adam", "adam: a step along the signs of the gradient, as released; sgd: along the gradient, as derived"
    )
    steps: int = hp(1, "optimizer steps", ge=1)
    batch_size: int = hp(128, "rows in one forward pass; affects memory, not the result", ge=1)
    reads = frozenset({"forget", "retain"})

    def apply(self, view: View) -> None:
        params, sets = view.params, {name: view.rows(name) for name in ("forget", "retain")}
        optimizer = optimizer_of(Train(lr=self.lr, optimizer=self.optimizer), params)
        for _ in range(self.steps):
            for p, gradient in zip(params, view.grad(Ascent() + NLL("retain"), sets, self.batch_size), strict=True):
                p.grad = gradient
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def plan() -> Plan:
    return Plan(FullBatch())
