"""Selective synaptic dampening (SSD): shrink the weights that matter much more to the rows to forget than to all training rows.

One pass over the data, no training and no labels but the rows' own; what is selected is shrunk by the factor by which it matters more.

Equation: I_S = (1/B) sum_b (grad L_b)^2 over the B batches of a set, L_b the mean loss of a batch; where I_F > alpha I_D:
  theta <- theta min(lambda I_D / I_F, 1); importance logits: I_S = (1/B) sum_b |grad mean_i |f(x_i)|^2|;
  adaptive: alpha is the percentile 100 - ln(1 + 100 |F| / |D|) of the finite ratios I_F / I_R of all weights together
Source: Foster et al. 2024, arXiv 2308.07707; without labels: Foster et al. 2024, arXiv 2402.19308; adaptive: Schoepf et al. 2024,
  arXiv 2402.10098
Needs: forget, retain; with `batch 1` gradients of single rows
Cost: one forward and backward of the forget and the retain rows, in all; two numbers a weight
Differs: the batches of D are those of the retain rows and those of the forget rows, where the authors let one batch hold both. Batches are
  cut in the order of the rows, as theirs are: rows sorted by class weigh more, since their gradients do not cancel
Status: reproduced
"""

import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import ModelOutput
from expunge.core.needs import Need
from expunge.core.parts import Edit, Objective
from expunge.core.plan import Plan
from expunge.core.rows import Packed
from expunge.core.view import Step, View

Importance = Literal["loss", "logits"]


def sensitive(answer: ModelOutput, importance: Importance) -> Packed:
    """What a weight is important for, by label: the log-probability, or, without labels, the squared length of the scores."""
    return answer.loss if importance == "loss" else answer.logits.map(lambda z: z.square().sum(-1))


@part
class Sensitive(Objective):
    """The mean over a batch of what a weight is important for."""

    over: Literal["forget", "retain"] = "retain"
    importance: Importance = "loss"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.over})

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        return step.mean(sensitive(step.now(rows), self.importance), rows)


@part
class Dampen(Edit):
    """Multiply the weights that stand out by how little others need them."""

    alpha: float = hp(10.0, "how many times more a weight must matter to the rows to forget to be selected; unused where adaptive", ge=0)
    dampening: float = hp(1.0, "lambda: the factor on I_D / I_F; below 1 selected weights shrink more", ge=0)
    floor: float = hp(0.0, "smallest factor that a weight is multiplied by", ge=0, le=1)
    importance: Importance = hp("loss", "squared gradients of the loss, or, without labels, gradients of the scores' squared length")
    batch_size: int = hp(128, "rows whose gradients are averaged before they are squared; 1: each row alone", ge=1)
    against: Literal["all", "retain"] = hp("all", "rows that the rows to forget are compared with: all training rows, or the retain rows")
    adaptive: bool = False
    reads = frozenset({"forget", "retain"})

    @property
    def requires(self) -> frozenset[Any]:
        return frozenset() if self.importance == "loss" else frozenset({Categorical})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({Need.EXAMPLE_GRADS}) if self.batch_size == 1 else frozenset()

    def apply(self, view: View) -> None:
        (mine, n), (rest, m) = self._importance(view, "forget"), self._importance(view, "retain")
        everything = [a + b for a, b in zip(mine, rest, strict=True)]
        theirs = [a / (n + m) for a in everything] if self.against == "all" else [b / m for b in rest]
        mine, share = [a / n for a in mine], len(view.forget) / (len(view.forget) + len(view.retain))
        alpha = threshold(mine, theirs, share) if self.adaptive else self.alpha
        for p, f, d in zip(view.params, mine, theirs, strict=True):
            factor = (self.dampening * d / f).clamp(self.floor, 1.0)  # where f is 0 nothing is selected
            p.copy_(torch.where(f > alpha * d, p * factor, p))

    def _importance(self, view: View, name: Literal["forget", "retain"]) -> tuple[list[Tensor], int]:
        """Importances summed over the batches of a set, and how many batches there are."""
        what, rows, total = Sensitive(name, self.importance), view.rows(name), [torch.zeros_like(p) for p in view.params]
        if self.batch_size == 1:
            found = view.example_grads(rows, lambda answer: sensitive(answer, self.importance).mean())
        else:
            found = ([g[None] for g in view.grad(what, {name: some}, self.batch_size)] for some in view.batches(name, self.batch_size))
        for grads in found:
            for t, g in zip(total, grads, strict=True):
                t += (g.square() if self.importance == "loss" else g.abs()).sum(0)
        return total, math.ceil(len(rows) / self.batch_size)


def threshold(mine: list[Tensor], theirs: list[Tensor], share: float) -> float:
    """The adaptive alpha: of the finite ratios of importances the percentile that leaves the more above it, the more is to be forgotten.

    share: of the rows to forget in all rows.
    """
    ratios = torch.cat([(f / d).flatten().cpu() for f, d in zip(mine, theirs, strict=True)])
    finite = ratios[ratios.isfinite()].numpy()
    return float(np.percentile(finite, 100 - math.log(1 + 100 * share))) if len(finite) else math.inf


def plan(adaptive: Annotated[bool, "set alpha by the share of the rows to forget; compares with the retain rows alone"] = False) -> Plan:
    return Plan(Dampen(adaptive=adaptive, against="retain" if adaptive else "all"))
