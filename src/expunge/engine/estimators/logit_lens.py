"""The logit lens: the predictions of a model after each block. They show where the model knows an answer and where it withholds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.engine.blocks import in_encoder
from expunge.engine.run_state import evaluating


@torch.no_grad()
def logit_lens(model: nn.Module, modality: Modality, sets: Mapping[str, Rows]) -> list[dict[str, float]]:
    """Compute, for each block, the probability of the first label of each row, averaged over the rows of each set.

    The output of the block goes directly to the model's own final norm and head. At the last block the result is therefore the prediction
    of the model itself.

    Returns:
        One record for each block (of an encoder-decoder: of its decoder), first to last: its number as `block`, and a mean probability by
        the name of each set.
    """
    records, hook_points = [], modality.blocks(model)
    with evaluating(model):
        for i, hook_point in enumerate(hook_points):
            if in_encoder(model, modality.module(model, hook_point)):  # the head reads the decoder alone
                continue
            with skipping(modality.module(model, hook_point), modality.module(model, hook_points[-1])):
                records.append({"block": float(i), **{name: _first_label(modality, model, rows) for name, rows in sets.items()}})
    return records


def _first_label(modality: Modality, model: nn.Module, rows: Rows) -> float:
    """Mean probability of the first label of each row."""
    return float(torch.stack([row[0].exp() for row in modality.forward(model, [rows])[0].target_logp.split()]).mean())


@contextmanager
def skipping(block: nn.Module, last: nn.Module) -> Iterator[None]:
    """Make the last block return the output of an earlier block."""
    outputs: list[Any] = []

    def record(_: nn.Module, args: Any, out: Any) -> None:
        outputs[:] = [out]

    def replace(_: nn.Module, args: Any, out: Any) -> Any:
        return outputs[0]

    handles = [block.register_forward_hook(record), last.register_forward_hook(replace)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def overtaken(records: Sequence[Mapping[str, float]], by: str, label: str = "answer") -> int:
    """Find the first block from which on the label `by` stays likelier than `label`.

    Args:
        records: one for each block, as `logit_lens` returns them.

    Returns:
        The number of the block; the number of blocks when `by` is not the likelier one at the last block.
    """
    lead = [record[by] > record[label] for record in records]
    return len(lead) - next((i for i, ahead in enumerate(reversed(lead)) if not ahead), len(lead))


def known(records: Sequence[Mapping[str, float]], label: str = "answer") -> float:
    """The largest probability of a label before the last block; 0 for a model with one block."""
    return max((record[label] for record in records[:-1]), default=0.0)
