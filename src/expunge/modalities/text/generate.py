"""Generation that drops finished sequences: token for token what greedy `generate` gives, without waiting for the longest answer."""

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

TRIED = 4  # answers with a draft that are said without it, to see whether drafts are right
ALIVE = 0.8  # the batch is cut down to the rows still going once at most this share of it is
SPARE = 32  # tokens that there is room for beyond those said, so that keys and values are not copied with each of them


class Roomy(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a block, written into room that was made before; the library's layer copies all of them for every token."""

    keys: Tensor  # (rows, heads, tokens, width), the beginning of the room for them; and values likewise
    values: Tensor
    room: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        new, before = (key_states, value_states), self.get_seq_length()
        after = before + key_states.shape[-2]
        if not self.room or after > self.room[0].shape[-2]:
            self.room = tuple(x.new_empty(*x.shape[:-2], after + SPARE, x.shape[-1]) for x in new)
            if before:
                self.room[0][..., :before, :], self.room[1][..., :before, :] = self.keys, self.values
        for room, states in zip(self.room, new, strict=True):
            room[..., before:after, :] = states
        self.keys, self.values = (room[..., :after, :] for room in self.room)
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.room = ()


def _cache(model: nn.Module) -> DynamicCache:
    """An empty cache, as the model's configuration asks for."""
    cache = DynamicCache(config=base_of(model).config)
    cache.layers = [Roomy() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    rooms: Sequence[int],
    ends: frozenset[int],
    pad: int,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    with_logp: bool = False,
    batch_size: int = 128,
) -> Samples:
    """Answers to prompts of token ids, of at most `rooms` tokens each. Greedy without a generator.

    Args:
        with_logp: keep the log-probability of each token that was chosen, under the distribution that it was chosen from.
    """
    out = [_Answer() for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        answers = _batch(model, [prompts[i] for i in rows], [rooms[i] for i in rows], ends, pad, generator, temperature, with_logp)
        for i, answer in zip(rows, answers, strict=True):
            out[i] = answer
    logp = None
    if with_logp:
        row = torch.tensor([i for i, a in enumerate(out) for _ in a.logp], dtype=torch.long)
        logp = Packed(torch.tensor([x for a in out for x in a.logp]), row, len(out))
    return Samples([a.tokens for a in out], [a.ended for a in out], logp)


@dataclass
class _Answer:
    """One generated answer."""

    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    logp: list[float] = field(default_factory=list)  # of each chosen token, the one that ends the answer included


def recite(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    rooms: Sequence[int],
    ends: frozenset[int],
    pad: int,
    drafts: Sequence[Sequence[int]],
) -> tuple[list[list[int]], int]:
    """Greedy answers whose beginnings are known, and how many of their tokens were.

    A few are said from the start, and if one of them is not what its draft says, all are. An end in a draft is the end of its answer.
    """
    known, closed = list[list[int]](), list[bool]()
    for draft, room in zip(drafts, rooms, strict=True):
        end = next((k for k, token in enumerate(draft) if token in ends), None)
        known.append(list(draft[: room if end is None else min(end, room)]))
        closed.append(end is not None or len(known[-1]) >= room)
    tried = set(sorted((i for i in range(len(prompts)) if known[i]), key=lambda i: -len(known[i]))[:TRIED])
    asked = [i for i in range(len(prompts)) if i in tried or not closed[i]]
    begun = {i: [] if i in tried else known[i] for i in asked}
    said = generate(model, [[*prompts[i], *begun[i]] for i in asked], [rooms[i] - len(begun[i]) for i in asked], ends, pad).ids
    answers = {i: [*begun[i], *more] for i, more in zip(asked, said, strict=True)}
    for i in tried:
        if answers[i] != known[i] if closed[i] else answers[i][: len(known[i])] != known[i]:
            return generate(model, prompts, rooms, ends, pad).ids, 0
    return [answers.get(i, known[i]) for i in range(len(prompts))], sum(len(known[i]) for i in range(len(prompts)) if i not in tried)


@torch.no_grad()
def _batch(
    model: nn.Module,
    prompts: list[Sequence[int]],
    rooms: Sequence[int],
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
    known = inspect.signature(base_of(model).forward).parameters
    if "past_key_values" not in known:  # it would be swallowed, and each token be said without those before it
        raise UserError(f"answers are generated with a cache of keys and values, and {type(base_of(model)).__name__} has none")
    last: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    cache = _cache(model)
    answers = [_Answer() for _ in prompts]
    alive, room = list(range(len(prompts))), torch.tensor(rooms, device=device)
    done, stop = room <= 0, torch.tensor(sorted(ends), device=device)
    for said in range(1, max(rooms) + 1):
        where: dict[str, Any] = {"position_ids": at} if "position_ids" in known else {}
        logits = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **where, **last).logits[:, -1]
        chosen = _choose(logits, generator, temperature)
        if with_logp:
            for row, value, over in zip(alive, _logp(logits, chosen, temperature).tolist(), done.tolist(), strict=True):
                if not over:
                    answers[row].logp.append(value)
        ending = ~done & torch.isin(chosen, stop)
        done = done | ending
        for row, token, over, ends_here in zip(alive, chosen.tolist(), done.tolist(), ending.tolist(), strict=True):
            answers[row].ended |= ends_here
            if not over:
                answers[row].tokens.append(token)
        done = done | (room <= said)
        going = (~done).nonzero()[:, 0]
        if not len(going):
            break
        ids, at = chosen[:, None], at[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        if len(going) <= ALIVE * len(done):
            cache.batch_select_indices(going)
            ids, at, mask, done, room = ids[going], at[going], mask[going], done[going], room[going]
            alive = [alive[i] for i in going.tolist()]
    return answers


def _logp(logits: Tensor, chosen: Tensor, temperature: float) -> Tensor:
    """Log-probability of the chosen tokens, (rows,)."""
    return (logits.float() / temperature).log_softmax(-1).gather(1, chosen[:, None])[:, 0]


def _choose(logits: Tensor, generator: torch.Generator | None, temperature: float) -> Tensor:
    if generator is None:
        return logits.argmax(-1)
    p = (logits.float() / temperature).softmax(-1)
    return torch.multinomial(p.cpu(), 1, generator=generator)[:, 0].to(logits.device)
