"""Estimators over whole sets that more than one part, metric or attack wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from expunge.core.parts import Answer, Modality, Rows, Weights
from expunge.engine.estimators.ghost_norms import Ghost
from expunge.engine.estimators.layers import Uncovered
from expunge.engine.estimators.per_example_grads import ByRow
from expunge.engine.run_state import evaluating

Ask = Callable[[Rows], Answer]
Asked = tuple[Answer, Callable[[Tensor], list[Tensor]]]  # an answer, and what makes of a loss the gradients of its rows
Way = Callable[[nn.Module, Ask, Rows, Weights], AbstractContextManager[Asked]]  # from rows, and the weights that move, by name

ALIKE = 1e-3  # norms of a row that is taken both ways may differ by this share of the largest
ROOM = 2**27  # numbers that the gradients of the rows of one forward may take: half a gigabyte in float32


def gradient_norms(
    model: nn.Module, port: Modality, rows: Rows, losses: Callable[[Answer, Sequence[int]], Tensor], batches: Iterable[Sequence[int]]
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
                answer = port.forward(model, [rows.take(places)])[0]
            ghost.row = answer.scores.row
            torch.autograd.backward(losses(answer, places).sum(), inputs=ghost.leaves)
        return ghost.norms(params).cpu()

    def made(places: Sequence[int], batch: int = 1) -> Tensor:
        found, asked = list[Tensor](), iter(places)

        def each(answer: Answer) -> Iterator[Tensor]:
            yield losses(answer, list(islice(asked, answer.logp.rows)))

        def use(grads: list[Tensor]) -> None:
            found.append(torch.stack([torch.linalg.vector_norm(g.float().flatten(1), dim=1) for g in grads], 1).cpu())

        with _all_move(params):
            row_gradients(model, lambda some: port.forward(model, [some])[0], rows.take(places), each, use, batch)
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


def row_gradients(
    model: nn.Module,
    ask: Ask,
    rows: Rows,
    losses: Callable[[Answer], Iterable[Tensor]],
    use: Callable[[list[Tensor]], None],
    batch: int = 32,
    way: Way | None = None,
) -> Way:
    """Call `use` with the gradient of each row alone, some rows at a time, in evaluation mode.

    losses: answer -> losses, each (rows,) and on its own. use: takes tensors (rows, *shape of the parameter), in the order of the
    parameters that move, once for each of the losses. One forward serves a batch of rows where the model can be vectorised or its layers
    be watched, else a row. Returns the way that was taken, for the next rows of the same model.
    """
    moving: Weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    size = max(1, min(batch, len(rows), ROOM // sum(p.numel() for p in moving.values())))
    with evaluating(model), torch.enable_grad():
        if way is None or size == 1:
            known = () if size == 1 else ((vectorised, vectorises), (watched, watches))
            way = next((way for way, works in known if works(model, ask, rows, moving)), alone)
        step = 1 if way is alone else size
        for i in range(0, len(rows), step):
            with way(model, ask, rows.take(range(i, min(i + step, len(rows)))), moving) as (answer, gradients):
                for loss in losses(answer):
                    use(gradients(loss.sum()))
    return way


@contextmanager
def alone(model: nn.Module, ask: Ask, row: Rows, moving: Weights) -> Iterator[Asked]:
    """One row by itself."""
    yield ask(row), lambda loss: [g[None] for g in _gradients(loss, [*moving.values()])]


@contextmanager
def vectorised(model: nn.Module, ask: Ask, rows: Rows, moving: Weights) -> Iterator[Asked]:
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
        kept.row = answer.scores.row

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
            with way(model, ask, rows.take(places), moving) as (answer, gradients):
                found.append([g[-1] for g in gradients(answer.logp.values.sum())])
    except (Uncovered, RuntimeError):
        return False
    most = max((float(g.abs().max()) for g in found[1]), default=0.0)
    return all(float((a - b).abs().max()) <= ALIKE * most for a, b in zip(*found, strict=True))


@contextmanager
def own_weights(model: nn.Module, weights: Weights) -> Iterator[list[bool]]:
    """Meanwhile the model gives each row of a forward weights of its own, so that a gradient by them is that of the row alone.

    weights: by name, (rows, *shape); or (models, *shape), where the rows of a forward are as many for each model, those of one after those
    of another, and buffers move as each model's. Yields a list that is not empty afterwards where the model was called.
    Errors: RuntimeError where the model cannot be vectorised, or where hooks, which expect a whole batch, sit on it.
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
    """Whether two rows of a forward can have weights of their own. A port that does not call the model as a whole cannot give them."""
    some = rows.take([0, 1])
    weights = {n: p.detach().expand(2, *p.shape).requires_grad_() for n, p in moving.items()}
    try:
        with own_weights(model, weights) as used:
            total = ask(some).logp.values.sum()
        return bool(used) and any(g is not None for g in torch.autograd.grad(total, list(weights.values()), allow_unused=True))
    except (RuntimeError, TypeError, ValueError):
        return False


def squared_gradients(
    model: nn.Module, ask: Ask, rows: Rows, losses: Callable[[Answer], Iterable[Tensor]], batch: int = 32
) -> list[Tensor]:
    """Mean over rows of the squared gradient of each row alone, summed over the losses of its answer; memory does not grow with the rows.

    losses: answer -> losses, each (rows,) and on its own. With `likelihoods` it is the diagonal of the Fisher information.
    """
    total = [torch.zeros_like(p) for p in model.parameters() if p.requires_grad]

    def add(grads: list[Tensor]) -> None:
        for t, g in zip(total, grads, strict=True):
            t += g.square().sum(0)

    row_gradients(model, ask, rows, losses, add, batch)
    return [t / len(rows) for t in total]


def likelihoods(answer: Answer, draws: int | None, generator: torch.Generator) -> Iterator[Tensor]:
    """Log-likelihoods of rows, each (rows,), whose squared gradients add up to the Fisher information of each row.

    draws: None: of the given labels. n: of labels that are drawn n times from the model's own distribution. 0: of every class, weighted
    by the root of its probability, which is the exact expectation; where a row has several labels they are drawn once.
    """
    log = answer.dist
    if draws is None:
        yield answer.logp.sum()
    elif draws == 0 and log.lengths.max() == 1:
        for y in range(log.values.shape[-1]):
            one = log.map(lambda v, y=y: v[:, y]).sum()  # type: ignore[misc]
            yield (one.detach() / 2).exp() * one
    else:
        for _ in range(draws or 1):
            said = torch.multinomial(log.values.detach().exp().cpu(), 1, generator=generator).to(log.values.device)
            yield log.map(lambda v, said=said: v.gather(1, said)[:, 0]).sum() / (draws or 1) ** 0.5  # type: ignore[misc]


def input_gradient(model: nn.Module, ask: Ask, x: Tensor, rows: Callable[[Tensor], Rows], loss: Callable[[Answer], Tensor]) -> Tensor:
    """Gradient of a loss by the input, in evaluation mode; that of the weights is not taken. rows: input -> the rows that hold it."""
    x = x.detach().requires_grad_()
    with evaluating(model), torch.enable_grad():
        return torch.autograd.grad(loss(ask(rows(x))), x)[0]
