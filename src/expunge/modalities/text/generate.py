"""Generation that drops finished sequences. It equals the library's greedy `generate` token for token, but does less work."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from expunge.core.capabilities import Samples
from expunge.core.errors import UserError
from expunge.core.rows import Packed
from expunge.engine.adapters import base_of

TRIED = 4  # drafted answers that are also generated without their draft, to test the drafts
ALIVE = 0.8  # the batch shrinks to its unfinished rows once they are at most this share of it
SPARE = 32  # tokens that are allocated ahead, so that keys and values are not copied for each token


class Roomy(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a block in preallocated buffers. The library's layer copies all of them for every token."""

    keys: Tensor  # (rows, heads, tokens, width), a view of the beginning of its buffer
    values: Tensor  # likewise
    buffers: tuple[Tensor, ...] = ()  # of keys and values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, both (rows, heads, new tokens, width), and return all of them."""
        new, before = (key_states, value_states), self.get_seq_length()
        after = before + key_states.shape[-2]
        if not self.buffers or after > self.buffers[0].shape[-2]:
            self.buffers = tuple(x.new_empty(*x.shape[:-2], after + SPARE, x.shape[-1]) for x in new)
            if before:
                self.buffers[0][..., :before, :], self.buffers[1][..., :before, :] = self.keys, self.values
        for buffer, states in zip(self.buffers, new, strict=True):
            buffer[..., before:after, :] = states
        self.keys, self.values = (buffer[..., :after, :] for buffer in self.buffers)
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows at these indices only."""
        super().batch_select_indices(indices)
        self.buffers = ()


def _cache(model: nn.Module) -> DynamicCache:
    """An empty cache of the kind that the model's configuration names."""
    cache = DynamicCache(config=base_of(model).config)
    cache.layers = [Roomy() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    ends: frozenset[int],
    pad: int,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    with_logp: bool = False,
    batch_size: int = 128,
) -> Samples:
    """Generate answers to prompts.

    Args:
        prompts: token ids.
        limits: for each prompt, the most tokens of its answer.
        ends: token ids that end an answer; they are not part of it.
        pad: token id of padding.
        generator: for sampling; None: greedy.
        with_logp: keep the log-probability (nats) of each chosen token, under the distribution that it was drawn from.

    Raises:
        UserError: when the model has no cache of keys and values.
    """
    answers = [_Answer() for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        batch = _batch(model, [prompts[i] for i in rows], [limits[i] for i in rows], ends, pad, generator, temperature, with_logp)
        for i, answer in zip(rows, batch, strict=True):
            answers[i] = answer
    logp = None
    if with_logp:
        row = torch.tensor([i for i, a in enumerate(answers) for _ in a.logp], dtype=torch.long)
        logp = Packed(torch.tensor([x for a in answers for x in a.logp]), row, len(answers))
    return Samples([a.tokens for a in answers], [a.ended for a in answers], logp)


@dataclass
class _Answer:
    """One generated answer."""

    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    logp: list[float] = field(default_factory=list)  # of each chosen token, including the one that ends the answer


def recite(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    ends: frozenset[int],
    pad: int,
    drafts: Sequence[Sequence[int]],
) -> tuple[list[list[int]], int]:
    """Generate greedy answers from drafts of their beginnings.

    A few answers are also generated from the start. If one of them differs from its draft, all answers are generated from the start.

    Args:
        prompts: token ids.
        limits: for each prompt, the most tokens of its answer.
        ends: token ids that end an answer.
        pad: token id of padding.
        drafts: for each prompt, the expected first tokens of its answer. An end of sequence in a draft ends its answer.

    Returns:
        The answers as token ids, and the number of tokens that were taken from the drafts.
    """
    beginnings, complete = list[list[int]](), list[bool]()
    for draft, limit in zip(drafts, limits, strict=True):
        end = next((k for k, token in enumerate(draft) if token in ends), None)
        beginnings.append(list(draft[: limit if end is None else min(end, limit)]))
        complete.append(end is not None or len(beginnings[-1]) >= limit)
    tested = set(sorted((i for i in range(len(prompts)) if beginnings[i]), key=lambda i: -len(beginnings[i]))[:TRIED])
    generated = [i for i in range(len(prompts)) if i in tested or not complete[i]]
    used = {i: [] if i in tested else beginnings[i] for i in generated}
    rests = generate(model, [[*prompts[i], *used[i]] for i in generated], [limits[i] - len(used[i]) for i in generated], ends, pad).ids
    answers = {i: [*used[i], *rest] for i, rest in zip(generated, rests, strict=True)}
    for i in tested:
        if answers[i] != beginnings[i] if complete[i] else answers[i][: len(beginnings[i])] != beginnings[i]:
            return generate(model, prompts, limits, ends, pad).ids, 0
    drafted = sum(len(beginnings[i]) for i in range(len(prompts)) if i not in tested)
    return [answers.get(i, beginnings[i]) for i in range(len(prompts))], drafted


@torch.no_grad()
def _batch(
    model: nn.Module,
    prompts: list[Sequence[int]],
    limits: Sequence[int],
    ends: frozenset[int],
    pad: int,
    generator: torch.Generator | None,
    temperature: float,
    with_logp: bool,
) -> list[_Answer]:
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    at = (mask.cumsum(1) - 1).clamp_min(0)
    parameters = inspect.signature(base_of(model).forward).parameters
    if "past_key_values" not in parameters:  # the model would ignore the cache and predict each token without those before it
        raise UserError(f"answers are generated with a cache of keys and values, and {type(base_of(model)).__name__} has none")
    last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
    cache = _cache(model)
    answers = [_Answer() for _ in prompts]
    rows, limit = list(range(len(prompts))), torch.tensor(limits, device=device)
    done, end_ids = limit <= 0, torch.tensor(sorted(ends), device=device)
    for step in range(1, max(limits) + 1):
        positions: dict[str, Any] = {"position_ids": at} if "position_ids" in parameters else {}
        logits = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **positions, **last_only).logits[:, -1]
        chosen = _choose(logits, generator, temperature)
        if with_logp:
            for row, value, finished in zip(rows, _logp(logits, chosen, temperature).tolist(), done.tolist(), strict=True):
                if not finished:
                    answers[row].logp.append(value)
        ending = ~done & torch.isin(chosen, end_ids)
        done = done | ending
        for row, token, finished, ends_here in zip(rows, chosen.tolist(), done.tolist(), ending.tolist(), strict=True):
            answers[row].ended |= ends_here
            if not finished:
                answers[row].tokens.append(token)
        done = done | (limit <= step)
        unfinished = (~done).nonzero()[:, 0]
        if not len(unfinished):
            break
        ids, at = chosen[:, None], at[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        if len(unfinished) <= ALIVE * len(done):
            cache.batch_select_indices(unfinished)
            ids, at, mask, done, limit = ids[unfinished], at[unfinished], mask[unfinished], done[unfinished], limit[unfinished]
            rows = [rows[i] for i in unfinished.tolist()]
    return answers


def _logp(logits: Tensor, chosen: Tensor, temperature: float) -> Tensor:
    """Log-probability of the chosen tokens, (rows,), in nats."""
    return (logits.float() / temperature).log_softmax(-1).gather(1, chosen[:, None])[:, 0]


def _choose(logits: Tensor, generator: torch.Generator | None, temperature: float) -> Tensor:
    if generator is None:
        return logits.argmax(-1)
    p = (logits.float() / temperature).softmax(-1)
    return torch.multinomial(p.cpu(), 1, generator=generator)[:, 0].to(logits.device)
