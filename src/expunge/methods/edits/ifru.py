"""Influence function for recommendation unlearning (IFRU): one Newton-like step of the vectors that the rows to forget reached.

A forgotten row is gone from the loss, and, where the model holds its training rows as a graph, from what all other rows read. Both effects
are removed to first order. All weights outside the tables stay.

Equation: w <- w + (H + d I)^-1 g; g = sum_forget grad_w l + sum_retain (grad_w l - grad_w l_without), l with the forget rows in the graph,
  l_without without them; w the vectors that forget rows look up, and those where the second sum is not zero; H the Hessian in w of the loss
  summed over forget and retain rows, that is n times that of the mean loss. residual_correction: newton: g - n grad_w (mean loss);
  published: g + n grad_w (mean loss)
Source: Zhang et al. 2023, Recommendation unlearning via influence function, arXiv 2307.02147; code: baiyimeng/IFRU
Needs: forget, retain; second derivatives; of a graph, that the model can hold rows and let them go
Cost: a forward and backward of the forget rows, two of the retain rows, and for each of up to `iterations` products a double backward of
  the rows that depend on the moved vectors, in a graph all
Differs: the system is solved by conjugate gradients, with a damping that the published one lacks; `solver adam` is the authors' descent,
  which they stop by the AUC of a validation set and which here takes `iterations` steps. The vectors that spill-over reaches are those with
  a gradient of it, while the authors' code counts k steps from the removed edges and weighs them by degree. The authors leave the residual
  term out here; see `scif` for its signs
Status: not shown
"""

from contextlib import nullcontext
from typing import Any, Literal

from torch import Tensor

from expunge.core.capabilities import LooksUp
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit
from expunge.core.plan import Plan
from expunge.core.view import View
from expunge.methods.vectors import Block, InverseHessian, Kinds, Summed, as_trained, blocks_of, holding, joined

NOISE = 1e-6  # spill-over below this share of the largest gradient is that of sums in another order


@part
class GraphInfluence(Edit):
    """Removes what the rows to forget did to the vectors, by the loss and by the graph, to first order."""

    vectors: Kinds = hp("all", "which of a forget row's vectors move: all, or the most personal alone (in recommenders that of the user)")
    spill_over: bool = hp(True, "whether vectors move that the forget rows reached through the graph; without a graph there are none")
    inverse: InverseHessian = InverseHessian()
    curvature: Literal["all", "remaining"] = hp("all", "rows of the Hessian: all training rows, as published, or the retain rows alone")
    residual_correction: Literal["off", "newton", "published"] = hp(
        "off", "add the gradient that the original training left: with the sign of a Newton step, or with that of scif's code"
    )
    draws: int = hp(4, "draws of what training draws for each row, such as negatives", ge=1)
    batch_size: int = hp(4096, "rows in one forward pass; affects memory, not the result", ge=1)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({LooksUp})

    def apply(self, view: View) -> None:
        counts: dict[str, Any] = {"forget": len(view.forget), "retain": len(view.retain)}
        sets = {name: as_trained(view, view.rows(name), self.draws) for name in counts}
        losses, block = Summed(view, sets, counts, self.batch_size), joined(blocks_of(view, view.forget, self.vectors))
        with holding(view, view.forget):
            direct, retain = losses.gradient("forget"), losses.gradient("retain")
        spilled = [a - b for a, b in zip(retain, losses.gradient("retain"), strict=True)]
        total = [g + s for g, s in zip(direct, spilled, strict=True)] if self.spill_over else direct
        if self.spill_over:
            block = block | self._reached(view, spilled, max(float(g.abs().max()) for g in direct if g.numel()))
        g = block.flat(total)
        if self.residual_correction != "off":
            left = block.flat(direct) + block.flat(retain)
            g = g - left if self.residual_correction == "newton" else g + left
        names = ("forget", "retain") if self.curvature == "all" else ("retain",)
        with holding(view, view.forget) if self.curvature == "all" else nullcontext():
            step = self.inverse.times(losses.product(names, block), g, sum(counts[n] for n in names), view)
        block.move(view.params, step)

    def _reached(self, view: View, spilled: list[Tensor], largest: float) -> Block:
        """The vectors of all tables where spill-over is more than noise."""
        tables = {i for block in blocks_of(view, view.forget, self.vectors) for i in block.masks}
        return Block({i: spilled[i].abs().amax(1) > NOISE * largest for i in tables})


def plan() -> Plan:
    return Plan(GraphInfluence())
