"""Gradient projection: remove from the forget gradient the part that would make the model worse on the retain rows.

Where the forget and the retain gradient disagree, the update drops the component of the forget step that raises the retain loss. The rest
of the step does not change the retain loss, to first order.

Equation: g_f <- g_f - (<g_f, g_r> / |g_r|^2) g_r where <g_f, g_r> < 0 (with `when always`: everywhere), one inner product over all weights;
  then g_f + g_r goes to the optimizer
Source: PCGrad: Yu et al. 2020, arXiv 2001.06782; for unlearning, of the forget gradient alone: GRU, Wang et al. 2025, arXiv 2503.09117
Needs: forget, retain; as an update any objective with these two terms
Cost: one forward and backward of forget rows and another of retain rows a step, computed separately, and one more gradient in memory
Differs: as PCGrad, with the forget gradient alone projected (`both`: the retain gradient too); GRU's moving average of the retain gradient
  and its clipping are left out; the retain gradient has its weight in the step, and the projection does not depend on that weight; an
  optimizer with moments changes the direction of the step again; defaults are those of npo
Status: undecided
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
    """A gradient without its component along another gradient.

    Args:
        gradient: a tensor for each parameter.
        other: the gradient to project against, with the same shapes.
        when: conflict: remove the component only if the inner product is negative; always: remove it in every case.
    """
    share = dot(gradient, other) / dot(other, other).clamp_min(1e-30)
    if when == "conflict":
        share = share.clamp_max(0)
    return [g - share * o for g, o in zip(gradient, other, strict=True)]


@part
class Project(Update):
    """Make the gradient of one role orthogonal to the gradient of another."""

    role: str = "forget"
    against: str = "retain"
    when: When = hp("conflict", "project where the gradients disagree, or at every step")
    both: bool = hp(False, "project the retain gradient against the forget gradient too, as PCGrad does")

    def roles(self) -> frozenset[str]:
        return frozenset({self.role, self.against})

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        opponent = {self.role: self.against, self.against: self.role}
        projected = [self.role, *([self.against] if self.both else [])]

        def call(*roles: str) -> Gradient:
            to_project = [r for r in projected if r in roles]
            if not to_project:
                return grads(*roles)
            gradients = {r: grads(r) for r in opponent}
            parts = [(gradients[r][0], apart(gradients[r][1], gradients[opponent[r]][1], self.when)) for r in to_project]
            parts += [gradients[r] for r in opponent if r in roles and r not in to_project]
            remaining = [r for r in roles if r not in opponent]
            return total([*parts, *([grads(*remaining)] if remaining else [])])

        return call


def plan() -> Plan:
    return replace(npo.plan(), updates=(Project(),))
