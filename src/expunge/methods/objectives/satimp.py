"""SatImp: ascent that weights each label by how well it is still known (saturation) and by how much is left to lose (importance).

Forgotten labels and certain labels both count little. The labels in between contribute most of the forgetting.

Equation: L = mean_t sg(p_t)^b1 sg(1 - p_t)^b2 log p_t + 0.1 NLL(retain);  p_t = p(y_t | x, y_<t), sg: no gradient
Source: Yang et al. 2025, arXiv 2505.11953
Needs: forget, retain
Cost: one forward and backward of forget and retain rows a step
Differs: no reference is built, because the loss has none; the weights 1 and 0.1 are those of the paper (the code has three different
  pairs); the effective batch is that of the paper, 16, the 5 epochs are those of its code
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
class SatImp(Objective):
    """The forget term of SatImp."""

    b1: float = hp(5.0, "power of the label's probability (saturation)", ge=0)
    b2: float = hp(1.0, "power of one minus the label's probability (importance)", ge=0)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})

    def loss(self, step: Step) -> Tensor:
        return step.mean(step.now(step.forget).target_logp.map(lambda logp: self._weight(logp.detach()) * logp), step.forget)

    def _weight(self, logp: Tensor) -> Tensor:
        return (self.b1 * logp).exp() * (-logp.expm1()).clamp_min(0) ** self.b2


def plan() -> Plan:
    return Plan(SatImp() + 0.1 * NLL("retain"), train=Train(epochs=5, lr=1e-5, batch_size=16, warmup=1, weight_decay=0.01))
