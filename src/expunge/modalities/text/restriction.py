"""What must not be said in an answer: forbidden phrases, matched token by token, and words that mean the same.

A `Restriction` belongs to one prompt. It knows nothing of beams: a state stands for what was said so far, and gives a penalty for each next
token. Beam search, teacher-forced scores and the `transformers` logits processor share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor

from expunge.functional.forbidden import ForbiddenTree, Live
from expunge.modalities.text.pieces import Pieces


class Spoken(NamedTuple):
    """An answer so far: its place in the tree of forbidden sequences, and the tokens since the last break of words."""

    live: Live = ()
    open: tuple[int, ...] = ()


START = Spoken()


class Restriction:
    """Penalties on the next token of an answer, in nats.

    Args:
        pieces: of the tokenizer.
        phrases: forbidden ones.
        beta: share of a phrase's tokens from which on a token that continues it costs infinitely much; above 1: never.
        similarity: a function from words to the largest similarity of each to a phrase; None: words are not compared.
        delta: similarity from which on the end of a word costs infinitely much; below it, the end costs the similarity itself.
        soft: whether it costs that.
    """

    def __init__(
        self,
        pieces: Pieces,
        phrases: Sequence[str],
        beta: float = 1.0,
        similarity: Callable[[Sequence[str]], Sequence[float]] | None = None,
        delta: float = 0.5,
        soft: bool = True,
    ) -> None:
        self.pieces, self.beta, self.similarity, self.delta, self.soft = pieces, beta, similarity, delta, soft
        self.tree = ForbiddenTree(pieces.spellings(phrases))
        self.similarities: dict[str, float] = {}

    def after(self, spoken: Spoken, token: int) -> Spoken:
        """The state after one more token."""
        breaks = token >= len(self.pieces.breaks) or bool(self.pieces.breaks[token])
        return Spoken(self.tree.advance(spoken.live, token), (token,) if breaks else (*spoken.open, token))

    def know(self, several: Iterable[Spoken]) -> None:
        """Compare the last words of several states at once, for `closing` to remember."""
        words = {self.pieces.last_word(s.open) for s in several} - {"", *self.similarities} if self.similarity and len(self.tree) else set()
        if words and self.similarity:
            self.similarities |= zip(sorted(words), self.similarity(sorted(words)), strict=True)

    def closing(self, spoken: Spoken) -> float:
        """What it costs to end the last word."""
        self.know([spoken])
        similarity = self.similarities.get(self.pieces.last_word(spoken.open))
        if similarity is None:  # no word, or nothing to compare it with
            return 0.0
        return float("inf") if similarity >= self.delta else similarity * self.soft

    def penalties(self, spoken: Spoken, classes: int) -> Tensor:
        """The penalty of each next token, (classes,)."""
        penalty = torch.zeros(classes)
        if cost := self.closing(spoken):
            penalty[len(self.pieces.breaks) :] = cost
            penalty[: len(self.pieces.breaks)][self.pieces.breaks[:classes]] = cost
        blocked = [t for t, ratio in self.tree.next_ratios(spoken.live).items() if ratio >= self.beta - 1e-9 and t < classes]
        penalty[blocked] = float("inf")
        return penalty

    def way_out(self, log_probs: Tensor) -> int | None:
        """The likeliest token outside the beginnings of phrases, for a state all of whose continuations are forbidden; None: there is none.

        Args:
            log_probs: (classes,).
        """
        allowed = log_probs.clone()
        allowed[[t for t in self.tree.first if t < len(allowed)]] = -torch.inf
        best = int(allowed.argmax())
        return best if allowed[best] > -torch.inf else None


class RestrictedLogits(LogitsProcessor):  # type: ignore[misc]
    """A logits processor for the library's own `generate`, greedy, with beams, sampled or streamed.

    Args:
        restrictions: one for each prompt; None: the prompt is free, and its logits stay as they are, bit by bit.
        prompt_length: tokens of the prompts with their padding, at the beginning of `input_ids`.
    """

    def __init__(self, restrictions: Sequence[Restriction | None], prompt_length: int) -> None:
        self.restrictions, self.prompt_length = restrictions, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores of the next tokens, (prompts * beams, classes), with penalties subtracted."""
        beams = len(input_ids) // len(self.restrictions)
        restricted = scores.clone()
        for i, restriction in enumerate(self.restrictions):
            if restriction is None:
                continue
            group = range(i * beams, (i + 1) * beams)
            for row in group:
                spoken = Spoken()
                for token in input_ids[row, self.prompt_length :].tolist():
                    spoken = restriction.after(spoken, token)
                restricted[row] -= restriction.penalties(spoken, scores.shape[-1]).to(scores)
            if torch.isneginf(restricted[group[0] : group[-1] + 1]).all():
                row = max(group, key=lambda r: float(scores[r].max()))
                token_out = restriction.way_out(scores[row])
                token = int(scores[row].argmax()) if token_out is None else token_out
                restricted[row, token] = scores[row, token]
        return restricted
