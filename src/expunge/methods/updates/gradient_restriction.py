"""Gradient restriction: train so that no row pulls hard, by adding the length of the loss's gradient to the loss.

No row moves a model that was trained like this by much, so one small step (`iau`) can take a row out again.

Equation: L + a sum_W |grad_W L|, W over the parameter tensors, or once for all of them; its gradient is grad L + a H u, u the direction of
  the gradient in each tensor, or in all
Source: "Efficient Machine Unlearning via Influence Approximation", 2025, arXiv 2507.23257
Needs: retain; as an update any objective that has second derivatives
Cost: one forward and backward, and one forward and double backward a step
Differs: nothing; the sum over tensors is that of the authors' code, where the paper writes one length (`whole`). The authors stop training
  after ten epochs without a better validation accuracy, we stop after all epochs
Status: not shown
"""

from torch import Tensor

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Update
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.methods.gradients import Gradient, dot, unit
from expunge.methods.terms import NLL


@part
class Restrict(Update):
    """Add the length of the gradient to the loss, for each parameter tensor or for all tensors together."""

    weight: float = hp(0.005, "a: weight of the gradient's length; 0: the base run", ge=0)
    whole: bool = hp(False, "one length of the whole gradient, as in the paper, instead of the sum over its tensors, as in the code")

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def restricted(*roles: str) -> Gradient:
            value, gradient = grads(*roles)
            direction = unit(gradient) if self.whole else [unit([g])[0] for g in gradient]
            length = dot(gradient, direction)
            hvp: list[Tensor] = grads.hvp(direction, *roles)
            return value + self.weight * length, [g + self.weight * h for g, h in zip(gradient, hvp, strict=True)]

        return restricted if self.weight else grads.call


def plan() -> Plan:
    train = Train(epochs=200, lr=1e-3, batch_size=64, optimizer="adam", schedule="constant", anchor="retain")
    return Plan(NLL("retain"), train=train, updates=(Restrict(),))
