"""What the tokens of a vocabulary write: which of them begin a new word, and the word that a text ends in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

WITHIN = re.compile(r"[\w\ufffd]")  # characters of a word; the second stands for a part of a character
LAST_WORD = re.compile(r"[\w\ufffd]+$")


class Pieces:
    """The pieces of text that a tokenizer's tokens write after other text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.anchor = list(tokenizer("a", add_special_tokens=False)["input_ids"])  # tokens at the very beginning may lose their space
        self.anchor_text = self._decode(self.anchor)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def text(self, ids: Sequence[int]) -> str:
        """What some tokens write in the midst of a text."""
        return self._decode([*self.anchor, *ids])[len(self.anchor_text) :]

    def last_word(self, ids: Sequence[int]) -> str:
        """The word that the text of some tokens ends in; '' where it ends in something else."""
        match = LAST_WORD.search(self.text(ids)) if ids else None
        return match[0] if match else ""

    @cached_property
    def breaks(self) -> Tensor:
        """Which tokens end the word before them, (tokens,): those that begin with a space or a sign, and special tokens."""
        return torch.tensor([not WITHIN.match(self.text([token])) for token in range(len(self.tokenizer))])

    def spellings(self, phrases: Iterable[str]) -> list[list[int]]:
        """Each phrase as token ids, as it may stand in a text: with and without a space before it, as it is and in lower case."""
        spelled = {s for phrase in phrases for written in (phrase, phrase.lower()) for s in (written, f" {written}")}
        texts = sorted(s for s in spelled if s.strip())
        ids = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        return [list(i) for i in ids]
