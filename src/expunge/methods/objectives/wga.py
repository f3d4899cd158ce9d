"""Weighted gradient ascent (WGA): ascent that weights each label by its current probability.

Labels that are already unlikely stop counting. In plain ascent these labels cause the loss to run away.

Equation: L = mean_t sg(p_t)^b log p_t + NLL(retain);  p_t = p(y_t | x, y_<t), sg: no gradient
Source: Wang et al. 2025, arXiv 2502.19301
Needs: forget, retain
Cost: one forward and backward of forget and retain rows a step
Differs: nothing
Status: shown
"""

from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.methods.terms import NLL


@part
class WGA(Objective):
    """The forget term of WGA."""

    b: float = hp(1.0, "power of the label's probability; 0: gradient ascent", ge=0)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})

    def loss(self, step: Step) -> Tensor:
        target_logp = step.now(step.forget).target_logp
        return step.mean(target_logp.map(lambda logp: (self.b * logp.detach()).exp() * logp), step.forget)


def plan() -> Plan:
    return Plan(WGA() + NLL("retain"), train=Train(epochs=5, lr=1e-5, batch_size=16, warmup=1))
