"""SalUn: train on random labels, and move only the weights that matter for the forget rows.

Weights that the forget loss hardly depends on stay bit for bit, so the model loses less of everything else. The mask works under any
objective.

Equation: theta <- theta + m * step; m = 1 at the `fraction` of all weights, ranked together, with the largest |grad NLL(forget)| at the
  start; the objective is that of random_labels
Source: Fan et al. 2024, arXiv 2310.12508
Needs: forget, retain, alternate answers (all classes, or refusals, where the request brings none); as an update any objective
Cost: once, a forward and backward of the forget rows; then the cost of the objective, and a bit a weight
Differs: the mask's gradient is the mean over all forget rows, while the authors' code adds up the means of its batches, so that the rows of
  a short last batch count more (`mask_batch_size 256` does the same); both take it at the untouched weights, as that code does since
  December 2023, when it stopped taking optimizer steps in between; the mask uses the true answers, even where training uses other answers;
  masked weights neither decay nor drift
Status: not shown
"""

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Update
from expunge.core.plan import Plan
from expunge.core.view import State, Step, View
from expunge.methods.gradients import Gradient
from expunge.methods.objectives import random_labels
from expunge.methods.objectives.random_labels import Form
from expunge.methods.terms import Ascent
from expunge.methods.updates.wagle import largest


@part
class Saliency(Update):
    """Move only the weights with the largest gradient on the forget rows, by a mask computed before the first step."""

    fraction: float = hp(0.5, "fraction of the weights that move; 1: the base run, 0: none", ge=0, le=1)
    mask_batch_size: int = hp(0, "rows of a batch whose mean gradients are added up for the mask; 0: the mean over all rows", ge=0)
    reads = frozenset({"forget"})

    def begin(self, view: View) -> State:
        batches = view.batches("forget", self.mask_batch_size or len(view.forget))
        sums = [torch.zeros_like(p) for p in view.params]
        for batch in batches:
            sums = [s + g for s, g in zip(sums, view.grad(Ascent(), {"forget": batch}), strict=True)]
        salient = [g.abs() for g in sums]
        masks = largest(salient, int(self.fraction * sum(g.numel() for g in salient)))
        return {str(i): m for i, m in enumerate(masks)}

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def masked(*roles: str) -> Gradient:
            value, gradient = grads(*roles)
            return value, [g * m for g, m in zip(gradient, self._masks(step), strict=True)]

        return masked

    def holds(self, step: Step) -> list[Tensor]:
        return [~m for m in self._masks(step)]

    def _masks(self, step: Step) -> list[Tensor]:
        return [step.state[str(i)].to(p.device) for i, p in enumerate(step.params)]


def plan(
    form: Annotated[
        Form, "how random labels are trained: in turns with the retain rows, mixed with them, or as in amnesiac unlearning"
    ] = "turns",
) -> Plan:
    return replace(random_labels.plan(form), updates=(Saliency(),))
