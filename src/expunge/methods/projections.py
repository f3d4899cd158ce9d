"""Shared code of edits of single matrices: the matrix, its inputs at chosen positions of a row, and the change that redirects some inputs.

The matrix is the last one of a block's perceptron. All blocks above read its output as a part of the residual stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Prompted, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import part
from expunge.core.parts import Part
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine.adapters import is_adapted
from expunge.methods.objectives.rmu import LAST

Where = Literal["prompt", "last", "said", "all"]
Read = tuple[str, Literal["input", "hidden"], Where]  # hook point, the module's input or output, positions of the row


@dataclass(frozen=True, eq=False)
class Projection:
    """The last matrix of a block's perceptron. `weight` is a view of the model's own matrix, as (outputs, inputs)."""

    layer: int
    block: str
    hook_point: str
    weight: Tensor
    bias: Tensor | float


@part
class Look(Part):
    """Declare hook points whose names are known only once there is a model."""

    paths: tuple[str, ...] = ()
    reads = frozenset({"forget", "retain", "alternate_answers"})

    @property
    def hook_points(self) -> tuple[str, ...]:
        return self.paths


def spots(view: View, layers: Sequence[int] = ()) -> list[Projection]:
    """The last perceptron matrices of some blocks.

    Args:
        view: a view of the model.
        layers: indices of the blocks; empty: all blocks but the last.

    Raises:
        UserError: when the model lacks a block, or a block's matrix cannot be changed by itself.
    """
    if is_adapted(view.model):
        raise UserError("this method changes a matrix itself, and here an adapter lies over it: merge the adapter into the model first")
    blocks = view.modality.blocks(view.model)
    if unknown := [i for i in layers if not 0 <= i < len(blocks)]:
        raise UserError(f"this model has no block {unknown[0]}: its blocks are 0 to {len(blocks) - 1}")
    return [_projection(view, i, blocks[i]) for i in layers or range(max(1, len(blocks) - 1))]


def _projection(view: View, layer: int, block: str) -> Projection:
    modules = dict(view.modality.module(view.model, block).named_modules())
    names = [n for n, m in modules.items() if re.search(rf"(^|\.)({LAST})$", n) and "expert" not in n and hasattr(m, "weight")]
    if not names:
        raise UserError(f"block {layer} has no perceptron that ends in one matrix (called {LAST.replace('|', ' or ')})")
    module = modules[names[-1]]  # in some families attention has a matrix of this name, too; it comes first
    weight = module.weight
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.dim() != 2:
        raise UserError(f"the matrix of block {layer} is quantized, and a change would be lost: load the model without quantization")
    bias = getattr(module, "bias", None)
    transposed = not isinstance(module, nn.Linear)  # GPT-2 stores (inputs, outputs)
    return Projection(layer, block, f"{block}.{names[-1]}", weight.T if transposed else weight, 0.0 if bias is None else bias)


def reference(view: View) -> Rows:
    """Questions that the model refuses, with their refusals.

    Returns:
        The alternate answers of the request if they have questions, otherwise invented questions with the refusals of the request.
    """
    rows = view.rows("alternate_answers")
    has_questions = view.modality.counts(rows)["tokens"] > 0
    return rows if has_questions else require(view.modality, Prompted).unanswerable(rows["answer_text"])


def activations(view: View, rows: Rows, reads: Sequence[Read], skip: Sequence[int] = (), batch_size: int = 16) -> Iterator[list[Tensor]]:
    """Activations of modules while the model reads rows, batch by batch.

    Args:
        view: a view of the model.
        rows: the rows that the model reads.
        reads: what to read: hook point, its input or its hidden state, and the positions of a row: its prompt, the last position of the
            prompt, the positions that predict the answer (said), or all positions.
        skip: for each row, the number of positions at the start of its prompt that `prompt` leaves out; empty: none.
        batch_size: rows in a batch.

    Yields:
        For each batch, a tensor (positions, width) for each entry of `reads`.
    """
    observed = view.at("look", Look(tuple(dict.fromkeys(hook_point for hook_point, _, _ in reads))))
    for i in range(0, len(rows), batch_size):
        batch = rows.select(range(i, min(i + batch_size, len(rows))))
        output = observed.now(batch)
        answer_lengths, skipped = output.logits.lengths.tolist(), skip[i : i + batch_size] or [0] * len(batch)
        tensors = []
        for hook_point, side, where in reads:
            packed = output.input(hook_point) if side == "input" else output.hidden(hook_point)
            per_row = zip(packed.split(), answer_lengths, skipped, strict=True)
            tensors.append(torch.cat([x[_positions(len(x) - n, k, where)] for x, n, k in per_row]))
        yield tensors


def _positions(start: int, skip: int, where: Where) -> slice:
    """The slice of a row's positions. start: position of the answer's first label, which the position before it predicts."""
    return {"prompt": slice(skip, start), "last": slice(start - 1, start), "said": slice(start - 1, -1), "all": slice(None)}[where]


def gathered(view: View, rows: Rows, reads: Sequence[Read], skip: Sequence[int] = ()) -> list[Tensor]:
    """The activations of all rows, on the CPU: a tensor (positions, width) for each entry of `reads`; arguments as for `activations`."""
    batches = ([x.cpu() for x in batch] for batch in activations(view, rows, reads, skip))
    return [torch.cat(tensors) for tensors in zip(*batches, strict=True)]


def means(view: View, rows: Rows, reads: Sequence[Read]) -> list[Tensor]:
    """The mean activation over all positions, in float64: a tensor (width,) for each entry of `reads`."""
    sums = [[(x.double().sum(0).cpu(), len(x)) for x in batch] for batch in activations(view, rows, reads)]
    return [torch.stack([total for total, _ in read]).sum(0) / sum(n for _, n in read) for read in zip(*sums, strict=True)]


def shared(rows: Rows, others: Rows) -> list[int]:
    """For each row, the length in tokens of the longest prefix that its prompt shares with a prompt of the other set.

    Activations at these positions cannot distinguish the two sets.
    """
    prefix_hashes = [[[*accumulate(p, lambda h, t: hash((h, t)), initial=0)][1:] for p in part["prompt"]] for part in (rows, others)]
    other_hashes = {h for hashes in prefix_hashes[1] for h in hashes}
    return [sum(h in other_hashes for h in hashes) for hashes in prefix_hashes[0]]


def redirection(inputs: Tensor, change: Tensor, ridge: float, weight: Tensor | None = None) -> Tensor:
    """The smallest change of a matrix that maps inputs to wanted output changes: C X^T (X X^T + lambda I)^-1.

    Args:
        inputs: the columns of X as rows, (positions, inputs).
        change: the columns of C as rows, (positions, outputs).
        ridge: lambda in units of trace(X X^T) / inputs, the mean squared size of an input's entry; 0: the pseudo-inverse.
        weight: weight of each position's squared error, (positions,).

    Returns:
        The change of the matrix in float64, (outputs, inputs).
    """
    x, c = inputs.double(), change.double()
    if weight is not None:
        x, c = (t * weight.double().sqrt()[:, None] for t in (x, c))
    positions, width = x.shape
    if not ridge:
        return (torch.linalg.pinv(x) @ c).T
    damp = ridge * x.square().sum() / width
    eye = torch.eye(min(positions, width), dtype=x.dtype, device=x.device)
    if positions <= width:
        return (x.T @ torch.linalg.solve(x @ x.T + damp * eye, c)).T
    return torch.linalg.solve(x.T @ x + damp * eye, x.T @ c).T
