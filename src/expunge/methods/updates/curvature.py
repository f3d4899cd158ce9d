"""Curvature regularization: forget where the gradient of the forget loss hardly changes along itself.

Where the loss has no curvature in its steepest direction, a relearner that follows this direction downhill does not speed up on the way.

Equation: L = L_f + lambda L_r + kappa |grad L_f(theta + mu v) - grad L_f(theta)|, v = grad L_f / |grad L_f|, a constant; with u the
  difference over its length, the penalty's gradient is kappa (H_f(theta + mu v) u - H_f(theta) u); L_f = -(2/beta) mean_i log sigmoid(beta
  (l_i - l_ref,i)), l_i: mean NLL of row i's labels; L_r = mean_i l_i
Source: Fan et al. 2025, arXiv 2502.05374
Needs: forget, retain; as an update any objective with a forget term that has second derivatives; weights in float32
Cost: two forwards and backwards and two forwards and double backwards of forget rows, and one forward and backward of retain rows a step;
  one copy of the trainable weights
Differs: the penalty has a gradient; in the authors' code the penalty is a plain number without a gradient, and L_f counts twice (`detached`
  does the same). So the authors never tried their kappa, 10, with a gradient: our small models forget with it at a high learning rate only,
  and with 1 as well. There is no warm-up, which takes the first tenth of the steps in the authors' code. The authors accumulate four
  batches of one, so that NPO is that of each row's mean loss, as here, and take the change of each row's gradient, while here the change of
  the batch's gradient counts; `batch_mean true` takes NPO of the mean loss of a batch, which allows no micro-batches. Defaults are the
  authors' for WMDP
Status: shown
"""

from typing import Annotated

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Update
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.engine.gradient import global_norm
from expunge.methods.gradients import Gradient, moved, on_role, unit
from expunge.methods.terms import npo_on_means


@part
class Curvature(Update):
    """Add to the loss the change of one role's gradient over a small step along itself."""

    role: str = "forget"
    kappa: float = hp(10.0, "weight of the gradient's change; 0: the base run", ge=0)
    mu: float = hp(0.01, "length of the step over which the change is measured", gt=0)
    detached: bool = hp(False, "report the penalty without its gradient and count the forget gradient twice, as the authors' code does")

    def roles(self) -> frozenset[str]:
        return frozenset({self.role})

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def regularized() -> Gradient:
            value, gradient = grads(self.role)
            with moved(grads.params, (self.mu * v for v in unit(gradient))):
                change = [b - a for a, b in zip(gradient, grads(self.role)[1], strict=True)]
                value, direction = value + self.kappa * global_norm(change), unit(change)
                if self.detached:
                    return value, [2 * g for g in gradient]
                hvp_moved = grads.hvp(direction, self.role)
            hvp = grads.hvp(direction, self.role)
            return value, [g + self.kappa * (b - a) for g, a, b in zip(gradient, hvp, hvp_moved, strict=True)]

        return on_role(grads, self.role, regularized) if self.kappa else grads.call


def plan(
    batch_mean: Annotated[bool, "NPO of the mean loss of a batch, instead of NPO of each row's mean loss, averaged"] = False,
) -> Plan:
    train = Train(epochs=0, steps=125, lr=8.5e-6, batch_size=4, max_grad_norm=1.0)
    return Plan(npo_on_means(0.035, 1.0, batch_mean), train=train, updates=(Curvature(),))
