"""Forward passes of a language model: its head at the places that count, and rows that no padding touches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from expunge.core.modality import Weights
from expunge.engine.adapters import base_of
from expunge.modalities.common.packed import call, module_at, spelled_out


def without_padding(model: nn.Module, weights: Weights | None, ids: Tensor, mask: Tensor, beside: Sequence[dict[str, Any]]) -> Tensor:
    """The logits of all rows, (rows, width, classes), each from a forward pass of its own without padding.

    Args:
        beside: further inputs of each row.
    """
    rows = zip(ids, mask.sum(1).tolist(), beside, strict=True)
    logits = [call(model, weights, input_ids=row[None, :n], use_cache=False, **inputs).logits[0] for row, n, inputs in rows]
    return nn.utils.rnn.pad_sequence(logits, batch_first=True)


@contextmanager
def packed_head(model: nn.Module, at: Tensor, hook_points: Sequence[str] = ()) -> Iterator[list[bool]]:
    """Run the language head on the predicting positions only. The logits of a whole batch would be the largest tensor, and most are unused.

    A model without a plain head, or with a hook point on its head, computes all logits.

    Args:
        at: flattened positions that predict labels.

    Yields:
        A list that is not empty afterwards if the head ran on these positions only.
    """
    head = getattr(base_of(model), "get_output_embeddings", lambda: None)()
    head = None if any(module_at(model, t) is head for t in spelled_out(model, hook_points)) else head
    used: list[bool] = []

    def pick(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not args or args[0].dim() != 3:  # a head that reads something else than hidden states (rows, positions, width)
            return None
        used.append(True)
        return (args[0].flatten(0, 1)[at][None], *args[1:])

    handle = head.register_forward_pre_hook(pick) if isinstance(head, nn.Module) else None
    try:
        yield used
    finally:
        if handle:
            handle.remove()
