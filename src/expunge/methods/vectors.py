"""Shared code of edits that move some vectors of tables alone: which ones, and Newton-like steps in them.

Losses are sums over rows of the mean loss of a row's labels, so that neither damping nor ridge depends on the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from expunge.core.capabilities import HoldsRows, LooksUp, Redraws, offers, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Objective
from expunge.core.plan import Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import View
from expunge.engine.adapters import base_of
from expunge.engine.schedule import optimizer_of
from expunge.functional import conjugate_gradients
from expunge.methods.terms import RowNLL

Product = Callable[[Tensor], Tensor]
Kinds = Literal["first", "all"]


@dataclass(frozen=True, eq=False)
class Block:
    """Weights that a step moves: of each parameter named here some places along its first dimension.

    Args:
        masks: by the parameter's place in `view.params`, True for the places that move, (first dimension,).
    """

    masks: Mapping[int, Tensor] = field(repr=False)

    def __len__(self) -> int:
        return sum(int(mask.sum()) for mask in self.masks.values())

    def __or__(self, other: Block) -> Block:
        keys = sorted({*self.masks, *other.masks})
        return Block({i: torch.stack([b.masks[i] for b in (self, other) if i in b.masks]).any(0) for i in keys})

    def flat(self, tensors: Sequence[Tensor]) -> Tensor:
        """What tensors of the parameters' shapes hold at these places, as one vector in float64."""
        return torch.cat([tensors[i][mask].flatten().double() for i, mask in self.masks.items()])

    def spread(self, x: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
        """The inverse of `flat`: tensors of the parameters' shapes, 0 at all other places."""
        full, at = [torch.zeros_like(p) for p in params], 0
        for i, mask in self.masks.items():
            size = params[i][mask].numel()
            full[i][mask] = x[at : at + size].view_as(params[i][mask]).to(params[i])
            at += size
        return full

    def move(self, params: Sequence[Tensor], x: Tensor) -> None:
        """Add a vector to the weights."""
        for i, change in enumerate(self.spread(x, params)):
            if i in self.masks:
                params[i].add_(change)


def blocks_of(view: View, rows: Rows, kinds: Kinds = "all") -> list[Block]:
    """The vectors that rows look up, a block for each kind.

    Args:
        kinds: first: the most personal kind alone.

    Raises:
        UserError: for a model whose tables do not train.
    """
    lookups = require(view.modality, LooksUp).lookups(view.model, rows)
    params, place = dict(base_of(view.model).named_parameters()), {id(p): i for i, p in enumerate(view.params)}
    blocks = []
    for places, tables in lookups[:1] if kinds == "first" else lookups:
        if frozen := [name for name in tables if id(params.get(name)) not in place]:
            raise UserError(f"this method moves vectors in {frozen[0]!r}, which does not train here: merge an adapter into the model first")
        masks = {}
        for name in tables:
            mask = torch.zeros(len(params[name]), dtype=torch.bool)
            mask[places.cpu()] = True
            masks[place[id(params[name])]] = mask.to(params[name].device)
        blocks.append(Block(masks))
    return blocks


def joined(blocks: Sequence[Block]) -> Block:
    """All blocks as one."""
    first, *others = blocks
    for other in others:
        first = first | other
    return first


def beside(blocks: Sequence[Block], view: View) -> Block:
    """All weights outside the tables of some blocks."""
    tables = {i for block in blocks for i in block.masks}
    return Block({i: torch.ones(p.shape[:1], dtype=torch.bool, device=p.device) for i, p in enumerate(view.params) if i not in tables})


def as_trained(view: View, rows: Rows, draws: int) -> Rows:
    """The rows as training steps have them: where steps draw something for a row, such as negatives, each row stands here with `draws`
    draws. They are functions of the row and of the run's seed."""
    if not offers(view.modality, Redraws):
        return rows
    modality, rng = require(view.modality, Redraws), view.rng()
    seeds = torch.randint(2**31, (draws,), generator=rng).tolist()
    first, *others = (modality.redraw(rows, seed) for seed in seeds)
    for other in others:
        first = first.concat(other)
    return first


@contextmanager
def holding(view: View, rows: Rows) -> Iterator[None]:
    """Inside the block the model holds some rows beside its weights (the edges of its graph), afterwards it does not."""
    if not offers(view.modality, HoldsRows):
        yield
        return
    modality = require(view.modality, HoldsRows)
    modality.add_rows(view.model, rows)
    try:
        yield
    finally:
        modality.remove_rows(view.model, rows)


def looking_up(view: View, rows: Rows, block: Block) -> Tensor:
    """Whether each row looks up one of the vectors of a block, (rows,); True for all where the block holds other weights, too."""
    params, place = dict(base_of(view.model).named_parameters()), {id(p): i for i, p in enumerate(view.params)}
    touched, of_tables = torch.zeros(len(rows), dtype=torch.bool), set[int]()
    for places, tables in require(view.modality, LooksUp).lookups(view.model, rows):
        for i in (place.get(id(params[name]), -1) for name in tables):
            of_tables.add(i)
            if i in block.masks:
                touched |= block.masks[i].cpu()[places.cpu()]
    return touched if of_tables >= set(block.masks) else torch.ones_like(touched)


class Summed:
    """The sum over rows of their losses, with its derivatives in a block.

    Args:
        view: of the edit.
        sets: rows by name; `retain` and `forget` are names that `losses` may read.
        counts: by name, how many rows a set counts as: with several draws of a row, fewer than it has.
        batch_size: rows in one forward pass.
    """

    def __init__(self, view: View, sets: Sets, counts: Mapping[str, int], batch_size: int) -> None:
        self.view, self.sets, self.counts, self.batch_size = view, sets, counts, batch_size

    def gradient(self, name: str, objective: Objective | None = None) -> list[Tensor]:
        """The gradient of a set's summed loss; objective: a mean over rows instead of their own losses."""
        target = float(self.counts[name]) * (objective or RowNLL(name))
        return self.view.grad(target, {name: self.sets[name]}, self.batch_size)

    def product(self, names: Sequence[str], block: Block) -> Product:
        """The Hessian of the summed loss of some sets, restricted to a block, as a product with vectors in float64.

        Rows that do not depend on the block are left out, so that moving the vectors of a few rows costs as much as these.
        """
        parts = {name: rows for name in names if len(rows := self._depending(name, block))}

        def times(x: Tensor) -> Tensor:
            vector, total = block.spread(x, self.view.params), torch.zeros_like(x)
            for name, rows in parts.items():
                target = self.counts[name] * len(rows) / len(self.sets[name]) * RowNLL(name)
                total += block.flat(self.view.grad(target, {name: rows}, self.batch_size, vector=vector))
            return total

        return times

    def _depending(self, name: str, block: Block) -> Rows:
        """The rows of a set that look up a vector of the block, where no other row has a gradient in it (as through a graph or a
        negative); else all rows."""
        rows = self.sets[name]
        touched = looking_up(self.view, rows, block)
        if touched.all():
            return rows
        others = rows.select((~touched).nonzero()[:, 0].tolist())
        if block.flat(self.view.grad(RowNLL(name), {name: others}, self.batch_size)).any():
            return rows
        return rows.select(touched.nonzero()[:, 0].tolist())

    def value(self, name: str) -> float:
        """The summed loss of a set."""
        rows, total = self.sets[name], 0.0
        for i in range(0, len(rows), self.batch_size):
            total += float(self.view.now(rows.select(range(i, min(i + self.batch_size, len(rows))))).loss.mean().double().sum())
        return total * self.counts[name] / len(rows)


@part
class InverseHessian:
    """How a system with the Hessian of summed losses is solved."""

    solver: Literal["cg", "adam"] = hp(
        "cg", "conjugate gradients with damping; adam: the authors' descent, which stops before the solution"
    )
    damping: float = hp(0.1, "number added to the diagonal of the Hessian of the summed loss; cg alone", ge=0)
    iterations: int = hp(100, "products with the Hessian, at most; of adam: exactly", ge=1)
    tolerance: float = hp(1e-3, "residual at which cg ends, as a share of the right-hand side", gt=0)
    solver_lr: float = hp(1e4, "learning rate of adam, on the step times the number of rows; published: 1e3 to 5e4", gt=0)

    def times(self, product: Product, g: Tensor, rows: int, view: View | None) -> Tensor:
        """The inverse times a vector.

        Args:
            product: with the Hessian.
            g: (n,).
            rows: how many the Hessian sums over.
            view: gets warnings of a step that is not the one asked for; None: steps that need not be exact.

        Raises:
            UserError: for a result that is not finite.
        """
        x = self._by_adam(product, g, rows) if self.solver == "adam" else self._by_cg(product, g, view)
        if not x.isfinite().all():
            raise UserError("the step is not finite: the model's losses or their derivatives are no numbers")
        return x

    def _by_cg(self, product: Product, g: Tensor, view: View | None) -> Tensor:
        solution, damping = conjugate_gradients.damped(product, g, self.damping, self.tolerance, self.iterations)
        if view is None:
            return solution.x
        if damping > self.damping:
            view.warn(
                f"the Hessian is not positive definite in the moved weights, so its damping was raised from {self.damping:g} to "
                f"{damping:.3g}: the step is smaller than asked"
            )
        elif solution.residual > self.tolerance:
            view.warn(
                f"conjugate gradients ended after {self.iterations} iterations with a residual of {solution.residual:.2g}, above "
                f"{self.tolerance:g}: give more --iterations, a larger --damping or a larger --tolerance"
            )
        return solution.x

    def _by_adam(self, product: Product, g: Tensor, rows: int) -> Tensor:
        step = torch.zeros_like(g)
        optimizer = optimizer_of(Train(lr=self.solver_lr, optimizer="adam", weight_decay=0.0), [step])
        for _ in range(self.iterations):
            step.grad = product(step / rows) - g
            optimizer.step()
        return step.detach() / rows
