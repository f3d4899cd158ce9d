"""Norms of the gradients of single rows without these gradients: from what went into each layer and what came back to it.

The gradient of a linear layer is a sum of outer products of the two over the positions of a row, and the square of its norm is the sum over
pairs of positions of two inner products. So one backward pass over a batch of rows, with all weights frozen, tells the norms of each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 2**14  # numbers of a layer that is neither linear nor a table, whose gradients are made for each row


class Uncovered(Exception):
    """A layer of which this is not known."""


@dataclass
class Use:
    """One call of a layer."""

    module: nn.Module
    given: Tensor
    back: Tensor | None = None  # of tables, what came back
    paired: list[Tensor] | None = None  # of a matrix that is tied to a table: what came back for the classes that the table was asked for


@dataclass
class Ghost:
    """What a forward of some rows left behind, and, after the backward pass, the squares of the norms by parameter."""

    rows: int
    uses: list[Use] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)  # outputs of tables: what a gradient can be asked of
    row: Tensor | None = None  # of packed positions, the row of each
    squares: dict[int, Tensor] = field(default_factory=dict)  # by id of the parameter, (rows,)
    products: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # of inputs that several layers share

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Meanwhile all weights are frozen, and calls of layers are remembered. Errors: Uncovered."""
        flags = [(p, p.requires_grad) for p in model.parameters()]
        with ExitStack() as stack:
            for module in model.modules():
                if own := [p for p in module.parameters(recurse=False) if p.is_floating_point()]:
                    if not (linear(module) or table(module) or small(module, own)):
                        raise Uncovered(type(module).__name__)
                    stack.callback(module.register_forward_hook(self._called, with_kwargs=True).remove)
            for p, _ in flags:
                p.requires_grad_(False)
            try:
                yield
                self._check()
            finally:
                for p, flag in flags:
                    p.requires_grad_(flag)

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if len(given) != 1 or not isinstance(out, Tensor):
            raise Uncovered(type(module).__name__)
        use = Use(module, given[0])
        if not out.requires_grad:
            if not table(module):  # it would be asked for what nothing is known of: inputs that are numbers
                out = out.detach()
            if out.shape[0] == 1 < self.rows:  # the same for all rows, as positions are
                out, use.given = out.expand(self.rows, *out.shape[1:]).clone(), use.given.expand(self.rows, *use.given.shape[1:])
            out = out.requires_grad_()
            self.leaves.append(out)
        self.uses.append(use)
        out.register_hook(lambda back: self._back(use, back))
        return out

    def _check(self) -> None:
        """Errors: Uncovered where a parameter was used twice, except as the first table of a model and its last matrix."""
        by: dict[int, list[Use]] = {}
        for use in self.uses:
            for p in use.module.parameters(recurse=False):
                by.setdefault(id(p), []).append(use)
        for uses in by.values():
            if len(uses) > 1 and sorted((table(u.module), linear(u.module)) for u in uses) != [(False, True), (True, False)]:
                raise Uncovered(f"a {type(uses[0].module).__name__} that is used {len(uses)} times")

    @torch.no_grad()
    def _back(self, use: Use, back: Tensor) -> None:
        module = use.module
        own: dict[str, Tensor] = dict(use.module.named_parameters(recurse=False))
        if table(module):
            use.back = back.reshape(self.rows, -1, back.shape[-1])
            ids = use.given.reshape(self.rows, -1)
            same = (ids[:, :, None] == ids[:, None]) & self._moves(use)[:, None]
            self._add(own["weight"], (same * (use.back @ use.back.mT)).sum((1, 2)))
        elif linear(module):
            self._add(own["weight"], self._outer(use.given, back))
            if (bias := own.get("bias")) is not None:
                self._add(bias, torch.stack([g.sum(0).square().sum() for g in self._by_row(back)]))
            if tied := self._tied(use):
                use.paired = [g[:, ids] for g, ids in zip(self._by_row(back), tied.given.reshape(self.rows, -1), strict=True)]
        else:
            for name, grad in self._each(use, back, own).items():
                self._add(own[name], grad.flatten(1).square().sum(1))

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
        for kept in (self.uses, self.leaves, self.products):  # tensors whose hooks know this object, which knows them: a circle
            kept.clear()
        return torch.stack([self.squares.get(id(p), none).clamp_min(0).sqrt() for p in params], 1)

    def _tied(self, use: Use) -> Use | None:
        """The use of a table whose weight this layer has, too."""
        tables = [u for u in self.uses if table(u.module)] if linear(use.module) else []
        return next((u for u in tables if u.module.weight is use.module.weight), None)

    def _moves(self, use: Use) -> Tensor:
        """Which positions of a table have a gradient: not those of padding, (rows, positions)."""
        ids = use.given.reshape(self.rows, -1)
        padding: Any = use.module.padding_idx
        return torch.ones_like(ids, dtype=torch.bool) if padding is None else ids.ne(padding)

    def _by_row(self, x: Tensor) -> Sequence[Tensor]:
        """(positions, width) of each row, from a batch or from packed positions."""
        if x.shape[0] == self.rows:
            return x.reshape(self.rows, -1, x.shape[-1])  # type: ignore[return-value]
        packed = x.reshape(-1, x.shape[-1])
        if self.row is None or len(packed) != len(self.row):
            raise Uncovered("positions that belong to no row")
        return torch.split(packed, torch.bincount(self.row, minlength=self.rows).tolist())

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

    def _each(self, use: Use, back: Tensor, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """The gradient of a small layer by row, (rows, *shape)."""
        x, module = use.given.detach(), use.module
        if len(x) != self.rows or len(back) != self.rows:
            raise Uncovered(type(module).__name__)

        def call(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            out: Tensor = torch.func.functional_call(module, weights, (x,))
            return out

        if all(p.shape == x.shape[-1:] == back.shape[-1:] for p in own.values()):  # a norm: what a weight does shows when it alone is one
            none = {n: torch.zeros_like(p) for n, p in own.items()}
            bare = call(none, x)
            each = ((n, call({**none, n: torch.ones_like(p)}, x) - bare) for n, p in own.items())
            return {n: (back * does).flatten(1, -2).sum(1) for n, does in each}

        def one(x: Tensor, g: Tensor) -> dict[str, Tensor]:
            weights = {n: p.detach() for n, p in own.items()}
            found: dict[str, Tensor] = torch.func.vjp(lambda w: call(w, x[None]), weights)[1](g[None])[0]
            return found

        made: dict[str, Tensor] = torch.func.vmap(one)(x, back)
        return made

    def _add(self, parameter: Tensor, squares: Tensor) -> None:
        known = self.squares.get(id(parameter))
        self.squares[id(parameter)] = squares.float() if known is None else known + squares.float()


def linear(module: nn.Module) -> bool:
    """Whether its output is its input times its weight, either way round: a linear layer, or GPT-2's word for one."""
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def table(module: nn.Module) -> bool:
    """Whether it looks up rows of its weight."""
    return type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq


def small(module: nn.Module, own: Sequence[Tensor]) -> bool:
    """Whether gradients of all its weights can be made for each row: it has few, and no layers within."""
    return not list(module.children()) and sum(p.numel() for p in own) <= SMALL
