"""Selective synaptic dampening (SSD): shrink the weights that matter much more to the forget rows than to all training rows.

The edit takes one pass over the data, without training and without labels beyond the rows' own. A selected weight shrinks by the factor by
which it matters more.

Equation: I_S = (1/B) sum_b (grad L_b)^2 over the B batches of a set, L_b the mean loss of a batch; where I_F > alpha I_D: theta <- theta
  min(lambda I_D / I_F, 1); importance logits: I_S = (1/B) sum_b |grad mean_i |f(x_i)|^2|; adaptive: alpha is the percentile 100 - ln(1 +
  100 |F| / |D|) of the finite ratios I_F / I_R of all weights together
Source: Foster et al. 2024, arXiv 2308.07707; without labels: Foster et al. 2024, arXiv 2402.19308; adaptive: Schoepf et al. 2024, arXiv
  2402.10098
Needs: forget, retain; with `batch_size 1` gradients of single rows
Cost: one forward and backward of the forget and the retain rows, in all; two numbers a weight
Differs: each batch of D holds retain rows or forget rows, while the authors let one batch hold both. As in their code, batches follow the
  order of the rows: rows sorted by class weigh more, because their gradients do not cancel. Where alpha times the share of forget batches
  is 1 or more, no weight can be selected, because all training rows include the forget rows; such a run says so and ends before it starts
Status: not shown
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
from expunge.core.parts import Edit
from expunge.core.plan import Plan
from expunge.core.rows import Packed
from expunge.core.view import Step, View
from expunge.methods.terms import SetTerm

Importance = Literal["loss", "logits"]


def sensitive(output: ModelOutput, importance: Importance) -> Packed:
    """The quantity whose gradient measures importance, (labels,): the loss, or, without labels, the squared length of the logits."""
    return output.loss if importance == "loss" else output.logits.map(lambda logits: logits.square().sum(-1))


@part
class Sensitive(SetTerm):
    """Mean over a batch of the quantity whose gradient measures importance."""

    over: Literal["forget", "retain"] = "retain"
    importance: Importance = "loss"
    role = "forget"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        return step.mean(sensitive(step.now(rows), self.importance), rows)


@part
class Dampen(Edit):
    """Shrinks the weights that matter more to the forget rows, by the ratio of the importances."""

    alpha: float = hp(10.0, "a weight is selected if it matters more than alpha times as much to the forget rows; unused if adaptive", ge=0)
    dampening: float = hp(1.0, "lambda: factor on I_D / I_F; below 1 selected weights shrink more", ge=0)
    floor: float = hp(0.0, "smallest factor on a weight", ge=0, le=1)
    importance: Importance = hp(
        "loss", "loss: squared gradients of the loss; logits: without labels, gradients of the squared length of the logits"
    )
    batch_size: int = hp(128, "rows whose gradients are averaged before they are squared; 1: each row alone", ge=1)
    against: Literal["all", "retain"] = hp("all", "rows to compare the forget rows with: all training rows, or the retain rows")
    adaptive: bool = False
    reads = frozenset({"forget", "retain"})

    @property
    def requires(self) -> frozenset[Any]:
        return frozenset() if self.importance == "loss" else frozenset({Categorical})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({Need.EXAMPLE_GRADS}) if self.batch_size == 1 else frozenset()

    def apply(self, view: View) -> None:
        if self._hopeless(view):
            return
        (forget, n), (retain, m) = self._importance(view, "forget"), self._importance(view, "retain")
        total = [f + r for f, r in zip(forget, retain, strict=True)]
        compared = [t / (n + m) for t in total] if self.against == "all" else [r / m for r in retain]
        forget, share = [f / n for f in forget], len(view.forget) / (len(view.forget) + len(view.retain))
        alpha = threshold(forget, compared, share) if self.adaptive else self.alpha
        selected = 0
        for p, f, d in zip(view.params, forget, compared, strict=True):
            factor = (self.dampening * d / f).clamp(self.floor, 1.0)  # a weight with f = 0 is never selected
            selected += int((f > alpha * d).sum())
            p.copy_(torch.where(f > alpha * d, p * factor, p))
        if not selected:
            text = f"no weight was selected: none matters more than alpha = {alpha:g} times as much to the rows to forget"
            if self.against == "all" and (most := (n + m) / n) <= alpha:
                text += f", and none can, since they are {n} of {n + m} batches (at most {most:.3g} times)"
            view.warn(f"{text}; give a smaller --alpha, --against retain, or --adaptive true")

    def _hopeless(self, view: View) -> bool:
        """Whether no weight can be selected, because I_D holds I_F in the share of the forget batches; if so, warn."""
        n, m = (math.ceil(len(rows) / self.batch_size) for rows in (view.forget, view.retain))
        if self.against == "retain" or self.adaptive or self.alpha * n < n + m:
            return False
        view.warn(
            f"the weights stay as they are, because no weight can be selected: {n} of the {n + m} batches of training rows hold rows to "
            f"forget, so nothing matters more than {(n + m) / n:.3g} times as much to these, and alpha is {self.alpha:g}. Compare with the "
            f"retain rows (--against retain), let the rows decide (--adaptive true), or give a smaller --alpha"
        )
        return True

    def _importance(self, view: View, name: Literal["forget", "retain"]) -> tuple[list[Tensor], int]:
        """Importances summed over the batches of a set, and the number of batches."""
        objective, rows, total = Sensitive(name, self.importance), view.rows(name), [torch.zeros_like(p) for p in view.params]
        if self.batch_size == 1:
            gradients = view.example_grads(rows, lambda output: sensitive(output, self.importance).mean())
        else:
            batches = view.batches(name, self.batch_size)
            gradients = ([g[None] for g in view.grad(objective, {name: batch}, self.batch_size)] for batch in batches)
        for batch_gradients in gradients:
            for t, g in zip(total, batch_gradients, strict=True):
                t += (g.square() if self.importance == "loss" else g.abs()).sum(0)
        return total, math.ceil(len(rows) / self.batch_size)


def threshold(forget: list[Tensor], compared: list[Tensor], share: float) -> float:
    """The adaptive alpha: a percentile of the finite importance ratios that falls as the share of forget rows grows.

    Args:
        forget: Importances to the forget rows, one tensor for each parameter.
        compared: Importances to the rows of comparison, in the same shapes.
        share: Share of the forget rows among all rows.

    Returns:
        The threshold; infinity where no ratio is finite.
    """
    ratios = torch.cat([(f / d).flatten().cpu() for f, d in zip(forget, compared, strict=True)])
    finite = ratios[ratios.isfinite()].numpy()
    return float(np.percentile(finite, 100 - math.log(1 + 100 * share))) if len(finite) else math.inf


def plan(adaptive: Annotated[bool, "set alpha by the share of the forget rows; compare with the retain rows alone"] = False) -> Plan:
    return Plan(Dampen(adaptive=adaptive, against="retain" if adaptive else "all"))
