"""AltEraser: minimize the loss of the retain rows by Newton steps of one block of weights at a time, from the trained model on.

With all other blocks fixed, the vectors of users do not depend on each other, nor do those of items, so a block is a small and nearly
quadratic problem. For squared losses a step is that of alternating least squares.

Equation: L = sum_retain l + ridge/2 |w|^2; w_b <- w_b - s (H_bb + d I)^-1 grad_b L for each block b in turn: vectors of the first kind, of
  the second, other weights; s = 1, halved until L does not grow; round 1: the vectors that forget rows look up; later ones: also those of
  retain rows that share one with them; vectors without any gradient from a retain row become 0
Source: Liu et al. 2022, Forgetting fast in recommender systems, arXiv 2208.06875
Needs: forget (its vectors alone), retain; second derivatives
Cost: for each round and block up to `iterations` products, each a double backward of the retain rows, and some forwards of them
Differs: reconstructed: the order of the blocks, and which blocks take part in which round, are from the abstract and from memory, since
  there is no public code. Vectors of one kind are solved together by conjugate gradients, which gives the solutions of the single
  ones where they are independent, and is right where a graph joins them; the halved step and the growing damping are ours
Status: shown
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from expunge.core.capabilities import LooksUp, require
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit
from expunge.core.plan import Plan
from expunge.core.view import View
from expunge.methods.vectors import Block, InverseHessian, Summed, as_trained, beside, blocks_of

HALVINGS = 8  # of a step, until the block stays


@part
class AlternatingNewton(Edit):
    """Alternates Newton steps over blocks of weights on the retain loss."""

    rounds: int = hp(3, "passes over the blocks, at most", ge=1)
    ridge: float = hp(0.5, "weight of half the squared length of the moved weights, beside the summed loss", ge=0)
    shared: bool = hp(True, "whether weights outside the tables take a step in each round, too")
    stop: float = hp(1e-3, "length of the gradient, as a share of its first one, at which the rounds end", ge=0)
    inverse: InverseHessian = InverseHessian(damping=1e-3, iterations=30, tolerance=1e-2)
    draws: int = hp(4, "draws of what training draws for each row, such as negatives", ge=1)
    batch_size: int = hp(4096, "rows in one forward pass; affects memory, not the result", ge=1)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({LooksUp})

    def apply(self, view: View) -> None:
        counts: dict[str, Any] = {"retain": len(view.retain)}
        losses = Summed(view, {"retain": as_trained(view, view.retain, self.draws)}, counts, self.batch_size)
        records, first = list[dict[str, float]](), 0.0
        for k in range(self.rounds):
            squares = 0.0
            for block in self._blocks(view, k):
                gradients = losses.gradient("retain")
                if self.ridge:
                    self._drop(view, block, gradients)
                gradient = block.flat(gradients) + self.ridge * block.flat(view.params)
                squares += float(gradient @ gradient)
                self._step(view, losses, block, gradient)
            first = first or squares**0.5
            records.append({"round": float(k + 1), "retain_loss": losses.value("retain") / len(view.retain), "gradient": squares**0.5})
            if squares**0.5 <= self.stop * first:
                break
        view.show("rounds", records)

    def _blocks(self, view: View, k: int) -> Iterator[Block]:
        """The blocks of a round, in order."""
        touched = blocks_of(view, view.forget)
        if k:
            modality = require(view.modality, LooksUp)
            pairs = zip(modality.lookups(view.model, view.retain), modality.lookups(view.model, view.forget), strict=True)
            near = torch.stack([torch.isin(kept, gone) for (kept, _), (gone, _) in pairs]).any(0)
            if near.any():
                neighbors = view.retain.select(near.nonzero()[:, 0].tolist())
                touched = [a | b for a, b in zip(touched, blocks_of(view, neighbors), strict=True)]
        yield from touched
        if self.shared and (others := beside(touched, view)).masks:
            yield others

    def _drop(self, view: View, block: Block, gradients: list[Tensor]) -> None:
        """Set vectors that no retain row depends on to 0, where the ridge alone has them. A step would only shrink them, which leaves all
        rankings as they are."""
        for i, mask in block.masks.items():
            if view.params[i].dim() == 2:
                view.params[i][mask & (gradients[i] == 0).all(1)] = 0

    def _step(self, view: View, losses: Summed, block: Block, gradient: Tensor) -> None:
        """A Newton step of one block, as long as it does not raise the loss."""
        if not gradient.any():
            return
        hessian = losses.product(("retain",), block)
        step = self.inverse.times(lambda v: hessian(v) + self.ridge * v, -gradient, len(view.retain), None)
        before = [p.clone() for p in view.params]
        old = self._value(view, losses, block)
        for _ in range(HALVINGS):
            block.move(view.params, step)
            if self._value(view, losses, block) <= old:
                return
            for p, b in zip(view.params, before, strict=True):
                p.copy_(b)
            step = step / 2

    def _value(self, view: View, losses: Summed, block: Block) -> float:
        return losses.value("retain") + self.ridge / 2 * float(block.flat(view.params).square().sum())


def plan() -> Plan:
    return Plan(AlternatingNewton())
