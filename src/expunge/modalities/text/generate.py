"""Generation that drops finished sequences. It equals the library's greedy `generate` token for token, but does less work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Samples
from expunge.core.rows import Packed
from expunge.modalities.text.decoding import PLAIN, DecodingMode, Growing, mode_of

TRIED = 4  # drafted answers that are also generated without their draft, to test the drafts
ALIVE = 0.8  # the batch shrinks to its unfinished rows once they are at most this share of it


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
    """
    answers = [_Answer() for _ in prompts]
    mode = mode_of(model, prompts, pad) if prompts else PLAIN
    for rows in _batches(prompts, batch_size, mode):
        batch = _batch(model, [prompts[i] for i in rows], [limits[i] for i in rows], ends, pad, mode, generator, temperature, with_logp)
        for i, answer in zip(rows, batch, strict=True):
            answers[i] = answer
    logp = None
    if with_logp:
        row = torch.tensor([i for i, a in enumerate(answers) for _ in a.logp], dtype=torch.long)
        logp = Packed(torch.tensor([x for a in answers for x in a.logp]), row, len(answers))
    return Samples([a.tokens for a in answers], [a.ended for a in answers], logp)


def _batches(prompts: Sequence[Sequence[int]], batch_size: int, mode: DecodingMode) -> Iterator[list[int]]:
    """Indices of prompts of similar lengths; of equal lengths, unless the mode pads them."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for _, group in groupby(order, key=lambda i: 0 if mode.padded else len(prompts[i])):
        rows = list(group)
        yield from (rows[at : at + batch_size] for at in range(0, len(rows), batch_size))


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
    mode: DecodingMode,
    generator: torch.Generator | None,
    temperature: float,
    with_logp: bool,
) -> list[_Answer]:
    growing = Growing(model, prompts, pad, mode)
    device = growing.ids.device
    answers = [_Answer() for _ in prompts]
    rows, limit = list(range(len(prompts))), torch.tensor(limits, device=device)
    done, end_ids = limit <= 0, torch.tensor(sorted(ends), device=device)
    for step in range(1, max(limits) + 1):
        logits = growing.logits()
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
        growing.append(chosen)
        if mode.dropped and len(unfinished) <= ALIVE * len(done):
            growing.keep(unfinished)
            done, limit = done[unfinished], limit[unfinished]
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
