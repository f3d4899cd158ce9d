"""GUARD: weight each forget row by how little its gradient shares with that of the retain rows, and then forget as usual.

The method unlearns gently what a row shares with the retain rows, and more strongly than usual what belongs to the row alone. The weights
are computed once and work before any method: `--select guard_attribution`.

Equation: w_i = n exp(-a_i / t) / sum_j exp(-a_j / t), a_i = <grad l_i, G> (cosine: over |grad l_i|), G = mean_retain grad l, at the start,
  l the mean NLL of a row's labels, t `temperature` standard deviations of a; then the base loss with each row's share times w_i, by default
  L = -mean_i w_i l_i + mean_retain l
Source: Niu et al. 2025, arXiv 2506.10946
Needs: forget, retain (also before a method without a retain term)
Cost: once, a forward and backward of the retain rows and of each forget row, and one more gradient in memory; then a number a row
Differs: weights and their form are inferred, because the authors' code and absolute temperatures are not public: a softmax of mean 1, and
  temperatures in units of a's spread; another base loss averages as it does without weights (over labels or rows), and `batch_mean true`
  makes the default one average over all labels of a batch; the attribution uses the true answers, even where refusals are trained. A method
  of several stages computes the weights again in each stage
Status: not shown
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from expunge.core.hyperparameters import hp, part
from expunge.core.modality import ModelOutput
from expunge.core.needs import Need
from expunge.core.parts import Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.core.view import View
from expunge.methods.terms import NLL, Ascent, RowAscent, RowNLL


def losses(output: ModelOutput) -> Tensor:
    """Mean loss of each row's labels, (rows,)."""
    return output.loss.mean()


def products(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Inner products of the gradients of rows, computed in float32 or wider.

    Args:
        a: a tensor (rows, *shape) for each parameter.
        b: the same shapes, or (*shape) for one gradient shared by all rows.

    Returns:
        Inner products, (rows,).
    """
    exact = torch.promote_types(a[0].dtype, torch.float32)
    return torch.stack([(x.to(exact) * y.to(exact)).flatten(1).sum(1) for x, y in zip(a, b, strict=True)]).sum(0)


def weights(alignment: Tensor, temperature: float) -> Tensor:
    """Row weights of mean 1 that decrease with the alignment.

    Args:
        alignment: alignment of each forget row with the retain rows, (rows,).
        temperature: temperature of the softmax, in standard deviations of the alignment.

    Returns:
        Weights, (rows,), in float64. All weights are 1 if the alignments differ only by rounding.
    """
    exact = alignment.double()
    spread = exact.std(correction=0)
    if spread <= 1e-6 * exact.abs().max():
        return torch.ones_like(exact)
    return len(exact) * (-exact / (temperature * spread)).softmax(0)


@part
class Attribution(Selector):
    """Weight the forget rows by the alignment of their gradients with the retain gradient."""

    alignment: Literal["product", "cosine"] = hp(
        "product", "inner product of gradients, or their cosine, which ignores the length of a row's gradient"
    )
    temperature: float = hp(
        1.0, "temperature of the weights, in standard deviations of the alignments; a large value makes all weights 1", gt=0
    )
    sample: int = hp(0, "number of retain rows, drawn once, whose gradient the alignment uses; 0: all of them", ge=0)
    reads = frozenset({"forget", "retain"})
    gives = frozenset({"forget"})
    needs = frozenset({Need.EXAMPLE_GRADS})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        earlier_weights = torch.tensor(rows.weight or (1.0,) * len(rows), dtype=torch.float64)
        new_weights = earlier_weights * weights(self.alignments(view), self.temperature)
        return {**sets, "forget": replace(rows, weight=tuple(new_weights.tolist()))}

    def alignments(self, view: View) -> Tensor:
        """Alignment of each forget row's gradient with the mean gradient of the retain rows, (rows,)."""
        retain = view.retain
        drawn = torch.randperm(len(retain), generator=view.rng())[: self.sample or None]
        mean = view.grad(RowNLL(), {"retain": retain.select(drawn.tolist())})
        alignments = []
        for grads in view.example_grads(view.forget, losses):
            norms = products(grads, grads).sqrt().clamp_min(1e-30) if self.alignment == "cosine" else 1.0
            alignments.append((products(grads, mean) / norms).cpu())
        return torch.cat(alignments)


def plan(
    batch_mean: Annotated[bool, "average losses over all labels of a batch, instead of over each row's labels and then over rows"] = False,
) -> Plan:
    loss = Ascent() + NLL("retain") if batch_mean else RowAscent() + RowNLL("retain")
    return Plan(loss, train=Train(epochs=5, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01), selectors=(Attribution(),))
