"""Record the inputs and output gradients of layers during one forward and one backward pass over a batch, with all weights frozen.

The gradient of each row follows from these records. Per-row gradients, or their norms, therefore cost one pass for the whole batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 2**14  # most weights of a layer that is neither linear nor an embedding table; its gradients are computed row by row


class Uncovered(Exception):
    """The gradients of single rows cannot be derived for this layer."""


@dataclass
class Use:
    """One call of a layer."""

    module: nn.Module
    inputs: Tensor
    output_grad: Tensor | None = None  # kept for tables only
    tied_grads: list[Tensor] | None = None  # of a matrix tied to a table: output gradients of the classes that the table looked up, by row

    @property
    def own(self) -> dict[str, Tensor]:
        """The weights of the layer itself."""
        return dict(self.module.named_parameters(recurse=False))


@dataclass
class Watched(ABC):
    """One forward pass under `watching`, and the per-row results of its backward pass."""

    rows: int
    uses: list[Use] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)  # outputs of tables, from which a backward pass can start
    row: Tensor | None = None  # (positions,) the row of each packed position

    @abstractmethod
    def _table(self, use: Use, output_grad: Tensor) -> None:
        """Handle a table. output_grad: (rows, positions, width)."""

    @abstractmethod
    def _linear(self, use: Use, output_grad: Tensor) -> None: ...

    @abstractmethod
    def _small(self, use: Use, grads: dict[str, Tensor]) -> None:
        """Handle a small layer. grads: by name of the weight, (rows, *shape)."""

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Freeze all weights and record the calls of layers inside the block.

        Raises:
            Uncovered: when the per-row gradients of a layer cannot be derived.
        """
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
        """Release the tensors. Their hooks refer to this object and it refers to them, which is a reference cycle."""
        self.uses.clear()
        self.leaves.clear()

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        if not torch.is_grad_enabled():  # a modality tries the model out before its first pass, and nobody differentiates that
            return out
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if len(tensors) != 1 or not isinstance(out, Tensor):
            raise Uncovered(type(module).__name__)
        use = Use(module, tensors[0])
        if not out.requires_grad:
            if not table(module):  # the input is numbers, and no gradient is recorded for it
                out = out.detach()
            if out.shape[0] == 1 < self.rows:  # all rows share the output, as they share position embeddings
                out, use.inputs = out.expand(self.rows, *out.shape[1:]).clone(), use.inputs.expand(self.rows, *use.inputs.shape[1:])
            out = out.requires_grad_()
            self.leaves.append(out)
        self.uses.append(use)
        out.register_hook(lambda output_grad: self._back(use, output_grad))
        return out

    def _check(self) -> None:
        """Raise Uncovered when a parameter was used twice, except as the input table of a model and its output matrix."""
        uses_by_parameter: dict[int, list[Use]] = {}
        for use in self.uses:
            for p in use.module.parameters(recurse=False):
                uses_by_parameter.setdefault(id(p), []).append(use)
        for uses in uses_by_parameter.values():
            if len(uses) > 1 and sorted((table(u.module), linear(u.module)) for u in uses) != [(False, True), (True, False)]:
                raise Uncovered(f"a {type(uses[0].module).__name__} that is used {len(uses)} times")

    @torch.no_grad()
    def _back(self, use: Use, output_grad: Tensor) -> None:
        if table(use.module):
            self._table(use, output_grad.reshape(self.rows, -1, output_grad.shape[-1]))
        elif linear(use.module):
            self._linear(use, output_grad)
        else:
            self._small(use, self._small_grads(use, output_grad))

    def _moves(self, use: Use) -> Tensor:
        """Which positions of a table have a gradient, (rows, positions): all but padding."""
        ids = use.inputs.reshape(self.rows, -1)
        padding: Any = use.module.padding_idx
        return torch.ones_like(ids, dtype=torch.bool) if padding is None else ids.ne(padding)

    def _by_row(self, x: Tensor) -> Sequence[Tensor]:
        """The (positions, width) tensor of each row, from a batch or from packed positions."""
        if x.shape[0] == self.rows:
            return x.reshape(self.rows, -1, x.shape[-1])  # type: ignore[return-value]
        packed = x.reshape(-1, x.shape[-1])
        if self.row is None or len(packed) != len(self.row):
            raise Uncovered("positions that belong to no row")
        return torch.split(packed, torch.bincount(self.row, minlength=self.rows).tolist())

    def _small_grads(self, use: Use, output_grad: Tensor) -> dict[str, Tensor]:
        """The gradients of a small layer by row, (rows, *shape)."""
        x, module, own = use.inputs.detach(), use.module, use.own
        if len(x) != self.rows or len(output_grad) != self.rows:
            raise Uncovered(type(module).__name__)

        def call(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            out: Tensor = torch.func.functional_call(module, weights, (x,))
            return out

        if all(p.shape == x.shape[-1:] == output_grad.shape[-1:] for p in own.values()):  # a norm layer is linear in each weight
            zeros = {n: torch.zeros_like(p) for n, p in own.items()}
            baseline = call(zeros, x)
            effects = ((n, call({**zeros, n: torch.ones_like(p)}, x) - baseline) for n, p in own.items())
            return {n: (output_grad * effect).flatten(1, -2).sum(1) for n, effect in effects}

        def grads_of_row(x: Tensor, g: Tensor) -> dict[str, Tensor]:
            weights = {n: p.detach() for n, p in own.items()}
            row_grads: dict[str, Tensor] = torch.func.vjp(lambda w: call(w, x[None]), weights)[1](g[None])[0]
            return row_grads

        grads: dict[str, Tensor] = torch.func.vmap(grads_of_row)(x, output_grad)
        return grads


def linear(module: nn.Module) -> bool:
    """Whether the module is a linear layer, including GPT-2's `Conv1D`, whose weight is transposed."""
    return type(module) is nn.Linear or transposed(module)


def transposed(module: nn.Module) -> bool:
    """Whether the module is a linear layer whose weight is (inputs, outputs)."""
    return type(module).__name__ == "Conv1D"


def table(module: nn.Module) -> bool:
    """Whether the module looks up rows of its weight."""
    return type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq


def small(module: nn.Module, own: Sequence[Tensor]) -> bool:
    """Whether the module has few enough weights and no submodules, so that its gradients can be computed row by row."""
    return not list(module.children()) and sum(p.numel() for p in own) <= SMALL
