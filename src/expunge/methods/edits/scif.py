"""Selective and collaborative influence (SCIF): one Newton-like step of the forgotten rows' vectors, as if the labels had been neutral.

All other weights stay, so the step is cheap. A neutral label takes the place of a forgotten one instead of leaving a gap, which keeps what
other rows learn together with it.

Equation: w <- w + (H + d I)^-1 g; w the vectors that the forget rows look up; g = sum_forget (grad_w l(y) - grad_w l(y')); y' the mean
  label of the retain rows with the same first vector, else with the same second one, else of all classes alike; H the Hessian in w of the
  loss summed over forget and retain rows, that is n times that of the mean loss. residual_correction: newton: g - n grad_w (mean loss);
  published: g + n grad_w (mean loss)
Source: Li et al. 2023, Selective and collaborative influence function for efficient recommendation unlearning, arXiv 2304.10199; code:
  baiyimeng/IFRU
Needs: forget, retain; second derivatives
Cost: a forward and backward of the forget rows twice, a forward of the retain rows, and for each of up to `iterations` products a double
  backward of the rows that depend on the moved vectors: those that look one up, and in a graph all
Differs: the system is solved by conjugate gradients, with a damping that the published one lacks; `solver adam` is the authors' descent,
  which they stop by the AUC of a validation set and which here takes `iterations` steps. The authors' residual term has the sign of an
  ascent, so it is off by default, with the sign of a Newton step under `newton` and theirs under `published`. Labels of negatives belong to
  their row and become neutral with it. Where all labels are of one class, as in comparisons of an item with negatives, their mean would
  teach the forgotten again, so y' is all classes alike. The paper has one loss, the cross-entropy of pairs; here it is the model's own
Status: shown
"""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical, LooksUp, require
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit
from expunge.core.plan import Plan
from expunge.core.rows import Rows
from expunge.core.view import Step, View
from expunge.methods.terms import SetTerm
from expunge.methods.vectors import InverseHessian, Kinds, Summed, as_trained, blocks_of, joined

NEUTRAL = "neutral"  # the column with the probability of each class of a row's neutral label


@part
class NeutralLabels(SetTerm):
    """Cross-entropy of a set against the neutral label of each row, averaged over the labels of a row and then over rows."""

    over: str = "forget"
    requires = frozenset({Categorical})

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        log_probs = step.now(rows).log_probs
        target = torch.tensor(list(rows[NEUTRAL]), dtype=log_probs.values.dtype, device=log_probs.values.device)[log_probs.row]
        return step.mean(replace(log_probs, values=-(target * log_probs.values).sum(-1)).mean(), rows)


def neutral_labels(counts: Tensor, kept: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """The mean label of the kept rows that share a vector with each wanted row.

    Args:
        counts: labels of each kept row by class, (kept, classes).
        kept: the place of each kept row's vector, (kept,), by kind; the kind that decides is the first in which a kept row shares it.
        wanted: likewise of the wanted rows, (wanted,).

    Returns:
        Probabilities, (wanted, classes); uniform where no kept row shares a vector, and where all labels are of one class.
    """
    classes = counts.shape[1]
    labels = torch.full((len(wanted[0]), classes), 1 / classes, dtype=torch.float64)
    if int((counts.sum(0) > 0).sum()) < 2:
        return labels
    for kept_places, wanted_places in reversed(list(zip(kept, wanted, strict=True))):
        size = int(torch.cat([kept_places, wanted_places]).max()) + 1
        totals = torch.zeros(size, classes, dtype=torch.float64).index_add(0, kept_places, counts.double())[wanted_places]
        shared = totals.sum(1) > 0
        labels[shared] = totals[shared] / totals[shared].sum(1, keepdim=True)
    return labels


@part
class CollaborativeInfluence(Edit):
    """Moves the vectors of the rows to forget to where neutral labels would have put them, to first order."""

    vectors: Kinds = hp("first", "which of a forget row's vectors move: the most personal (in recommenders that of the user), or all")
    inverse: InverseHessian = InverseHessian()
    curvature: Literal["all", "remaining"] = hp("all", "rows of the Hessian: all training rows, as published, or the retain rows alone")
    residual_correction: Literal["off", "newton", "published"] = hp(
        "off", "add the gradient that the original training left: with the sign of a Newton step, or with that of the authors' code"
    )
    draws: int = hp(4, "draws of what training draws for each row, such as negatives", ge=1)
    batch_size: int = hp(4096, "rows in one forward pass; affects memory, not the result", ge=1)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Categorical, LooksUp})

    def apply(self, view: View) -> None:
        counts: dict[str, Any] = {"forget": len(view.forget), "retain": len(view.retain)}
        forget, retain = as_trained(view, view.forget, self.draws), as_trained(view, view.retain, self.draws)
        forget = forget.add(**{NEUTRAL: self._neutral(view, forget, retain).tolist()})
        losses = Summed(view, {"forget": forget, "retain": retain}, counts, self.batch_size)
        block = joined(blocks_of(view, forget, self.vectors))
        g = block.flat(losses.gradient("forget")) - block.flat(losses.gradient("forget", NeutralLabels()))
        if self.residual_correction != "off":
            left = block.flat(losses.gradient("forget")) + block.flat(losses.gradient("retain"))
            g = g - left if self.residual_correction == "newton" else g + left
        names = ("forget", "retain") if self.curvature == "all" else ("retain",)
        step = self.inverse.times(losses.product(names, block), g, sum(counts[n] for n in names), view)
        block.move(view.params, step)

    def _neutral(self, view: View, forget: Rows, retain: Rows) -> Tensor:
        """Probabilities of the classes for each forget row, (rows, classes)."""
        counts = []
        for i in range(0, len(retain), self.batch_size):
            output = view.now(retain.select(range(i, min(i + self.batch_size, len(retain)))))
            labels = torch.nn.functional.one_hot(output.labels.long(), output.logits.values.shape[-1])
            counts.append(output.logits.map(lambda _, labels=labels: labels.float()).sum().cpu())
        modality = require(view.modality, LooksUp)
        kept, wanted = ([places.cpu() for places, _ in modality.lookups(view.model, rows)] for rows in (retain, forget))
        return neutral_labels(torch.cat(counts), kept, wanted)


def plan() -> Plan:
    return Plan(CollaborativeInfluence())
