"""What edits of single matrices share: which matrix, what goes into it at which places of a row, and the change that redirects some of it.

The matrix is the last one of a block's perceptron: what it says is added to what all blocks above read.
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
Read = tuple[str, Literal["input", "hidden"], Where]  # which module, what goes in or what comes out, at which places


@dataclass(frozen=True, eq=False)
class Projection:
    """The last matrix of a block's perceptron. `weight` is the model's own, as (outputs, inputs)."""

    layer: int
    block: str
    hook_point: str
    weight: Tensor
    bias: Tensor | float


@part
class Look(Part):
    """Looks into modules whose names are known once there is a model."""

    paths: tuple[str, ...] = ()
    reads = frozenset({"forget", "retain", "alternate_answers"})

    @property
    def hook_points(self) -> tuple[str, ...]:
        return self.paths


def spots(view: View, layers: Sequence[int] = ()) -> list[Projection]:
    """The matrices of some blocks, of all but the last where none are named.

    Errors: UserError for a block that is not there, or whose matrix cannot be changed by itself.
    """
    if is_adapted(view.model):
        raise UserError("this method changes a matrix itself, and here an adapter lies over it: merge the adapter into the model first")
    blocks = view.modality.blocks(view.model)
    if strange := [i for i in layers if not 0 <= i < len(blocks)]:
        raise UserError(f"this model has no block {strange[0]}: its blocks are 0 to {len(blocks) - 1}")
    return [_spot(view, i, blocks[i]) for i in layers or range(max(1, len(blocks) - 1))]


def _spot(view: View, layer: int, block: str) -> Projection:
    inside = dict(view.modality.module(view.model, block).named_modules())
    found = [n for n, m in inside.items() if re.search(rf"(^|\.)({LAST})$", n) and "expert" not in n and hasattr(m, "weight")]
    if not found:
        raise UserError(f"block {layer} has no perceptron that ends in one matrix (called {LAST.replace('|', ' or ')})")
    module = inside[found[-1]]  # attention has one of that name in some families; it comes before
    weight = module.weight
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.dim() != 2:
        raise UserError(f"the matrix of block {layer} is quantized, and a change would be lost: load the model without quantization")
    bias = getattr(module, "bias", None)
    transposed = not isinstance(module, nn.Linear)  # GPT-2 stores (inputs, outputs)
    return Projection(layer, block, f"{block}.{found[-1]}", weight.T if transposed else weight, 0.0 if bias is None else bias)


def reference(view: View) -> Rows:
    """Questions that the model refuses, with refusals: those of the request, else invented ones with the refusals of the request."""
    rows = view.rows("alternate_answers")
    asked = view.modality.counts(rows)["tokens"] > 0
    return rows if asked else require(view.modality, Prompted).unanswerable(rows["answer_text"])


def seen(view: View, rows: Rows, reads: Sequence[Read], skip: Sequence[int] = (), batch_size: int = 16) -> Iterator[list[Tensor]]:
    """What goes on in modules while the model reads rows: for each batch, a tensor (places, width) a read.

    Places of a row: its prompt (after the first `skip` of it), the last of its prompt, those at which the answer is said, or all.
    """
    look = view.at("look", Look(tuple(dict.fromkeys(hook_point for hook_point, _, _ in reads))))
    for i in range(0, len(rows), batch_size):
        some = rows.select(range(i, min(i + batch_size, len(rows))))
        answer = look.now(some)
        ends, left = answer.logits.lengths.tolist(), skip[i : i + batch_size] or [0] * len(some)
        out = []
        for hook_point, side, where in reads:
            found = answer.input(hook_point) if side == "input" else answer.hidden(hook_point)
            out.append(torch.cat([x[_places(len(x) - n, k, where)] for x, n, k in zip(found.split(), ends, left, strict=True)]))
        yield out


def _places(start: int, skip: int, where: Where) -> slice:
    """start: the place of the first label of the answer, which is said one place before it."""
    return {"prompt": slice(skip, start), "last": slice(start - 1, start), "said": slice(start - 1, -1), "all": slice(None)}[where]


def gathered(view: View, rows: Rows, reads: Sequence[Read], skip: Sequence[int] = ()) -> list[Tensor]:
    """The same of all rows, on the host."""
    return [torch.cat(found) for found in zip(*([x.cpu() for x in some] for some in seen(view, rows, reads, skip)), strict=True)]


def means(view: View, rows: Rows, reads: Sequence[Read]) -> list[Tensor]:
    """The mean over all places, in 64 bits: a tensor (width,) a read."""
    found = [[(x.double().sum(0).cpu(), len(x)) for x in some] for some in seen(view, rows, reads)]
    return [torch.stack([x for x, _ in one]).sum(0) / sum(n for _, n in one) for one in zip(*found, strict=True)]


def shared(rows: Rows, others: Rows) -> list[int]:
    """How many places at the start of each prompt some other prompt begins with, too: nothing there tells the two sets apart."""
    starts = [[[*accumulate(p, lambda h, t: hash((h, t)), initial=0)][1:] for p in some["prompt"]] for some in (rows, others)]
    there = {h for p in starts[1] for h in p}
    return [sum(h in there for h in p) for p in starts[0]]


def redirection(inputs: Tensor, change: Tensor, ridge: float, weight: Tensor | None = None) -> Tensor:
    """The smallest change of a matrix that answers inputs with changes: C X^T (X X^T + lambda I)^-1, in 64 bits, (outputs, inputs).

    inputs: (places, inputs), the columns of X as rows; change: (places, outputs). ridge: lambda, in units of the mean squared size of an
    input's number, trace(X X^T) / inputs; 0: the pseudo-inverse. weight: (places,), what an error counts.
    """
    x, c = inputs.double(), change.double()
    if weight is not None:
        x, c = (t * weight.double().sqrt()[:, None] for t in (x, c))
    many, width = x.shape
    if not ridge:
        return (torch.linalg.pinv(x) @ c).T
    damp = ridge * x.square().sum() / width
    eye = torch.eye(min(many, width), dtype=x.dtype, device=x.device)
    if many <= width:
        return (x.T @ torch.linalg.solve(x @ x.T + damp * eye, c)).T
    return torch.linalg.solve(x.T @ x + damp * eye, x.T @ c).T
