"""Sharpness-aware minimization (SAM): forget so that the forget loss is low in a whole ball of weights, not at one point of it.

A few steps of fine-tuning move the weights only a little. If the model has forgotten everywhere nearby, relearning is harder.

Equation: min_theta max_{|d| <= rho} L_f(theta + d) + lambda L_r(theta); one step: g = grad L_f(theta), d = rho g / |g| (one norm over all
  weights, d a constant), then grad L_f(theta + d) + lambda grad L_r(theta) goes to the optimizer; L_f = -(2/beta) log sigmoid(beta (l -
  l_ref)), l: mean NLL of the batch's labels; L_r: NLL
Source: Fan et al. 2025, arXiv 2502.05374; SAM itself: Foret et al. 2020, arXiv 2010.01412
Needs: forget, retain; as an update any objective with a forget term; weights in float32
Cost: two forwards and backwards of forget rows and one of retain rows a step; one copy of the trainable weights
Differs: weights are restored from a copy, because adding and subtracting rounds; gradient accumulation works; padding has no label; there
  is no warm-up, which takes the first tenth of the steps in the authors' code; defaults are the authors' for WMDP, who take batches of four
  without accumulation for this method, so that NPO is that of a batch's mean loss
Status: shown
"""

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Update
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.methods.gradients import Gradient, moved, on_role, unit
from expunge.methods.terms import NLL, BatchNPO


@part
class SAM(Update):
    """Take the gradient of one role at the approximately highest loss within a small distance."""

    role: str = "forget"
    rho: float = hp(0.01, "radius, over all weights, within which the forget loss is minimized at its worst; 0: the base run", ge=0)

    def roles(self) -> frozenset[str]:
        return frozenset({self.role})

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def sharp() -> Gradient:
            direction = unit(grads(self.role)[1])
            with moved(grads.params, (self.rho * d for d in direction)):
                return grads(self.role)

        return on_role(grads, self.role, sharp) if self.rho else grads.call


def plan() -> Plan:
    train = Train(epochs=0, steps=125, lr=5e-6, batch_size=4, max_grad_norm=1.0)
    return Plan(BatchNPO(0.015) + 2.25 * NLL("retain"), train=train, updates=(SAM(),))
