"""Ghost norms: the gradient norms of single rows, computed from the inputs and output gradients of each layer without the gradients.

The gradient of a linear layer is a sum of outer products of input and output gradient over the positions of a row. The square of its norm
is a sum over pairs of positions of the product of two inner products. One backward pass over a batch of rows, with all weights frozen,
therefore gives the norms of each row.
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
    """The squared gradient norms of each parameter, collected during a backward pass."""

    squares: dict[int, Tensor] = field(default_factory=dict)  # by id of the parameter, (rows,)
    products: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # inner products of inputs that several layers share

    def _table(self, use: Use, output_grad: Tensor) -> None:
        use.output_grad = output_grad
        ids = use.inputs.reshape(self.rows, -1)
        same = (ids[:, :, None] == ids[:, None]) & self._moves(use)[:, None]
        self._add(use.own["weight"], (same * (output_grad @ output_grad.mT)).sum((1, 2)))

    def _linear(self, use: Use, output_grad: Tensor) -> None:
        self._add(use.own["weight"], self._outer(use.inputs, output_grad))
        if (bias := use.own.get("bias")) is not None:
            self._add(bias, torch.stack([g.sum(0).square().sum() for g in self._by_row(output_grad)]))
        if tied := self._tied(use):
            use.tied_grads = [g[:, ids] for g, ids in zip(self._by_row(output_grad), tied.inputs.reshape(self.rows, -1), strict=True)]

    def _small(self, use: Use, grads: dict[str, Tensor]) -> None:
        for name, grad in grads.items():
            self._add(use.own[name], grad.flatten(1).square().sum(1))

    @torch.no_grad()
    def norms(self, params: Sequence[Tensor]) -> Tensor:
        """Compute the gradient norms after the backward pass.

        Returns:
            Norms of shape (rows, tensors), in the order of `params`; 0 for a parameter without a gradient.
        """
        for use in self.uses:
            tied = self._tied(use)
            if tied is not None and tied.output_grad is not None and use.tied_grads:
                table_grads = tied.output_grad * self._moves(tied)[:, :, None]
                by_row = zip(use.tied_grads, self._by_row(use.inputs), table_grads, strict=True)
                self._add(use.module.weight, 2 * torch.stack([(p * (x @ e.T)).sum() for p, x, e in by_row]))  # type: ignore[arg-type]
        zeros = self.leaves[0].new_zeros(self.rows, dtype=torch.float32)
        self.forget()
        self.products.clear()
        return torch.stack([self.squares.get(id(p), zeros).clamp_min(0).sqrt() for p in params], 1)

    def _tied(self, use: Use) -> Use | None:
        """The use of a table that shares its weight with this layer."""
        tables = [u for u in self.uses if table(u.module)] if linear(use.module) else []
        return next((u for u in tables if u.module.weight is use.module.weight), None)

    def _outer(self, inputs: Tensor, output_grad: Tensor) -> Tensor:
        """Squared norm of the sum of outer products over the positions of each row, (rows,)."""
        x, g = self._by_row(inputs), self._by_row(output_grad)
        longest, (a, b) = max(map(len, x)), (inputs.shape[-1], output_grad.shape[-1])
        if longest * (a + b) > a * b:  # the outer products themselves are cheaper
            return torch.stack([(row_g.T @ row_x).square().sum() for row_x, row_g in zip(x, g, strict=True)])
        if isinstance(x, Tensor) and isinstance(g, Tensor):
            if id(inputs) not in self.products:
                self.products[id(inputs)] = inputs, x @ x.mT
            return (self.products[id(inputs)][1] * (g @ g.mT)).sum((1, 2))
        return torch.stack([((row_x @ row_x.T) * (row_g @ row_g.T)).sum() for row_x, row_g in zip(x, g, strict=True)])

    def _add(self, parameter: Tensor, squares: Tensor) -> None:
        total = self.squares.get(id(parameter))
        self.squares[id(parameter)] = squares.float() if total is None else total + squares.float()


def gradient_norms(
    model: nn.Module,
    modality: Modality,
    rows: Rows,
    losses: Callable[[ModelOutput, Sequence[int]], Tensor],
    batches: Iterable[Sequence[int]],
) -> Tensor:
    """Compute the L2 norm of the gradient of each row's loss with respect to each parameter, in evaluation mode.

    The rows of a batch share one forward and one backward pass when every layer allows it and a test row has the same norms both ways.
    Otherwise the gradient of each row is computed.

    Args:
        losses: maps an output and the places of its rows to losses (rows,), each of which depends on its own row alone. It is called twice
            for some rows.
        batches: places of the rows that share a pass.

    Returns:
        Norms of shape (rows, tensors); tied parameters are counted once.
    """
    params = [p for p in model.parameters() if p.is_floating_point()]
    norms = torch.zeros(len(rows), len(params))

    def ghost_norms(places: Sequence[int]) -> Tensor:
        ghost = Ghost(len(places))
        with evaluating(model), torch.enable_grad():
            with ghost.watching(model):
                output = modality.forward(model, [rows.select(places)])[0]
            ghost.row = output.loss.row
            torch.autograd.backward(losses(output, places).sum(), inputs=ghost.leaves)
        return ghost.norms(params).cpu()

    def exact_norms(places: Sequence[int], batch_size: int = 1) -> Tensor:
        batch_norms, remaining = list[Tensor](), iter(places)

        def row_losses(output: ModelOutput) -> Iterator[Tensor]:
            yield losses(output, list(islice(remaining, output.loss.rows)))

        def use(grads: list[Tensor]) -> None:
            batch_norms.append(torch.stack([torch.linalg.vector_norm(g.float().flatten(1), dim=1) for g in grads], 1).cpu())

        with _all_trainable(params):
            row_gradients(model, lambda batch: modality.forward(model, [batch])[0], rows.select(places), row_losses, use, batch_size)
        return torch.cat(batch_norms)

    batch_places = [list(places) for places in batches]
    if not batch_places or _alike(ghost_norms, exact_norms, next((b for b in batch_places if len(b) > 1), batch_places[0])):
        for places in batch_places:
            norms[places] = ghost_norms(places)
    else:
        all_places = [place for places in batch_places for place in places]
        norms[all_places] = exact_norms(all_places, len(batch_places[0]))
    return norms


@contextmanager
def _all_trainable(params: Sequence[Tensor]) -> Iterator[None]:
    """Make all parameters trainable inside the block."""
    flags = [p.requires_grad for p in params]
    try:
        for p in params:
            p.requires_grad_(True)
        yield
    finally:
        for p, flag in zip(params, flags, strict=True):
            p.requires_grad_(flag)


def _alike(ghost_norms: Callable[[list[int]], Tensor], exact_norms: Callable[[list[int]], Tensor], places: list[int]) -> bool:
    """Whether the ghost norms of the last row of a batch equal the norms of its gradient."""
    try:
        norms = ghost_norms([places[0], places[-1]] if len(places) > 1 else places)[-1]
    except (Uncovered, RuntimeError):  # a layer is unknown, or the model reads its weights without calling it
        return False
    expected = exact_norms([places[-1]])[0]
    return bool(((norms - expected).abs() <= ALIKE * expected.max()).all())
