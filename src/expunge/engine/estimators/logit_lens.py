"""The logit lens: what a model would say if one of its blocks were the last: where an answer is known, and where it is held back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.engine.run_state import evaluating


@torch.no_grad()
def logit_lens(model: nn.Module, modality: Modality, sets: Mapping[str, Rows]) -> list[dict[str, float]]:
    """For each block, first to last, the probability that the first label of rows has there, a mean over the rows of each set.

    The output of the block goes straight to what follows the last one, the model's own final norm and head; at the last block it is
    therefore what the model says.
    """
    found, hook_points = [], modality.blocks(model)
    with evaluating(model):
        for i, hook_point in enumerate(hook_points):
            with skipping(modality.module(model, hook_point), modality.module(model, hook_points[-1])):
                found.append({"block": float(i), **{name: _first(modality, model, rows) for name, rows in sets.items()}})
    return found


def _first(modality: Modality, model: nn.Module, rows: Rows) -> float:
    return float(torch.stack([row[0].exp() for row in modality.forward(model, [rows])[0].target_logp.split()]).mean())


@contextmanager
def skipping(block: nn.Module, last: nn.Module) -> Iterator[None]:
    """Let the last block give what an earlier one gave."""
    kept: list[Any] = []

    def keep(_: nn.Module, args: Any, out: Any) -> None:
        kept[:] = [out]

    def give(_: nn.Module, args: Any, out: Any) -> Any:
        return kept[0]

    handles = [block.register_forward_hook(keep), last.register_forward_hook(give)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def overtaken(seen: Sequence[Mapping[str, float]], by: str, what: str = "answer") -> int:
    """The first block from which on one label is the likelier of two; as many as there are blocks, where it is not so in the end."""
    lead = [record[by] > record[what] for record in seen]
    return len(lead) - next((i for i, ahead in enumerate(reversed(lead)) if not ahead), len(lead))


def known(seen: Sequence[Mapping[str, float]], what: str = "answer") -> float:
    """The largest probability of a label before the last block; 0 where there is no such block."""
    return max((record[what] for record in seen[:-1]), default=0.0)
