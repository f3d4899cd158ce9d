"""Forward passes of a language model: its head at the places that count, and rows that no padding touches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from expunge.core.modality import Weights
from expunge.engine.adapters import base_of
from expunge.functional.brief import brief
from expunge.modalities.common.packed import call, module_at, spelled_out

FLOAT = 4  # bytes
LATE = 1 << 29  # bytes of float32 logits from which the head runs late: training holds several copies of them
PIECE = 1 << 27  # bytes of float32 logits that a late head makes at a time


def without_padding(model: nn.Module, weights: Weights | None, ids: Tensor, mask: Tensor, beside: Sequence[dict[str, Any]]) -> Tensor:
    """The logits of all rows, (rows, width, classes), each from a forward pass of its own without padding.

    Args:
        beside: further inputs of each row.
    """
    rows = zip(ids, mask.sum(1).tolist(), beside, strict=True)
    logits = [call(model, weights, input_ids=row[None, :n], use_cache=False, **inputs).logits[0] for row, n, inputs in rows]
    return nn.utils.rnn.pad_sequence(logits, batch_first=True)


@brief()
@dataclass(frozen=True)
class Late:
    """A head that runs where something reads its logits, because all of them at once would be too large."""

    head: nn.Linear
    states: Tensor  # (labels, width) before the head

    def __call__(self, states: Tensor) -> Tensor:
        """Logits of states, (labels, classes)."""
        logits: Tensor = self.head(states.to(self.head.weight.dtype))
        return logits

    @property
    def at_once(self) -> int:
        """How many labels it runs on at a time."""
        return max(1, PIECE // (FLOAT * len(self.head.weight)))


@dataclass
class Picked:
    """What became of the language head in a forward pass."""

    used: bool = False  # it ran on the positions that predict labels only
    late: Late | None = None  # it has not run


@contextmanager
def packed_head(model: nn.Module, at: Tensor, hook_points: Sequence[str] = (), late: bool = False) -> Iterator[Picked]:
    """Run the language head on the predicting positions only. The logits of a whole batch would be the largest tensor, and most are unused.

    A model without a plain head, or with a hook point on its head, computes all logits.

    Args:
        at: flattened positions that predict labels.
        late: do not run a plain head whose logits would take more than `LATE` bytes.

    Yields:
        What became of the head, known when the model has run.
    """
    head = getattr(base_of(model), "get_output_embeddings", lambda: None)()
    head = None if any(module_at(model, t) is head for t in spelled_out(model, hook_points)) else head
    picked = Picked()
    plain = head if isinstance(head, nn.Linear) else None
    late = late and plain is not None and FLOAT * len(at) * len(plain.weight) > LATE and _last(model, plain)

    def pick(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not args or args[0].dim() != 3:  # a head that reads something else than hidden states (rows, positions, width)
            return None
        picked.used = True
        states = args[0].flatten(0, 1)[at]
        picked.late = Late(plain, states) if late and plain is not None else None
        return ((states[:0] if late else states)[None], *args[1:])

    handle = head.register_forward_pre_hook(pick) if isinstance(head, nn.Module) else None
    try:
        yield picked
    finally:
        if handle:
            handle.remove()


def _last(model: nn.Module, head: nn.Linear) -> bool:
    """Whether the logits of a model are what a plain head gives, without hooks, in one process: a look at one token tells it."""
    hooks = (head._forward_hooks, head._forward_pre_hooks, head._backward_hooks, head._backward_pre_hooks)
    if type(head) is not nn.Linear or any(hooks) or (dist.is_available() and dist.is_initialized()):
        return False
    outputs: list[Tensor] = []
    handle = head.register_forward_hook(lambda _, args, out: outputs.append(out))
    token = torch.zeros(1, 1, dtype=torch.long, device=head.weight.device)
    try:
        with torch.no_grad(), torch.random.fork_rng([head.weight.device] if head.weight.is_cuda else []):
            logits = model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False).logits
    except (RuntimeError, TypeError, ValueError):  # it needs more inputs than tokens
        return False
    finally:
        handle.remove()
    return len(outputs) == 1 and logits is outputs[0]
