"""Per-example gradients: the gradient of each row of a batch, from one forward pass when the model allows it; and gradients of an input."""

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
from expunge.engine.run_state import evaluating, training_alike

Ask = Callable[[Rows], ModelOutput]
Differentiable = tuple[ModelOutput, Callable[[Tensor], list[Tensor]]]  # an output, and a function from a loss to its row gradients
Way = Callable[[nn.Module, Ask, Rows, Weights], AbstractContextManager[Differentiable]]  # takes rows and the trainable weights by name
ALIKE = 1e-3  # a row's gradient may differ between two ways of computing it by this share of its largest value
ROOM = 2**27  # most numbers that the row gradients of one forward may take: half a gigabyte in float32


@dataclass
class RowGradients(Watched):
    """The row gradients of each parameter, collected during a backward pass."""

    wanted: frozenset[int] = frozenset()  # ids of the parameters whose gradients are collected
    grads: dict[int, Tensor] = field(default_factory=dict)  # by id of the parameter, (rows, *shape)

    def take(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients of these parameters, each (rows, *shape), and forget them; 0 for a parameter without a gradient."""
        grads = [g if (g := self.grads.get(id(p))) is not None else p.new_zeros(self.rows, *p.shape) for p in params]
        self.grads.clear()
        return grads

    def _table(self, use: Use, output_grad: Tensor) -> None:
        weight = use.own["weight"]
        if id(weight) not in self.wanted:
            return
        ids = use.inputs.reshape(self.rows, -1) + len(weight) * torch.arange(self.rows, device=output_grad.device)[:, None]
        grad = output_grad.new_zeros(self.rows * len(weight), weight.shape[1])
        grad.index_add_(0, ids.flatten(), (output_grad * self._moves(use)[:, :, None]).flatten(0, 1))
        self._add(weight, grad.view(self.rows, *weight.shape))

    def _linear(self, use: Use, output_grad: Tensor) -> None:
        x, g = self._padded(use.inputs), self._padded(output_grad)
        if id(use.own["weight"]) in self.wanted:
            self._add(use.own["weight"], x.mT @ g if transposed(use.module) else g.mT @ x)
        if (bias := use.own.get("bias")) is not None:
            self._add(bias, g.sum(1))

    def _padded(self, x: Tensor) -> Tensor:
        """(rows, positions, width), with 0 after the last position of a row."""
        by_row = self._by_row(x)
        return by_row if isinstance(by_row, Tensor) else pad_sequence(list(by_row), batch_first=True)

    def _small(self, use: Use, grads: dict[str, Tensor]) -> None:
        for name, grad in grads.items():
            self._add(use.own[name], grad)

    def _add(self, parameter: Tensor, grads: Tensor) -> None:
        total = self.grads.get(id(parameter))
        self.grads[id(parameter)] = grads if total is None else total + grads


def row_gradients(
    model: nn.Module,
    ask: Ask,
    rows: Rows,
    losses: Callable[[ModelOutput], Iterable[Tensor]],
    use: Callable[[list[Tensor]], None],
    batch_size: int = 32,
    way: Way | None = None,
) -> Way:
    """Call `use` with the gradient of each row, batch by batch, in evaluation mode.

    One forward pass serves a batch of rows when the model can be vectorized or its layers can be watched. Otherwise it serves one row.

    Args:
        ask: runs the model on rows.
        losses: maps an output to losses of shape (rows,); each loss counts on its own.
        use: takes one tensor (rows, *shape of the parameter) for each trainable parameter, in their order, once for each loss.
        way: how to compute the gradients, as an earlier call for the same model returned it; None tries the ways.

    Returns:
        The way that was used, for the next rows of the same model.
    """
    moving: Weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    size = max(1, min(batch_size, len(rows), ROOM // sum(p.numel() for p in moving.values())))
    with evaluating(model), torch.enable_grad():
        if way is None or size == 1:
            ways = () if size == 1 else ((vectorized, vectorizes), (watched, watches))
            if ways:
                with torch.no_grad():
                    ask(rows.select([0]))  # a modality may try a model out at its first pass, and has to meet it as it is
            way = next((way for way, works in ways if works(model, ask, rows, moving)), alone)
        step = 1 if way is alone else size
        for i in range(0, len(rows), step):
            with way(model, ask, rows.select(range(i, min(i + step, len(rows)))), moving) as (output, gradients):
                for loss in losses(output):
                    use(gradients(loss.sum()))
    return way


@contextmanager
def alone(model: nn.Module, ask: Ask, row: Rows, moving: Weights) -> Iterator[Differentiable]:
    """Compute the gradients of one row from a forward pass of its own."""
    yield ask(row), lambda loss: [g[None] for g in _gradients(loss, [*moving.values()])]


@contextmanager
def vectorized(model: nn.Module, ask: Ask, rows: Rows, moving: Weights) -> Iterator[Differentiable]:
    """Compute the gradients of rows by giving each row its own copy of the weights."""
    weights = {n: p.detach().expand(len(rows), *p.shape).requires_grad_() for n, p in moving.items()}
    with own_weights(model, weights):
        output = ask(rows)
    yield output, lambda loss: _gradients(loss, [*weights.values()])


@contextmanager
def watched(model: nn.Module, ask: Ask, rows: Rows, moving: Weights) -> Iterator[Differentiable]:
    """Compute the gradients of rows from the recorded inputs and output gradients of the layers.

    Raises:
        Uncovered: when the per-row gradients of a layer cannot be derived.
    """
    recorder = RowGradients(len(rows), wanted=frozenset(map(id, moving.values())))
    try:
        with recorder.watching(model):
            output = ask(rows)
        if not recorder.leaves:
            raise Uncovered("a model that was not called")
        recorder.row = output.loss.row

        def gradients(loss: Tensor) -> list[Tensor]:
            torch.autograd.grad(loss, recorder.leaves, retain_graph=True, allow_unused=True)
            return recorder.take([*moving.values()])

        yield output, gradients
    finally:
        recorder.forget()


def _gradients(loss: Tensor, weights: list[Tensor]) -> list[Tensor]:
    grads = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(grads, weights, strict=True)]


def watches(model: nn.Module, ask: Ask, rows: Rows, moving: Weights) -> bool:
    """Whether the layers of a model can be watched, and the second of two rows has the same gradient as when computed alone."""
    grads = list[list[Tensor]]()
    try:
        for way, places in ((watched, [0, 1]), (alone, [1])):
            with way(model, ask, rows.select(places), moving) as (output, gradients):
                grads.append([g[-1] for g in gradients(output.loss.values.sum())])
    except (Uncovered, RuntimeError):
        return False
    largest = max((float(g.abs().max()) for g in grads[1]), default=0.0)
    return all(float((a - b).abs().max()) <= ALIKE * largest for a, b in zip(*grads, strict=True))


@contextmanager
def own_weights(model: nn.Module, weights: Weights) -> Iterator[list[bool]]:
    """Give each row of a forward pass its own weights inside the block, so that their gradient is the gradient of that row alone.

    Args:
        weights: by name, (rows, *shape). With (models, *shape) each model takes an equal share of the rows, in order, and has its own
            buffers.

    Yields:
        A list that is not empty afterwards if the model was called.

    Raises:
        RuntimeError: when the model cannot be vectorized, or has hooks, which expect a whole batch.
    """
    own_forward, used = model.__dict__.pop("forward", None), list[bool]()

    def forward(*args: Any, **kwargs: Any) -> Any:
        if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
            raise RuntimeError("a hook on the model expects a whole batch")
        used.append(True)
        set_forward(own_forward)
        try:
            in_dims = tree_map(lambda x: 0 if isinstance(x, Tensor) else None, (args, kwargs))
            models = len(next(iter(weights.values())))
            inputs = tree_map(lambda x: x.reshape(models, -1, *x.shape[1:]) if isinstance(x, Tensor) else x, (args, kwargs))
            with sdpa_kernel(SDPBackend.MATH):  # the other kernels have no batching rule for weights by row
                out = torch.func.vmap(call_model, in_dims=(0, *in_dims), randomness="different")(weights, *inputs)
            return tree_map(lambda x: x.flatten(0, 1), out)
        finally:
            set_forward(forward)

    def call_model(weights_of_one: Weights, args: Any, kwargs: Any) -> Any:
        return torch.func.functional_call(model, weights_of_one, args, kwargs)

    def set_forward(function: Any) -> None:
        model.__dict__.pop("forward", None)
        if function is not None:
            model.__dict__["forward"] = function

    set_forward(forward)
    try:
        yield used
    finally:
        set_forward(own_forward)


def vectorizes(model: nn.Module, ask: Ask, rows: Rows, moving: Mapping[str, Tensor]) -> bool:
    """Whether two rows of a forward pass can have their own weights. They cannot when the modality does not call the model as a whole."""
    two_rows = rows.select([0, 1])
    weights = {n: p.detach().expand(2, *p.shape).requires_grad_() for n, p in moving.items()}
    try:
        with own_weights(model, weights) as used:
            total = ask(two_rows).loss.values.sum()
        return bool(used) and any(g is not None for g in torch.autograd.grad(total, list(weights.values()), allow_unused=True))
    except (RuntimeError, TypeError, ValueError):
        return False


def input_gradient(
    model: nn.Module,
    ask: Ask,
    x: Tensor,
    rows: Callable[[Tensor], Rows],
    loss: Callable[[ModelOutput], Tensor],
    training: int | None = None,
) -> Tensor:
    """Compute the gradient of a loss with respect to the input. The weights get no gradient, and the buffers do not change.

    Args:
        ask: runs the model on rows.
        x: the input.
        rows: maps an input to the rows that hold it.
        loss: maps an output to a scalar.
        training: a seed, for training mode; None: evaluation mode.

    Returns:
        The gradient, of the shape of `x`.
    """
    x = x.detach().requires_grad_()
    with evaluating(model) if training is None else training_alike(model, training), torch.enable_grad():
        return torch.autograd.grad(loss(ask(rows(x))), x)[0]
