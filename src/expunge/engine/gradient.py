"""One gradient evaluation. Only this module and `estimators` compute gradients."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from expunge.core.errors import UserError
from expunge.core.hyperparameters import snake
from expunge.core.needs import Need
from expunge.core.parts import Objective
from expunge.core.random import seed_of
from expunge.core.rows import Sets
from expunge.engine.context import RunStep
from expunge.engine.distributed.sharding import whole
from expunge.engine.run_state import RunState, device_of, seed_draws
from expunge.engine.schedule import split
from expunge.functional.brief import brief


def global_norm(tensors: list[Tensor]) -> Tensor:
    """The L2 norm of a list of tensors, concatenated to one vector."""
    norms = torch.stack([whole(torch.linalg.vector_norm(t if t.dtype == torch.float64 else t.float())) for t in tensors])
    return norms.square().sum().sqrt()


@brief()
@dataclass
class Tally:
    """The running totals over the pieces of a logical batch. same: each piece has the value of the whole batch, not its share of it."""

    same: bool
    value: Tensor
    notes: dict[str, Tensor] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)
    pieces: int = 0

    def add(self, value: Tensor, notes: Mapping[str, Tensor], terms: Mapping[str, float]) -> None:
        """Include one piece, or the totals of several."""
        self.value = value if self.same else self.value + value
        self.notes.update({n: v if self.same or n not in self.notes else self.notes[n] + v for n, v in notes.items()})
        self.terms.update({n: v if self.same else self.terms.get(n, 0.0) + v for n, v in terms.items()})
        self.pieces += 1


def evaluate(
    run: RunState,
    objective: Objective,
    logical: Sets,
    micro_batch_size: int = 0,
    roles: tuple[str, ...] | None = None,
    fuse: bool = True,
    notes: dict[str, Tensor] | None = None,
    vector: list[Tensor] | None = None,
    moves: bool = False,
    values: dict[str, float] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Evaluate an objective and its gradient over a logical batch.

    Args:
        logical: the batch by set. Terms that read a set outside of it are left out.
        micro_batch_size: rows of the longest set in one forward pass; 0 for the whole batch.
        roles: roles of the terms to evaluate; default: all.
        fuse: whether one forward pass may run several sets.
        notes: filled with the means that the terms noted.
        vector: if given, the Hessian-vector product is computed instead of the gradient.
        moves: whether buffers (batch-norm statistics) may change in this evaluation.
        values: filled with the value of each term.

    Returns:
        The value, and one gradient for each trainable parameter.

    Raises:
        UserError: if `vector` is given for a loss that is not linear in its batch means and the batch is split.
    """
    terms = [(i, t.at(run.epoch), t.objective) for i, t in enumerate(objective.terms())]
    terms = [(i, w, o) for i, w, o in terms if w and (roles is None or o.role in roles) and o.reads <= logical.keys()]
    needs = frozenset[str]().union(*(o.needs for _, _, o in terms))
    hook_points = tuple(sorted({t for _, _, o in terms for t in o.hook_points}))
    logical = {n: r for n, r in logical.items() if any(n in o.reads for _, _, o in terms)}
    params = [p for p in run.model.parameters() if p.requires_grad]
    if not terms:
        return torch.zeros(()), [torch.zeros_like(p) for p in params]
    process_group, independent = run.process_group, run.modality.independent(run.model)
    together = [o.reads for _, _, o in terms]
    pieces = split(logical, micro_batch_size, together, *((process_group.count, 1) if independent else (1, 2)))
    dealt = independent and process_group.deals(len(pieces), together=run.sharded is not None)
    own_pieces = process_group.deal(len(pieces)) if dealt else range(len(pieces))
    averaged = Need.BATCH_MEANS in needs and len(pieces) > 1
    if vector is not None and averaged:
        raise UserError(
            "a second-order update of a loss that is not linear in its batch means needs the whole batch at once: "
            "leave --micro-batch-size out"
        )
    means: dict[Any, Tensor] | None = {} if averaged else None
    fuse = fuse and independent
    device = device_of(run.model)

    def loss_of(k: int, recording: bool) -> tuple[Tensor, RunStep, dict[str, Tensor]]:
        step = RunStep(run, logical, pieces[k], fuse, hook_points, means)
        step.recording = recording
        seed_draws(seed_of(run.seed, run.stage, run.epoch, run.step, k), device)
        parts = {
            f"{i} {snake(type(o).__name__)} {o.role}": w * o.loss(step.at(f"term{i}", o))
            for i, w, o in terms
            if o.reads <= pieces[k].keys()
        }
        return torch.stack(list(parts.values())).sum(), step, parts

    if vector is not None:
        run.alone("second derivatives")
    tally = Tally(averaged, torch.zeros((), device=device))
    tokens_before = run.cost.forward_tokens, run.cost.backward_tokens
    buffers = [] if moves else [b.clone() for b in run.model.buffers()]
    run.model.zero_grad(set_to_none=True)
    attention = nullcontext() if vector is None else sdpa_kernel(SDPBackend.MATH)  # only this attention kernel has second derivatives
    with attention, torch.enable_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if averaged:
            with torch.no_grad():
                for k in own_pieces:
                    loss_of(k, recording=True)
            if dealt and means is not None:
                means.update(process_group.sums(means, device))
        for k in own_pieces:
            loss, step, parts = loss_of(k, recording=False)
            if vector is None:
                _backward(run.accelerator, loss)
            else:
                gradients = torch.autograd.grad(loss, params, allow_unused=True, create_graph=True)
                products = [(g * v).sum() for g, v in zip(gradients, vector, strict=True) if g is not None]
                _backward(run.accelerator, torch.stack(products).sum())
            tally.add(loss.detach(), step.notes, {n: float(v.detach()) for n, v in parts.items()})
    for b, old in zip(run.model.buffers(), buffers, strict=False):
        b.copy_(old)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    run.model.zero_grad(set_to_none=True)
    if dealt:
        process_group.add(grads)
        tally = _joined(run, tally, tokens_before)
    if notes is not None:
        notes.update({n: v for n, v in tally.notes.items() if n not in notes})
    if values is not None:
        values.update({n: v for n, v in tally.terms.items() if n not in values})
    return tally.value, grads


def _backward(accelerator: Accelerator, loss: Tensor) -> None:
    if accelerator.distributed_type == DistributedType.DEEPSPEED:  # the run does not use DeepSpeed's engine: see `sharding.requested`
        torch.autograd.backward(loss)
    else:
        accelerator.backward(loss)


def _joined(run: RunState, own: Tally, tokens_before: tuple[float, float]) -> Tally:
    """The totals over the pieces of all processes. The cost of all of them is added to the forward and backward tokens before them."""
    device, cost = device_of(run.model), run.cost
    tokens = cost.forward_tokens - tokens_before[0], cost.backward_tokens - tokens_before[1]
    tallies: list[Any] = run.process_group.exchange((own.pieces, own.value, own.notes, own.terms, *tokens))
    cost.forward_tokens = tokens_before[0] + sum(forward for *_, forward, _ in tallies)
    cost.backward_tokens = tokens_before[1] + sum(backward for *_, backward in tallies)
    joined = Tally(own.same, torch.zeros((), device=device))
    for pieces, value, notes, terms, *_ in tallies:
        if pieces:
            joined.add(value.to(device), {n: v.to(device) for n, v in notes.items()}, terms)
    return joined
