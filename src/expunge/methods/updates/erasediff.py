"""EraseDiff: follow the retain gradient, plus as much of the forget gradient as makes forgetting go on in every step.

Erasing is the inner problem of two levels and keeping is the outer one, so the weight of the forget term is no constant: it is larger the
more the two gradients disagree.

Equation: step along g_r + lambda g_q; g_r the gradient on retain rows, g_q that of q = f(theta) - f(phi), phi what K steps on the forget
  loss f lead to, a constant; paper: lambda = max(0, eta - <g_r, g_q> / |g_q|^2), so that <step, g_q> >= eta |g_q|^2; cosine: lambda =
  max(0, eta - cos(g_r, g_q)); fixed: lambda = eta. The objective is that of random_captions
Source: Wu et al. 2024, EraseDiff, arXiv 2401.05779, by the rule of BOME, Liu et al. 2022, arXiv 2209.08709; code: JingWu321/EraseDiff
Needs: forget, retain; as an update any objective with both roles
Cost: a forward and backward of each set for itself
Differs: the K inner steps are not run: their end enters as a constant, in the paper and in the code, and so no gradient depends on it. The
  rule of the paper is written as BOME has it, which the code names as its source. The code for Stable Diffusion has a fixed weight of 0.1
  and that for CIFAR-10 the cosine. Forget rows aim at another caption, as in the code for Stable Diffusion, and not at uniform noise, as
  in that for CIFAR-10; batches of both sets are passed over alike
Status: shown
"""

from dataclasses import replace
from typing import Literal

from torch import Tensor

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Update
from expunge.core.plan import Plan
from expunge.core.view import Step
from expunge.methods.gradients import Gradient, dot, total
from expunge.methods.objectives import random_captions


@part
class TwoLevels(Update):
    """Adds the forget gradient to the retain gradient with a weight that makes the forget loss fall."""

    eta: float = hp(0.1, "how fast the forget loss has to fall; fixed: the weight itself", ge=0)
    rule: Literal["paper", "cosine", "fixed"] = hp("paper", "how the weight of the forget gradient is chosen")

    def roles(self) -> frozenset[str]:
        return frozenset({"forget", "retain"})

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def call(*roles: str) -> Gradient:
            if not self.roles() <= {*roles}:
                return grads(*roles)
            forget, retain = grads("forget"), grads("retain")
            weight = self.weight(retain[1], forget[1])
            weighted = weight * forget[0], [weight * g for g in forget[1]]
            remaining = [r for r in roles if r not in self.roles()]
            return total([retain, weighted, *([grads(*remaining)] if remaining else [])])

        return call

    def weight(self, retain: list[Tensor], forget: list[Tensor]) -> Tensor:
        """The weight of the forget gradient, at least 0; 0 where that gradient vanishes."""
        square = dot(forget, forget)
        if self.rule == "fixed" or not float(square):
            return square.new_tensor(self.eta if float(square) else 0.0)
        length = square if self.rule == "paper" else square.sqrt() * dot(retain, retain).sqrt() + 1e-8
        return (self.eta - dot(retain, forget) / length).clamp_min(0)


def plan() -> Plan:
    base = random_captions.plan()
    return replace(base, action=random_captions.objective(1.0), updates=(TwoLevels(),))
