"""What layers of a model took in and got back, in a forward and a backward pass over a batch with all weights frozen.

It is all that the gradients of single rows are made of, so they, or what is asked of them, cost one pass for the batch and not one a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
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

    @property
    def own(self) -> dict[str, Tensor]:
        """The weights of the layer itself."""
        return dict(self.module.named_parameters(recurse=False))


@dataclass
class Watched(ABC):
    """A forward of some rows under `watching`, and what its backward pass tells of each row."""

    rows: int
    uses: list[Use] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)  # outputs of tables: what a gradient can be asked of
    row: Tensor | None = None  # of packed positions, the row of each

    @abstractmethod
    def _table(self, use: Use, back: Tensor) -> None:
        """back: (rows, positions, width)."""

    @abstractmethod
    def _linear(self, use: Use, back: Tensor) -> None: ...

    @abstractmethod
    def _small(self, use: Use, grads: dict[str, Tensor]) -> None:
        """grads: by name of the weight, (rows, *shape)."""

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

    def forget(self) -> None:
        """Let go of the tensors, whose hooks know this object, which knows them: a circle."""
        self.uses.clear()
        self.leaves.clear()

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
        if table(use.module):
            self._table(use, back.reshape(self.rows, -1, back.shape[-1]))
        elif linear(use.module):
            self._linear(use, back)
        else:
            self._small(use, self._each(use, back))

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

    def _each(self, use: Use, back: Tensor) -> dict[str, Tensor]:
        """The gradient of a small layer by row, (rows, *shape)."""
        x, module, own = use.given.detach(), use.module, use.own
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


def linear(module: nn.Module) -> bool:
    """Whether its output is its input times its weight, either way round: a linear layer, or GPT-2's word for one."""
    return type(module) is nn.Linear or transposed(module)


def transposed(module: nn.Module) -> bool:
    """Whether it is a linear layer whose weight is (inputs, outputs)."""
    return type(module).__name__ == "Conv1D"


def table(module: nn.Module) -> bool:
    """Whether it looks up rows of its weight."""
    return type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq


def small(module: nn.Module, own: Sequence[Tensor]) -> bool:
    """Whether gradients of all its weights can be made for each row: it has few, and no layers within."""
    return not list(module.children()) and sum(p.numel() for p in own) <= SMALL
