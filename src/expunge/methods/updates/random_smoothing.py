"""Randomised smoothing: forget on average over random moves of the weights, so that no single move brings the answers back.

The mean over a Gaussian cloud around the weights takes the place of the worst case that `sam` looks for.

Equation: grad = (1/K) sum_k grad L_f(theta + sigma z_k) + lambda grad L_r(theta), z_k ~ N(0, I), drawn anew each step;
  L_f = -(2/beta) log sigmoid(beta (l - l_ref)), l: mean NLL of the batch's labels; L_r: NLL
Source: Fan et al. 2025, arXiv 2502.05374
Needs: forget, retain; as an update any objective with a forget term; weights in float32
Cost: K forwards and backwards of forget rows and one of retain rows a step; one copy of the weights that move
Differs: clipped like every other step, where the authors' code is not; works with accumulation; no warm-up, which takes the first tenth
  of the steps there; what a forget term notes for its own state is that of the first draw; defaults are those for WMDP
Status: reproduced
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
    """Average the gradient of one role over Gaussian noise on the weights."""

    role: str = "forget"
    sigma: float = hp(1e-4, "standard deviation of the noise on each weight; 0: the base run", ge=0)
    draws: int = hp(3, "noises averaged over in a step", ge=1)

    def roles(self) -> frozenset[str]:
        return frozenset({self.role})

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def smooth() -> Gradient:
            seed = step.rng().initial_seed()
            rng = {d: torch.Generator(d).manual_seed(seed) for d in {p.device for p in grads.params}}  # noise is made where weights are
            answers = []
            for _ in range(self.draws):
                noise = (torch.randn(p.shape, generator=rng[p.device], device=p.device, dtype=p.dtype) for p in grads.params)
                with moved(grads.params, (self.sigma * z for z in noise)):
                    answers.append(grads(self.role))
            value, gradient = total(answers)
            return value / self.draws, [g / self.draws for g in gradient]

        return on_role(grads, self.role, smooth) if self.sigma else grads.call


def plan() -> Plan:
    train = Train(epochs=0, steps=125, lr=1e-5, batch_size=4, max_grad_norm=1.0)
    return Plan(BatchNPO(0.0125) + 2.0 * NLL("retain"), train=train, updates=(Smooth(),))
