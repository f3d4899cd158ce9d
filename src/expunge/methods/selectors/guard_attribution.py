"""GUARD: weigh each row to forget by how little its gradient has to do with that of the retain rows, and then forget as usual.

What a row shares with the rest is unlearned gently, what is its own more than otherwise. Weights are found once and stand before any
method: `--select guard_attribution`.

Equation: w_i = n exp(-a_i / t) / sum_j exp(-a_j / t), a_i = <grad l_i, G> (cosine: over |grad l_i|), G = mean_retain grad l, at the
  start, l the mean NLL of a row's labels, t `temperature` standard deviations of a; then the base loss with each row's share times w_i, by
  default L = mean_forget w_i log p(y_t | x, y_<t) + NLL(retain)
Source: Niu et al. 2025, arXiv 2506.10946
Needs: forget, retain (also before a method without a retain term)
Cost: once, a forward and backward of the retain rows and of each forget row, and a gradient more in memory; then a number a row
Differs: weights and their form are inferred, as the authors' code and absolute temperatures are not public: a softmax of mean 1, and
  temperatures in units of a's spread; the base loss averages as it does without weights (over labels or rows); the true answers are
  attributed, also where refusals are trained. A method of several stages finds weights anew in each
Status: faithful
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from expunge.core.hyperparameters import hp, part
from expunge.core.modality import ModelOutput
from expunge.core.needs import Need
from expunge.core.parts import Objective, Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.core.view import Step, View
from expunge.methods.terms import NLL, Ascent


def losses(answer: ModelOutput) -> Tensor:
    """The mean loss of the labels of each row, (rows,)."""
    return answer.loss.mean()


@part
class RowNLL(Objective):
    """Negative log-likelihood, averaged over the labels of each retain row, and then over rows."""

    reads = frozenset({"retain"})
    role = "retain"

    def loss(self, step: Step) -> Tensor:
        return step.mean(losses(step.now(step.retain)), step.retain)


def products(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Inner products of gradients, (rows, *shape) each, with those of as many rows or with one: (rows,), in 32 bits or more."""
    exact = torch.promote_types(a[0].dtype, torch.float32)
    return torch.stack([(x.to(exact) * y.to(exact)).flatten(1).sum(1) for x, y in zip(a, b, strict=True)]).sum(0)


def weights(alignment: Tensor, temperature: float) -> Tensor:
    """Weights of mean 1 that fall with the alignment, (rows,). Of alignments that differ by rounding alone, all are 1."""
    a = alignment.double()
    spread = a.std(correction=0)
    if spread <= 1e-6 * a.abs().max():
        return torch.ones_like(a)
    return len(a) * (-a / (temperature * spread)).softmax(0)


@part
class Attribution(Selector):
    """Weigh the rows to forget by their alignment with the retain rows."""

    alignment: Literal["product", "cosine"] = hp("product", "inner product of gradients; or their cosine, in which no row's size counts")
    temperature: float = hp(1.0, "temperature of the weights, in standard deviations of the alignments; large: all weights are 1", gt=0)
    sample: int = hp(0, "retain rows that the alignment is with, drawn once; 0: all of them", ge=0)
    reads = frozenset({"forget", "retain"})
    gives = frozenset({"forget"})
    needs = frozenset({Need.EXAMPLE_GRADS})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        given = torch.tensor(rows.weight or (1.0,) * len(rows), dtype=torch.float64)
        found = given * weights(self.alignments(view), self.temperature)
        return {**sets, "forget": replace(rows, weight=tuple(found.tolist()))}

    def alignments(self, view: View) -> Tensor:
        """How each forget row's gradient agrees with the mean one of the retain rows, (rows,)."""
        retain = view.retain
        drawn = torch.randperm(len(retain), generator=view.rng())[: self.sample or None]
        mean = view.grad(RowNLL(), {"retain": retain.select(drawn.tolist())})
        found = []
        for grads in view.example_grads(view.forget, losses):
            size = products(grads, grads).sqrt().clamp_min(1e-30) if self.alignment == "cosine" else 1.0
            found.append((products(grads, mean) / size).cpu())
        return torch.cat(found)


def plan() -> Plan:
    return Plan(
        Ascent() + NLL("retain"), train=Train(epochs=5, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01), selectors=(Attribution(),)
    )
