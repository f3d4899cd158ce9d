"""A search for a few tokens which, put into prompts, make a model give the answers that the searcher knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.core.capabilities import require
from expunge.core.modality import Modality
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.engine.estimators.token_gradients import token_gradients
from expunge.engine.retokenizing import Retokenizes
from expunge.functional.brief import brief

BATCH = 256  # rows in one forward pass of a search
Place = Callable[[Rows, Sequence[int]], Rows]  # rows with tokens in their prompts


@brief("length", "steps")
@dataclass(frozen=True)
class TokenSearch:
    """Exchange one token at a time, and keep the best exchange if it lowers the mean loss of the answers.

    Args:
        place: puts tokens into the prompts of rows.
        length: how many tokens are searched for.
        steps: exchanges that are kept at most.
        candidates: exchanges that are tried in a step.
        topk: tokens a place that `gcg` draws from, those with the steepest gradient.
        seed: of all draws.
        starts: where the tokens begin in each prompt; default: they are the last ones.
    """

    place: Place
    length: int
    steps: int
    candidates: int
    topk: int
    seed: int
    starts: Sequence[int] | None = None

    def run(self, model: nn.Module, modality: Modality, held: Rows, how: Literal["gcg", "random"]) -> list[int]:
        """The tokens with the lowest loss.

        Args:
            held: rows whose true answers the searcher knows.
            how: gcg: exchanges are drawn from those with the steepest gradients; random: from all.
        """
        tokens, generator = ordinary(modality), torch.Generator().manual_seed(seed_of(self.seed, how))
        best_tokens = tokens[torch.randint(len(tokens), (self.length,), generator=generator)]
        best = float("inf")
        for _ in range(self.steps):
            choices = tokens.expand(self.length, -1)
            if how == "gcg":
                placed = self.place(held, best_tokens.tolist())
                gradient = token_gradients(model, modality, placed, self.length, self.starts).cpu()[:, tokens]
                choices = tokens[gradient.topk(min(self.topk, len(tokens)), largest=False).indices]
            tried = best_tokens.repeat(self.candidates, 1)
            places = torch.randint(self.length, (self.candidates,), generator=generator)
            picked = torch.randint(choices.shape[1], (self.candidates,), generator=generator)
            tried[torch.arange(self.candidates), places] = choices[places, picked]
            losses = losses_of(model, modality, [self.place(held, row.tolist()) for row in tried])
            if float(losses.min()) < best:
                best, best_tokens = float(losses.min()), tried[int(losses.argmin())]
        return [int(t) for t in best_tokens]


def ordinary(modality: Modality) -> Tensor:
    """The token ids that are no special ones, (tokens,)."""
    tokenizer: Any = require(modality, Retokenizes).tokenizer
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return torch.tensor([i for i in sorted(tokenizer.get_vocab().values()) if i not in special])


@torch.no_grad()
def losses_of(model: nn.Module, modality: Modality, variants: Sequence[Rows]) -> Tensor:
    """The mean loss of each variant of some rows, (variants,), in nats."""
    size, losses = max(1, BATCH // len(variants[0])), list[Tensor]()
    for at in range(0, len(variants), size):
        outputs = modality.forward(model, variants[at : at + size])
        losses += [-output.target_logp.mean().mean().cpu() for output in outputs]
    return torch.stack(losses)
