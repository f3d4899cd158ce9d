"""Norms of the gradients of single rows without these gradients: from what went into each layer and what came back to it.

The gradient of a linear layer is a sum of outer products of the two over the positions of a row, and the square of its norm is the sum over
pairs of positions of two inner products. So one backward pass over a batch of rows, with all weights frozen, tells the norms of each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from expunge.core.modality import Modality, ModelOutput
from expunge.core.rows import Rows
from expunge.engine.estimators.layers import Uncovered, Use, Watched, linear, table
from expunge.engine.estimators.per_example_grads import ALIKE, row_gradients
from expunge.engine.run_state import evaluating


@dataclass
class Ghost(Watched):
    """The squares of the norms by parameter, once a backward pass is over."""

    squares: dict[int, Tensor] = field(default_factory=dict)  # by id of the parameter, (rows,)
    products: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # of inputs that several layers share

    def _table(self, use: Use, back: Tensor) -> None:
        use.back = back
        ids = use.given.reshape(self.rows, -1)
        same = (ids[:, :, None] == ids[:, None]) & self._moves(use)[:, None]
        self._add(use.own["weight"], (same * (back @ back.mT)).sum((1, 2)))

    def _linear(self, use: Use, back: Tensor) -> None:
        self._add(use.own["weight"], self._outer(use.given, back))
        if (bias := use.own.get("bias")) is not None:
            self._add(bias, torch.stack([g.sum(0).square().sum() for g in self._by_row(back)]))
        if tied := self._tied(use):
            use.paired = [g[:, ids] for g, ids in zip(self._by_row(back), tied.given.reshape(self.rows, -1), strict=True)]

    def _small(self, use: Use, grads: dict[str, Tensor]) -> None:
        for name, grad in grads.items():
            self._add(use.own[name], grad.flatten(1).square().sum(1))

    @torch.no_grad()
    def norms(self, params: Sequence[Tensor]) -> Tensor:
        """After the backward pass: norms by parameter, in this order, (rows, tensors); 0 where nothing came back."""
        for use in self.uses:
            tied = self._tied(use)
            if tied is not None and tied.back is not None and use.paired:
                table_backs = tied.back * self._moves(tied)[:, :, None]
                between = zip(use.paired, self._by_row(use.given), table_backs, strict=True)
                self._add(use.module.weight, 2 * torch.stack([(p * (x @ e.T)).sum() for p, x, e in between]))  # type: ignore[arg-type]
        none = self.leaves[0].new_zeros(self.rows, dtype=torch.float32)
        self.forget()
        self.products.clear()
        return torch.stack([self.squares.get(id(p), none).clamp_min(0).sqrt() for p in params], 1)

    def _tied(self, use: Use) -> Use | None:
        """The use of a table whose weight this layer has, too."""
        tables = [u for u in self.uses if table(u.module)] if linear(use.module) else []
        return next((u for u in tables if u.module.weight is use.module.weight), None)

    def _outer(self, given: Tensor, back: Tensor) -> Tensor:
        """Squared norm of the sum of outer products over the positions of each row, (rows,)."""
        x, g = self._by_row(given), self._by_row(back)
        longest, (a, b) = max(map(len, x)), (given.shape[-1], back.shape[-1])
        if longest * (a + b) > a * b:  # the products themselves are cheaper
            return torch.stack([(mine.T @ its).square().sum() for its, mine in zip(x, g, strict=True)])
        if isinstance(x, Tensor) and isinstance(g, Tensor):
            if id(given) not in self.products:
                self.products[id(given)] = given, x @ x.mT
            return (self.products[id(given)][1] * (g @ g.mT)).sum((1, 2))
        return torch.stack([((its @ its.T) * (mine @ mine.T)).sum() for its, mine in zip(x, g, strict=True)])

    def _add(self, parameter: Tensor, squares: Tensor) -> None:
        known = self.squares.get(id(parameter))
        self.squares[id(parameter)] = squares.float() if known is None else known + squares.float()


def gradient_norms(
    model: nn.Module,
    modality: Modality,
    rows: Rows,
    losses: Callable[[ModelOutput, Sequence[int]], Tensor],
    batches: Iterable[Sequence[int]],
) -> Tensor:
    """L2 norms of the gradient of each row's loss by all parameters, (rows, tensors), tied ones once; in evaluation mode.

    losses: answer to rows, their places -> (rows,), each on its own; of some rows it is asked twice. batches: places of rows that share a
    forward and a backward pass, where the layers allow it and a first row gives the same both ways; else the gradient of each row is made.
    """
    params = [p for p in model.parameters() if p.is_floating_point()]
    out = torch.zeros(len(rows), len(params))

    def ghosts(places: Sequence[int]) -> Tensor:
        ghost = Ghost(len(places))
        with evaluating(model), torch.enable_grad():
            with ghost.watching(model):
                answer = modality.forward(model, [rows.select(places)])[0]
            ghost.row = answer.loss.row
            torch.autograd.backward(losses(answer, places).sum(), inputs=ghost.leaves)
        return ghost.norms(params).cpu()

    def made(places: Sequence[int], batch_size: int = 1) -> Tensor:
        found, asked = list[Tensor](), iter(places)

        def each(answer: ModelOutput) -> Iterator[Tensor]:
            yield losses(answer, list(islice(asked, answer.loss.rows)))

        def use(grads: list[Tensor]) -> None:
            found.append(torch.stack([torch.linalg.vector_norm(g.float().flatten(1), dim=1) for g in grads], 1).cpu())

        with _all_move(params):
            row_gradients(model, lambda some: modality.forward(model, [some])[0], rows.select(places), each, use, batch_size)
        return torch.cat(found)

    split = [list(places) for places in batches]
    if not split or _alike(ghosts, made, split[0]):
        for places in split:
            out[places] = ghosts(places)
    else:
        every = [place for places in split for place in places]
        out[every] = made(every, len(split[0]))
    return out


@contextmanager
def _all_move(params: Sequence[Tensor]) -> Iterator[None]:
    """Meanwhile all of them have gradients."""
    flags = [p.requires_grad for p in params]
    try:
        for p in params:
            p.requires_grad_(True)
        yield
    finally:
        for p, flag in zip(params, flags, strict=True):
            p.requires_grad_(flag)


def _alike(ghosts: Callable[[list[int]], Tensor], made: Callable[[list[int]], Tensor], places: Sequence[int]) -> bool:
    """Whether the last row of a batch has the same norms without its gradient as with it."""
    try:
        found = ghosts([places[0], places[-1]])[-1]
    except (Uncovered, RuntimeError):  # a layer that is not known, or that is used in another way than by being called
        return False
    wanted = made([places[-1]])[0]
    return bool(((found - wanted).abs() <= ALIKE * wanted.max()).all())
