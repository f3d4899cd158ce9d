"""WAGLE: let only those weights move that matter for the forget loss once training on the retain rows has answered.

Weights are scored once, before the first step, so the mask is cheap, and works under any objective.

Equation: s_i = |(theta_i - g_r,i / gamma) g_f,i| at the start, g_f and g_r the gradients of NLL on forget and retain rows; the floor(p d)
  weights of largest s move, of all d together; gamma: mean over retain rows and weights of the squared gradient of a row, unless given
Source: Jia et al. 2024, arXiv 2410.17509
Needs: forget, retain (also under an objective without a retain term)
Cost: once, a forward and backward of each forget row, and of as many retain rows, one by one; then as the objective, and a bit a weight
Differs: gradients are means over rows, where the authors sum over batches of one: their gamma is n times the one here, n the number of
  forget rows; gamma is the mean Fisher information, as we read the paper, where their configurations say 1e-6; masked weights do not
  decay either (`hold`); clipping, the last step before the optimizer, sees the masked gradient, where theirs comes before the mask; weights
  that do not train are not ranked; true answers are scored, also where an objective trains refusals; defaults are those for TOFU with NPO,
  with the warm-up of its forget10
Status: faithful
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Update
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.core.view import State, Step, View
from expunge.engine.gradient import global_norm
from expunge.methods.gradients import Gradient
from expunge.methods.terms import NLL, BatchNPO

Score = Literal["wagle", "snip", "gradient", "magnitude", "random"]


def gradient(view: View, rows: Rows) -> tuple[list[Tensor], float]:
    """Mean over rows of each one's gradient of NLL, and the mean over rows and weights of its square."""
    grads, square = [torch.zeros_like(p) for p in view.params], 0.0
    for i in range(len(rows)):
        one = view.grad(NLL(rows.name), {rows.name: rows.select([i])})
        grads = [a + b / len(rows) for a, b in zip(grads, one, strict=True)]
        square += float(global_norm(one)) ** 2 / len(rows)
    return grads, square / sum(g.numel() for g in grads)


def attribution(weight: Tensor, forget: Tensor, retain: Tensor, gamma: float) -> Tensor:
    """Score of each weight, from the gradients of both losses; towards gamma = infinity that of SNIP, |theta g_f|."""
    return ((weight - retain / max(gamma, 1e-30)) * forget).abs()


def largest(scores: list[Tensor], count: int) -> list[Tensor]:
    """True at the largest of all scores (none is negative), `count` in all; of equal ones at the first.

    The threshold is found by bisection, as sorting the weights of a large model would take several times their memory.
    """
    bits = [s.float().contiguous().view(torch.int32) for s in scores]  # floats that are not negative are in the order of their bits
    low, high = 0, 2**31 - 1
    while high - low > 1:
        middle = (low + high) // 2
        enough = sum(int((b >= middle).sum()) for b in bits) >= count
        low, high = (middle, high) if enough else (low, middle)
    left = count - sum(int((b > low).sum()) for b in bits)
    masks = []
    for b in bits:
        equal = b == low
        first = equal & (equal.flatten().cumsum(0).view_as(b) <= left)
        left -= int(first.sum())
        masks.append((b > low) | first)
    return masks


@part
class WAGLE(Update):
    """A mask, made before the first step, of the weights that may move."""

    fraction: float = hp(0.95, "fraction of the weights that move; 1: the base run", ge=0, le=1)
    gamma: float = hp(0.0, "curvature of the retain loss; 0: its mean Fisher information. Small: rank by |g_f g_r|", ge=0)
    score: Score = hp("wagle", "what weights are ranked by: |(theta - g_r / gamma) g_f|, |theta g_f|, |g_f|, |theta| or chance")
    hold: bool = hp(True, "keep masked weights as they are; off: they still decay, as in the authors' code")
    reads = frozenset({"forget", "retain"})

    def begin(self, view: View) -> State:
        rng = view.rng()
        chosen = torch.randperm(len(view.retain), generator=rng)[: len(view.forget)].tolist()
        forget, _ = gradient(view, view.forget)
        retain, fisher = gradient(view, view.retain.select(chosen))
        weights = [p.detach() for p in view.params]
        rankings: dict[Score, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
            "wagle": lambda w, f, r: attribution(w, f, r, self.gamma or fisher),
            "snip": lambda w, f, r: (w * f).abs(),
            "gradient": lambda w, f, r: f.abs(),
            "magnitude": lambda w, f, r: w.abs(),
            "random": lambda w, f, r: torch.rand(w.shape, generator=rng),
        }
        count = int(self.fraction * sum(w.numel() for w in weights))
        masks = largest([rankings[self.score](*of) for of in zip(weights, forget, retain, strict=True)], count)
        return {str(i): m for i, m in enumerate(masks)}

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def masked(*roles: str) -> Gradient:
            value, got = grads(*roles)
            return value, [g * m for g, m in zip(got, self._masks(step), strict=True)]

        return masked

    def holds(self, step: Step) -> list[Tensor] | None:
        return [~m for m in self._masks(step)] if self.hold else None

    def _masks(self, step: Step) -> list[Tensor]:
        return [step.state[str(i)].to(p.device) for i, p in enumerate(step.params)]


def plan() -> Plan:
    train = Train(epochs=0, steps=400, lr=1e-5, batch_size=4, warmup=0.4, weight_decay=0.1, max_grad_norm=1.0)
    return Plan(BatchNPO(0.1) + NLL("retain"), train=train, updates=(WAGLE(),))
