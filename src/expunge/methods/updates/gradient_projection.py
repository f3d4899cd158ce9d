"""Gradient projection: take out of the forget gradient what would make the model worse on the rows to retain.

Where the two gradients disagree, the part of a forget step that climbs the retain loss is dropped; what is left does not change that loss,
to first order.

Equation: g_f <- g_f - (<g_f, g_r> / |g_r|^2) g_r where <g_f, g_r> < 0 (with `when always`: everywhere), one inner product over all weights;
  then g_f + g_r goes to the optimizer
Source: PCGrad: Yu et al. 2020, arXiv 2001.06782; for unlearning, of the forget gradient alone: GRU, Wang et al. 2025, arXiv 2503.09117
Needs: forget, retain; as an update any objective with these two terms
Cost: one forward and backward of forget and retain rows a step, apart, and one gradient more in memory
Differs: as PCGrad, with the forget gradient alone projected (`both`: also the retain gradient); GRU's moving average of the retain gradient
  and its clip are left out; the retain gradient has its weight in the step, which the projection does not depend on; an optimizer with
  moments bends the step again; defaults are those of npo
Status: reproduced
"""

from dataclasses import replace
from typing import Literal

from torch import Tensor

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Update
from expunge.core.plan import Plan
from expunge.core.view import Step
from expunge.methods.gradients import Gradient, dot, total
from expunge.methods.objectives import npo

When = Literal["conflict", "always"]


def apart(gradient: list[Tensor], other: list[Tensor], when: When = "conflict") -> list[Tensor]:
    """A gradient without its component along another one: where they conflict, or always."""
    share = dot(gradient, other) / dot(other, other).clamp_min(1e-30)
    if when == "conflict":
        share = share.clamp_max(0)
    return [g - share * o for g, o in zip(gradient, other, strict=True)]


@part
class Project(Update):
    """Make one role's gradient orthogonal to another's."""

    role: str = "forget"
    against: str = "retain"
    when: When = hp("conflict", "project where the gradients disagree, or at every step")
    both: bool = hp(False, "project the retain gradient against the forget gradient too, as PCGrad does")

    def roles(self) -> frozenset[str]:
        return frozenset({self.role, self.against})

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        pair = {self.role: self.against, self.against: self.role}
        projected = [self.role, *([self.against] if self.both else [])]

        def call(*roles: str) -> Gradient:
            mine = [r for r in projected if r in roles]
            if not mine:
                return grads(*roles)
            found = {r: grads(r) for r in pair}
            answers = [(found[r][0], apart(found[r][1], found[pair[r]][1], self.when)) for r in mine]
            answers += [found[r] for r in pair if r in roles and r not in mine]
            rest = [r for r in roles if r not in pair]
            return total([*answers, *([grads(*rest)] if rest else [])])

        return call


def plan() -> Plan:
    return replace(npo.plan(), updates=(Project(),))
