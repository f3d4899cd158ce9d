"""Gradients of the single rows of a batch, from one forward pass where the model allows it, and gradients by an input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence
from torch.utils._pytree import tree_map

from expunge.core.modality import ModelOutput, Weights
from expunge.core.rows import Rows
from expunge.engine.estimators.layers import Uncovered, Use, Watched, transposed
from expunge.engine.run_state import evaluating

Ask = Callable[[Rows], ModelOutput]
Asked = tuple[ModelOutput, Callable[[Tensor], list[Tensor]]]  # an answer, and what makes of a loss the gradients of its rows
Way = Callable[[nn.Module, Ask, Rows, Weights], AbstractContextManager[Asked]]  # from rows, and the weights that move, by name
ALIKE = 1e-3  # norms of a row that is taken both ways may differ by this share of the largest
ROOM = 2**27  # numbers that the gradients of the rows of one forward may take: half a gigabyte in float32


@dataclass
class ByRow(Watched):
    """The gradients by parameter, once a backward pass is over."""

    wanted: frozenset[int] = frozenset()  # ids of the parameters that are asked for
    grads: dict[int, Tensor] = field(default_factory=dict)  # by id of the parameter, (rows, *shape)

    def taken(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Of these parameters, each (rows, *shape), 0 where nothing came back; the next backward pass begins anew."""
        found = [g if (g := self.grads.get(id(p))) is not None else p.new_zeros(self.rows, *p.shape) for p in params]
        self.grads.clear()
        return found

    def _table(self, use: Use, back: Tensor) -> None:
        weight = use.own["weight"]
        if id(weight) not in self.wanted:
            return
        ids = use.given.reshape(self.rows, -1) + len(weight) * torch.arange(self.rows, device=back.device)[:, None]
        grad = back.new_zeros(self.rows * len(weight), weight.shape[1])
        grad.index_add_(0, ids.flatten(), (back * self._moves(use)[:, :, None]).flatten(0, 1))
        self._add(weight, grad.view(self.rows, *weight.shape))

    def _linear(self, use: Use, back: Tensor) -> None:
        x, g = self._padded(use.given), self._padded(back)
        if id(use.own["weight"]) in self.wanted:
            self._add(use.own["weight"], x.mT @ g if transposed(use.module) else g.mT @ x)
        if (bias := use.own.get("bias")) is not None:
            self._add(bias, g.sum(1))

    def _padded(self, x: Tensor) -> Tensor:
        """(rows, positions, width), 0 behind the last position of a row."""
        found = self._by_row(x)
        return found if isinstance(found, Tensor) else pad_sequence(list(found), batch_first=True)

    def _small(self, use: Use, grads: dict[str, Tensor]) -> None:
        for name, grad in grads.items():
            self._add(use.own[name], grad)

    def _add(self, parameter: Tensor, grads: Tensor) -> None:
        known = self.grads.get(id(parameter))
        self.grads[id(parameter)] = grads if known is None else known + grads


