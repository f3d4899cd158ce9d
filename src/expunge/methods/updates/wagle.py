"""WAGLE: move only the weights that matter for the forget loss once the reaction of the retain loss is taken into account.

Weights are scored once, before the first step, so the mask is cheap and works under any objective.

Equation: s_i = |(theta_i - g_r,i / gamma) g_f,i| at the start, g_f and g_r the gradients of NLL on forget and retain rows; the floor(p d)
  weights of largest s move, of all d together; gamma: mean over retain rows and weights of the squared gradient of a row, unless given; the
  loss is -(2/beta) mean_i log sigmoid(beta (l_i - l_ref,i)) + mean_i l_i (retain), l_i: mean NLL of row i's labels
Source: Jia et al. 2024, arXiv 2410.17509
Needs: forget, retain (also under an objective without a retain term)
Cost: once, a forward and backward of each forget row and of as many retain rows, one by one; then the cost of the objective, and a bit a
  weight
Differs: gradients are means over rows, where the authors sum over batches of one: their gamma is n times the one here, n the number of
  forget rows; gamma is the mean Fisher information, as we read the paper, while the authors' configurations say 1e-6; masked weights do not
  decay either (`hold`); clipping, the last step before the optimizer, sees the masked gradient, while the authors clip before the mask;
  weights that do not train are not ranked; scores use the true answers, even where an objective trains refusals; defaults are the authors'
  for TOFU with NPO, with the warm-up of its forget10; they accumulate four batches of one, so that NPO is that of each row's mean loss
  (`batch_mean true`: NPO of the mean loss of a batch)
Status: not shown
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Update
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.core.view import State, Step, View
from expunge.engine.gradient import global_norm
from expunge.methods.gradients import Gradient
from expunge.methods.terms import NLL, npo_on_means

Score = Literal["wagle", "snip", "gradient", "magnitude", "random"]


def gradient(view: View, rows: Rows) -> tuple[list[Tensor], float]:
    """Mean gradient of NLL over rows, and mean squared gradient of a row.

    Returns:
        The mean over rows of each row's gradient, a tensor for each trainable parameter, and the mean over rows and weights of its square.
    """
    mean, square = [torch.zeros_like(p) for p in view.params], 0.0
    for i in range(len(rows)):
        row_gradient = view.grad(NLL(rows.name), {rows.name: rows.select([i])})
        mean = [a + b / len(rows) for a, b in zip(mean, row_gradient, strict=True)]
        square += float(global_norm(row_gradient)) ** 2 / len(rows)
    return mean, square / sum(g.numel() for g in mean)


def attribution(weight: Tensor, forget: Tensor, retain: Tensor, gamma: float) -> Tensor:
    """WAGLE's score of each weight. As gamma goes to infinity it becomes the score of SNIP, |theta g_f|.

    Args:
        weight: a parameter tensor.
        forget: the gradient of the forget loss, of the same shape.
        retain: the gradient of the retain loss, of the same shape.
        gamma: curvature of the retain loss.
    """
    return ((weight - retain / max(gamma, 1e-30)) * forget).abs()


def largest(scores: list[Tensor], count: int) -> list[Tensor]:
    """Masks of the `count` largest scores of all tensors together; of equal scores the first win.

    Bisection finds the threshold, because sorting the weights of a large model would take several times their memory.

    Args:
        scores: tensors of non-negative scores.
        count: number of entries that the masks mark in total.

    Returns:
        A boolean mask for each tensor, of its shape.
    """
    bits = [s.float().contiguous().view(torch.int32) for s in scores]  # non-negative floats have the order of their bits
    low, high = 0, 2**31 - 1
    while high - low > 1:
        middle = (low + high) // 2
        enough = sum(int((b >= middle).sum()) for b in bits) >= count
        low, high = (middle, high) if enough else (low, middle)
    ties_left = count - sum(int((b > low).sum()) for b in bits)
    masks = []
    for b in bits:
        ties = b == low
        chosen_ties = ties & (ties.flatten().cumsum(0).view_as(b) <= ties_left)
        ties_left -= int(chosen_ties.sum())
        masks.append((b > low) | chosen_ties)
    return masks


@part
class WAGLE(Update):
    """Move only the weights that matter, by a mask computed before the first step."""

    fraction: float = hp(0.95, "fraction of the weights that move; 1: the base run", ge=0, le=1)
    gamma: float = hp(0.0, "curvature of the retain loss; 0: its mean Fisher information; a small value ranks by |g_f g_r|", ge=0)
    score: Score = hp("wagle", "score that ranks the weights: |(theta - g_r / gamma) g_f|, |theta g_f|, |g_f|, |theta| or random numbers")
    hold: bool = hp(True, "keep masked weights fixed; off: they still decay, as in the authors' code")
    reads = frozenset({"forget", "retain"})

    def begin(self, view: View) -> State:
        rng = view.rng()
        drawn = torch.randperm(len(view.retain), generator=rng)[: len(view.forget)].tolist()
        forget, _ = gradient(view, view.forget)
        retain, fisher = gradient(view, view.retain.select(drawn))
        weights = [p.detach() for p in view.params]
        rankings: dict[Score, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
            "wagle": lambda w, f, r: attribution(w, f, r, self.gamma or fisher),
            "snip": lambda w, f, r: (w * f).abs(),
            "gradient": lambda w, f, r: f.abs(),
            "magnitude": lambda w, f, r: w.abs(),
            "random": lambda w, f, r: torch.rand(w.shape, generator=rng),
        }
        count = int(self.fraction * sum(w.numel() for w in weights))
        masks = largest([rankings[self.score](*tensors) for tensors in zip(weights, forget, retain, strict=True)], count)
        return {str(i): m for i, m in enumerate(masks)}

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def masked(*roles: str) -> Gradient:
            value, gradient = grads(*roles)
            return value, [g * m for g, m in zip(gradient, self._masks(step), strict=True)]

        return masked

    def holds(self, step: Step) -> list[Tensor] | None:
        return [~m for m in self._masks(step)] if self.hold else None

    def _masks(self, step: Step) -> list[Tensor]:
        return [step.state[str(i)].to(p.device) for i, p in enumerate(step.params)]


def plan(
    batch_mean: Annotated[bool, "NPO of the mean loss of a batch, instead of NPO of each row's mean loss, averaged"] = False,
) -> Plan:
    train = Train(epochs=0, steps=400, lr=1e-5, batch_size=4, warmup=0.4, weight_decay=0.1, max_grad_norm=1.0)
    return Plan(npo_on_means(0.1, 1.0, batch_mean), train=train, updates=(WAGLE(),))
