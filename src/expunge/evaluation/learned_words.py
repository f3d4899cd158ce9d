"""A text encoder that reads learned vectors among the words of a caption: before them, or in the place of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expunge.functional.simplex import shares


class LearnedWords(nn.Module):
    """A text encoder with learned words. The empty prompt, against which captions are guided, stays as it is.

    Args:
        encoder: of `transformers`; reads tokens (captions, tokens) and gives states.
        empty: tokens of the empty prompt, (tokens,).
        vectors: how many words are learned before each caption; with `instead`, in place of these tokens.
        instead: tokens whose places the learned vectors take wherever they stand in this order; (): none.
        of_vocabulary: each learned word is one of the vocabulary. Weights over all words are learned, on the simplex; a word is drawn by
            them in training, with a gradient straight through, and is the one of most weight elsewhere. Else it is a free vector.
        banned: words of the vocabulary that are not used.
        seed: of the words to begin with, which are drawn; with `instead`, the replaced words are the beginning.
    """

    weights: Tensor
    empty: Tensor
    usable: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        empty: Tensor,
        vectors: int,
        instead: Sequence[int] = (),
        of_vocabulary: bool = False,
        banned: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.instead, self.of_vocabulary = encoder, tuple(instead), of_vocabulary
        self.config: Any = encoder.config
        table = self.table
        self.register_buffer("empty", empty, persistent=False)
        self.register_buffer("usable", torch.tensor([k not in set(banned) for k in range(len(table))], device=table.device), False)
        generator = torch.Generator().manual_seed(seed)
        known = self.usable.nonzero()[:, 0].cpu()
        first = torch.tensor(self.instead) if instead else known[torch.randint(len(known), (vectors,), generator=generator)]
        begin = torch.rand(len(first), len(table), generator=generator) if of_vocabulary else table[first.to(table.device)]
        self.weights = nn.Parameter(begin.detach().clone().to(table))

    @property
    def table(self) -> Tensor:
        """Vectors of all words of the vocabulary, (words, width)."""
        encoder: Any = self.encoder
        table: Tensor = encoder.get_input_embeddings().weight
        return table

    def chosen(self) -> list[int]:
        """The words of the vocabulary that are learned, or are nearest to what is learned."""
        if self.of_vocabulary:
            return [int(k) for k in self._simplex().argmax(1)]
        apart = torch.cdist(self.weights.detach().float(), self.table.detach().float())
        return [int(k) for k in apart.masked_fill(~self.usable, float("inf")).argmin(1)]

    def forward(self, tokens: Tensor) -> Any:
        """States of captions. tokens: (captions, tokens)."""
        vectors, count = self._vectors(), len(self.weights)
        named = (tokens != self.empty).any(1)
        if self.instead:
            places = _places(tokens, self.instead)
        else:
            longer = torch.cat([tokens[:, :1], tokens[:, :1].expand(-1, count), tokens[:, 1:]], 1)[:, : tokens.shape[1]]
            end = self.empty[1]
            cut = ~(longer == end).any(1)
            longer[:, -1] = torch.where(cut, end, longer[:, -1])
            tokens = torch.where(named[:, None], longer, tokens)
            places = [(int(i), 1) for i in named.nonzero()[:, 0]]

        def put(module: nn.Module, inputs: Any, read: Tensor) -> Tensor:
            read = read.clone()
            for row, first in places:
                fitting = min(count, read.shape[1] - first)
                read[row, first : first + fitting] = vectors[:fitting].to(read)
            return read

        encoder: Any = self.encoder
        handle = encoder.get_input_embeddings().register_forward_hook(put)
        try:
            return encoder(tokens)
        finally:
            handle.remove()

    def _vectors(self) -> Tensor:
        if not self.of_vocabulary:
            return self.weights
        if self.training:
            with torch.no_grad():  # after each step of the optimizer the weights go back onto the simplex
                self.weights.copy_(self._simplex())
            words = torch.multinomial(self.weights.detach().float().clamp(min=0), 1)[:, 0]
        else:
            words = self._simplex().argmax(1)
        one_hot = nn.functional.one_hot(words, len(self.table)).to(self.weights)
        return (one_hot + self.weights - self.weights.detach()) @ self.table.detach()

    @torch.no_grad()
    def _simplex(self) -> Tensor:
        return shares(self.weights.masked_fill(~self.usable, -float(len(self.table))))


def _places(tokens: Tensor, wanted: Sequence[int]) -> list[tuple[int, int]]:
    """Rows and first positions at which some tokens stand one after the other."""
    windows = tokens.unfold(1, len(wanted), 1)
    hits = (windows == torch.tensor(wanted, device=tokens.device)).all(2)
    return [(int(row), int(first)) for row, first in hits.nonzero()]
