"""A policy of canned replies: a table of logits whose one answer token is a whole text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import tables
from expunge.core.capabilities import Samples
from expunge.core.rows import Packed, Rows


@dataclass
class CannedReplies(tables.TableModality):
    """Class k of an answer is the k-th text."""

    texts: Sequence[str] = ()

    def generate(
        self,
        model: Any,
        rows: Rows,
        limit: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        with_logp: bool = False,
    ) -> Samples:
        log_probs = (model.scores.detach()[list(rows["prompt"]), 0] / temperature).log_softmax(-1)
        chosen = torch.multinomial(log_probs.exp(), 1, generator=generator)
        logp = Packed(log_probs.gather(1, chosen)[:, 0], torch.arange(len(rows)), len(rows))
        return Samples(chosen.tolist(), [False] * len(rows), [-1] * len(rows), logp)

    def decode(self, answers: Sequence[Sequence[int]]) -> list[str]:
        return [self.texts[token] for (token,) in answers]


def prompts(count: int, **columns: Sequence[Any]) -> Rows:
    """Rows that ask for one reply each."""
    return Rows("prompts", tuple(f"prompt {i}" for i in range(count)), {"prompt": range(count), "answer": [[0]] * count, **columns})
