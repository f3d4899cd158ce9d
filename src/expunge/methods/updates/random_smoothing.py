"""Randomized smoothing: forget on average over random moves of the weights, so that no single move restores the answers.

The mean over a Gaussian cloud around the weights replaces the worst case that `sam` looks for.

Equation: grad = (1/K) sum_k grad L_f(theta + sigma z_k) + lambda grad L_r(theta), z_k ~ N(0, I), drawn anew each step; L_f = -(2/beta) log
  sigmoid(beta (l - l_ref)), l: mean NLL of the batch's labels; L_r: NLL
Source: Fan et al. 2025, arXiv 2502.05374
Needs: forget, retain; as an update any objective with a forget term; weights in float32
Cost: K forwards and backwards of forget rows and one of retain rows a step; one copy of the trainable weights
Differs: the gradient is clipped like any other, unlike in the authors' code; gradient accumulation works; there is no warm-up, which takes
  the first tenth of the steps in the authors' code; a forget term keeps its notes for its own state from the first draw; defaults are the
  authors' for WMDP, who take batches of four without accumulation for this method, so that NPO is that of a batch's mean loss
Status: not shown
"""

import torch

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Update
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.methods.gradients import Gradient, moved, on_role, total
from expunge.methods.terms import NLL, BatchNPO


@part
class Smooth(Update):
    """Average the gradient of one role over draws of Gaussian noise on the weights."""

    role: str = "forget"
    sigma: float = hp(1e-4, "standard deviation of the noise on each weight; 0: the base run", ge=0)
    draws: int = hp(3, "number of noise draws averaged in a step", ge=1)

    def roles(self) -> frozenset[str]:
        return frozenset({self.role})

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def smooth() -> Gradient:
            seed = step.rng().initial_seed()
            rng = {
                d: torch.Generator(d).manual_seed(seed) for d in {p.device for p in grads.params}
            }  # noise is drawn on the device of the weights
            gradients = []
            for _ in range(self.draws):
                noise = (torch.randn(p.shape, generator=rng[p.device], device=p.device, dtype=p.dtype) for p in grads.params)
                with moved(grads.params, (self.sigma * z for z in noise)):
                    gradients.append(grads(self.role))
            value, gradient = total(gradients)
            return value / self.draws, [g / self.draws for g in gradient]

        return on_role(grads, self.role, smooth) if self.sigma else grads.call


def plan() -> Plan:
    train = Train(epochs=0, steps=125, lr=1e-5, batch_size=4, max_grad_norm=1.0)
    return Plan(BatchNPO(0.0125) + 2.0 * NLL("retain"), train=train, updates=(Smooth(),))
