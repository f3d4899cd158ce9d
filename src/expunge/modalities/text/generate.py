"""Generation that drops finished sequences. It equals the library's greedy `generate` token for token, but does less work.

Several answers that are sampled to one prompt share the reading of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from expunge.core.capabilities import Samples
from expunge.core.rows import Packed
from expunge.engine.memory import ANSWERS

TRIED = 4  # drafted answers that are also generated without their draft, to test the drafts
ALIVE = 0.8  # the batch shrinks to its unfinished rows once they are at most this share of it


class Growth(Protocol):
    """Rows of tokens that grow by one token at a time."""

    ids: Tensor

    def logits(self) -> Tensor: ...  # of the next token of each row, (rows, classes)
    def append(self, tokens: Tensor) -> None: ...  # (rows,)
    def keep(self, rows: Tensor) -> None: ...  # the rows at these indices alone; an index may repeat


class Beginnings(Protocol):
    """What answers begin from: a model and its prompts."""

    def __len__(self) -> int: ...
    def batches(self, size: int) -> Iterator[list[int]]: ...  # indices of rows that may grow together
    def begin(self, rows: Sequence[int]) -> Growth: ...
    def begins_with(self, row: int) -> Hashable: ...  # equal for rows whose answers have the same distribution
    @property
    def dropped(self) -> bool: ...  # whether finished rows leave a batch, and rows may be repeated
    def after(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> Beginnings: ...  # these rows, each with tokens of its answer


def generate(
    beginnings: Beginnings,
    limits: Sequence[int],
    ends: frozenset[int],
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    with_logp: bool = False,
    batch_size: int = ANSWERS,
) -> Samples:
    """Generate answers.

    Args:
        beginnings: what each answer begins from.
        limits: for each row, the most tokens of its answer.
        ends: token ids that end an answer; they are not part of it.
        generator: for sampling; None: greedy.
        with_logp: keep the log-probability (nats) of each chosen token, under the distribution that it was drawn from.
    """
    answers = [_Answer() for _ in range(len(beginnings))]
    for rows in beginnings.batches(batch_size):
        batch = _batch(beginnings, rows, [limits[i] for i in rows], ends, generator, temperature, with_logp)
        for i, answer in zip(rows, batch, strict=True):
            answers[i] = answer
    logp = None
    if with_logp:
        row = torch.tensor([i for i, a in enumerate(answers) for _ in a.logp], dtype=torch.long)
        logp = Packed(torch.tensor([x for a in answers for x in a.logp]), row, len(answers))
    return Samples([a.tokens for a in answers], [a.end >= 0 for a in answers], [a.end for a in answers], logp)


@dataclass
class _Answer:
    """One generated answer."""

    tokens: list[int] = field(default_factory=list)
    end: int = -1  # the token that ended it
    logp: list[float] = field(default_factory=list)  # of each chosen token, including the one that ends the answer


def recite(
    beginnings: Beginnings, limits: Sequence[int], ends: frozenset[int], drafts: Sequence[Sequence[int]], batch_size: int = ANSWERS
) -> tuple[list[list[int]], int]:
    """Generate greedy answers from drafts of their beginnings.

    A few answers are also generated from the start. If one of them differs from its draft, all answers are generated from the start.

    Args:
        beginnings: what each answer begins from.
        limits: for each row, the most tokens of its answer.
        ends: token ids that end an answer.
        drafts: for each row, the expected first tokens of its answer. An end of sequence in a draft ends its answer.
        batch_size: answers that grow at a time.

    Returns:
        The answers as token ids, and the number of tokens that were taken from the drafts.
    """
    drafted, complete = list[list[int]](), list[bool]()
    for draft, limit in zip(drafts, limits, strict=True):
        end = next((k for k, token in enumerate(draft) if token in ends), None)
        drafted.append(list(draft[: limit if end is None else min(end, limit)]))
        complete.append(end is not None or len(drafted[-1]) >= limit)
    tested = set(sorted((i for i in range(len(beginnings)) if drafted[i]), key=lambda i: -len(drafted[i]))[:TRIED])
    generated = [i for i in range(len(beginnings)) if i in tested or not complete[i]]
    used = {i: [] if i in tested else drafted[i] for i in generated}
    begun = beginnings.after(generated, [used[i] for i in generated])
    rests = generate(begun, [limits[i] - len(used[i]) for i in generated], ends, batch_size=batch_size).ids
    answers = {i: [*used[i], *rest] for i, rest in zip(generated, rests, strict=True)}
    for i in tested:
        if answers[i] != drafted[i] if complete[i] else answers[i][: len(drafted[i])] != drafted[i]:
            return generate(beginnings, limits, ends, batch_size=batch_size).ids, 0
    known = sum(len(draft) for i, draft in enumerate(drafted) if i not in tested)
    return [answers.get(i, draft) for i, draft in enumerate(drafted)], known


@torch.no_grad()
def _batch(
    beginnings: Beginnings,
    places: Sequence[int],
    limits: Sequence[int],
    ends: frozenset[int],
    generator: torch.Generator | None,
    temperature: float,
    with_logp: bool,
) -> list[_Answer]:
    distinct, of_row = _distinct([beginnings.begins_with(i) for i in places], generator is not None and beginnings.dropped)
    growing = beginnings.begin([places[i] for i in distinct])
    device = growing.ids.device
    generator = _on(device, generator)
    answers = [_Answer() for _ in places]
    rows, done = list(range(len(places))), [limit <= 0 for limit in limits]
    scored, scored_rows = list[Tensor](), list[int]()  # log-probabilities step by step, and the row of each; -1 for a finished row
    for step in range(1, max(limits) + 1):
        logits = growing.logits()
        if step == 1 and len(distinct) < len(places):
            repeated = torch.tensor(of_row, device=device)
            growing.keep(repeated)
            logits = logits[repeated]
        chosen, logp = choose(logits, generator, temperature, with_logp)
        if logp is not None:
            scored.append(logp)
            scored_rows += [-1 if finished else row for row, finished in zip(rows, done, strict=True)]
        for place, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if done[place]:
                continue
            if token in ends:
                answers[row].end = token
            else:
                answers[row].tokens.append(token)
            done[place] = token in ends or step >= limits[row]
        unfinished = [place for place, finished in enumerate(done) if not finished]
        if not unfinished:
            break
        growing.append(chosen)
        if beginnings.dropped and len(unfinished) <= ALIVE * len(done):
            growing.keep(torch.tensor(unfinished, device=device))
            rows, done = [rows[place] for place in unfinished], [False] * len(unfinished)
    for row, value in zip(scored_rows, torch.cat(scored).tolist() if scored else (), strict=True):
        if row >= 0:
            answers[row].logp.append(value)
    return answers


def _distinct(keys: Sequence[Hashable], shared: bool) -> tuple[list[int], list[int]]:
    """The indices of the distinct keys, and for each key the place of its equal among these; all keys are distinct unless `shared`."""
    if not shared:
        return list(range(len(keys))), list(range(len(keys)))
    first = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
    distinct = sorted(first.values())
    place = {index: k for k, index in enumerate(distinct)}
    return distinct, [place[first[key]] for key in keys]


def _on(device: torch.device, generator: torch.Generator | None) -> torch.Generator | None:
    """The generator; on another device than the CPU one that it seeds, so that probabilities do not leave the device."""
    if generator is None or device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


def choose(logits: Tensor, generator: torch.Generator | None, temperature: float, with_logp: bool = False) -> tuple[Tensor, Tensor | None]:
    """The next tokens, (rows,), and their log-probabilities in nats, (rows,), under the distribution that they were drawn from."""
    if generator is None and not with_logp:
        return logits.argmax(-1), None
    scaled = logits.float() / temperature
    log_probs = scaled.log_softmax(-1) if with_logp else None
    if generator is None:
        chosen = logits.argmax(-1)
    else:
        chosen = torch.multinomial(scaled.softmax(-1) if log_probs is None else log_probs.exp(), 1, generator=generator)[:, 0]
    return chosen, None if log_probs is None else log_probs.gather(1, chosen[:, None])[:, 0]