def row_gradients(
    model: nn.Module,
    ask: Ask,
    rows: Rows,
    losses: Callable[[ModelOutput], Iterable[Tensor]],
    use: Callable[[list[Tensor]], None],
    batch_size: int = 32,
    way: Way | None = None,
) -> Way:
    """Call `use` with the gradient of each row alone, some rows at a time, in evaluation mode.

    losses: answer -> losses, each (rows,) and on its own. use: takes tensors (rows, *shape of the parameter), in the order of the
    parameters that move, once for each of the losses. One forward serves a batch of rows where the model can be vectorized or its layers
    be watched, else a row. Returns the way that was taken, for the next rows of the same model.
    """
    moving: Weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    size = max(1, min(batch_size, len(rows), ROOM // sum(p.numel() for p in moving.values())))
    with evaluating(model), torch.enable_grad():
        if way is None or size == 1:
            known = () if size == 1 else ((vectorized, vectorises), (watched, watches))
            way = next((way for way, works in known if works(model, ask, rows, moving)), alone)
        step = 1 if way is alone else size
        for i in range(0, len(rows), step):
            with way(model, ask, rows.select(range(i, min(i + step, len(rows)))), moving) as (answer, gradients):
                for loss in losses(answer):
                    use(gradients(loss.sum()))
    return way


@contextmanager
def alone(model: nn.Module, ask: Ask, row: Rows, moving: Weights) -> Iterator[Asked]:
    """One row by itself."""
    yield ask(row), lambda loss: [g[None] for g in _gradients(loss, [*moving.values()])]


@contextmanager
def vectorized(model: nn.Module, ask: Ask, rows: Rows, moving: Weights) -> Iterator[Asked]:
    """Rows of which each has weights of its own."""
    weights = {n: p.detach().expand(len(rows), *p.shape).requires_grad_() for n, p in moving.items()}
    with own_weights(model, weights):
        answer = ask(rows)
    yield answer, lambda loss: _gradients(loss, [*weights.values()])


@contextmanager
def watched(model: nn.Module, ask: Ask, rows: Rows, moving: Weights) -> Iterator[Asked]:
    """Rows whose gradients come from what the layers took in and got back. Errors: Uncovered."""
    kept = ByRow(len(rows), wanted=frozenset(map(id, moving.values())))
    try:
        with kept.watching(model):
            answer = ask(rows)
        if not kept.leaves:
            raise Uncovered("a model that was not called")
        kept.row = answer.loss.row

        def gradients(loss: Tensor) -> list[Tensor]:
            torch.autograd.grad(loss, kept.leaves, retain_graph=True, allow_unused=True)
            return kept.taken([*moving.values()])

        yield answer, gradients
    finally:
        kept.forget()


def _gradients(loss: Tensor, weights: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)]


def watches(model: nn.Module, ask: Ask, rows: Rows, moving: Weights) -> bool:
    """Whether the layers of a model can be watched, and the second of two rows then has the gradient that it has alone."""
    found = list[list[Tensor]]()
    try:
        for way, places in ((watched, [0, 1]), (alone, [1])):
            with way(model, ask, rows.select(places), moving) as (answer, gradients):
                found.append([g[-1] for g in gradients(answer.loss.values.sum())])
    except (Uncovered, RuntimeError):
        return False
    most = max((float(g.abs().max()) for g in found[1]), default=0.0)
    return all(float((a - b).abs().max()) <= ALIKE * most for a, b in zip(*found, strict=True))


@contextmanager
def own_weights(model: nn.Module, weights: Weights) -> Iterator[list[bool]]:
    """Meanwhile the model gives each row of a forward weights of its own, so that a gradient by them is that of the row alone.

    weights: by name, (rows, *shape); or (models, *shape), where the rows of a forward are as many for each model, those of one after those
    of another, and buffers move as each model's. Yields a list that is not empty afterwards where the model was called.
    Errors: RuntimeError where the model cannot be vectorized, or where hooks, which expect a whole batch, sit on it.
    """
    kept, used = model.__dict__.pop("forward", None), list[bool]()

    def forward(*args: Any, **kwargs: Any) -> Any:
        if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
            raise RuntimeError("a hook on the model expects a whole batch")
        used.append(True)
        restore(kept)
        try:
            by_model = tree_map(lambda x: 0 if isinstance(x, Tensor) else None, (args, kwargs))
            models = len(next(iter(weights.values())))
            cut = tree_map(lambda x: x.reshape(models, -1, *x.shape[1:]) if isinstance(x, Tensor) else x, (args, kwargs))
            with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for weights by row
                out = torch.func.vmap(one, in_dims=(0, *by_model), randomness="different")(weights, *cut)
            return tree_map(lambda x: x.flatten(0, 1), out)
        finally:
            restore(forward)

    def one(mine: Weights, args: Any, kwargs: Any) -> Any:
        return torch.func.functional_call(model, mine, args, kwargs)

    def restore(own: Any) -> None:
        model.__dict__.pop("forward", None)
        if own is not None:
            model.__dict__["forward"] = own

    restore(forward)
    try:
        yield used
    finally:
        restore(kept)


def vectorises(model: nn.Module, ask: Ask, rows: Rows, moving: Mapping[str, Tensor]) -> bool:
    """Whether two rows of a forward can have weights of their own. A modality that does not call the model as a whole cannot give them."""
    some = rows.select([0, 1])
    weights = {n: p.detach().expand(2, *p.shape).requires_grad_() for n, p in moving.items()}
    try:
        with own_weights(model, weights) as used:
            total = ask(some).loss.values.sum()
        return bool(used) and any(g is not None for g in torch.autograd.grad(total, list(weights.values()), allow_unused=True))
    except (RuntimeError, TypeError, ValueError):
        return False


def input_gradient(model: nn.Module, ask: Ask, x: Tensor, rows: Callable[[Tensor], Rows], loss: Callable[[ModelOutput], Tensor]) -> Tensor:
    """Gradient of a loss by the input, in evaluation mode; that of the weights is not taken. rows: input -> the rows that hold it."""
    x = x.detach().requires_grad_()
    with evaluating(model), torch.enable_grad():
        return torch.autograd.grad(loss(ask(rows(x))), x)[0]
