"""Answers about pictures that grow by one token at a time; a picture is read with its prompt, and not again where a model has a cache."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from expunge.engine.adapters import base_of
from expunge.engine.committee import members_of
from expunge.engine.run_state import evaluating
from expunge.functional.brief import brief
from expunge.modalities.text.causal import Prompts
from expunge.modalities.text.decoding import FORCED, MODES, PLAIN, DecodingMode, Growing, equal, mode_of, together
from expunge.modalities.vision_language.read import numbered
from expunge.modalities.vision_language.towers import Pictures, shown

_modes: WeakKeyDictionary[nn.Module, DecodingMode] = WeakKeyDictionary()  # what was found for a model, by trying


class GrowingSight(Growing):
    """Rows of tokens about pictures."""

    def __init__(
        self, model: nn.Module, prompts: Sequence[Sequence[int]], pictures: Sequence[Pictures], token: int, pad: int, mode: DecodingMode
    ) -> None:
        super().__init__(model, prompts, pad, mode)
        self.pictures, self.token, self.read = list(pictures), token, False

    def logits(self) -> Tensor:
        """The logits of the next token of each row, (rows, classes)."""
        logits = super().logits()
        self.read = self.mode.cached  # from now on the cache holds the pictures
        return logits

    def beside(self) -> dict[str, Any]:
        """The pictures, until they are read."""
        return {} if self.read else shown(self.model, [p for of_row in self.pictures for p in of_row], self.ids, self.token)

    def keep(self, rows: Tensor) -> None:
        """Keep the rows at these indices alone; an index may repeat."""
        super().keep(rows)
        self.pictures = [self.pictures[i] for i in rows.tolist()]


@brief("token")
@dataclass(frozen=True)
class PicturedPrompts(Prompts):
    """Prompts with pictures that a causal model continues."""

    pictures: Sequence[Pictures]
    token: int

    @cached_property
    def _mode(self) -> DecodingMode:
        if not self.prompts:
            return PLAIN
        model = members_of(self.model)[0]
        first = next((i for i, of_row in enumerate(self.pictures) if of_row), None)
        if first is None:
            return mode_of(self.model, self.prompts, self.pad)
        base = base_of(model)
        if base not in _modes:
            with evaluating(model), torch.no_grad():  # dropout would make any two passes differ
                _modes[base] = next((mode for mode in MODES if self._equals_plain(model, first, mode)), PLAIN)
        return _modes[base]

    def _equals_plain(self, model: nn.Module, row: int, mode: DecodingMode) -> bool:
        """Whether two rows that grow in this mode, one of which is dropped half-way, get the logits of plain forward passes."""
        prompt, pictures = list(self.prompts[row]), self.pictures[row]
        text = [t for t in prompt if t != self.token]
        rows = [(prompt, pictures), (text, ())] if mode.padded else [(prompt, pictures), (prompt, pictures)]
        forced = (text * FORCED)[:FORCED]
        pairs = list[tuple[Tensor, Tensor]]()
        try:
            growing = GrowingSight(model, [p for p, _ in rows], [s for _, s in rows], self.token, self.pad, mode)
            plain = []
            for p, s in rows:
                ids = growing.ids.new_tensor([[*p, *forced]])
                plain.append(model(input_ids=ids, **shown(model, s, ids, self.token)).logits[0, len(p) - 1 :])
            for step, token in enumerate(forced):
                pairs += zip(growing.logits(), (logits[step] for logits in plain), strict=True)
                growing.append(growing.ids.new_tensor([token] * len(plain)))
                if mode.dropped and step == len(forced) // 2:
                    growing.keep(growing.ids.new_tensor([1]))
                    plain = plain[1:]
        except torch.OutOfMemoryError:
            raise
        except Exception:  # models raise errors of any kind
            return False
        return all(equal(*pair) for pair in pairs)

    def begins_with(self, row: int) -> Hashable:
        """What the answer begins from: the pictures and the question."""
        return tuple(numbered(self.prompts[row], self.pictures[row], self.token))

    def begin(self, rows: Sequence[int]) -> Any:
        """Rows of tokens that begin with these prompts."""
        prompts, pictures = [self.prompts[i] for i in rows], [self.pictures[i] for i in rows]
        members = members_of(self.model)
        return together([GrowingSight(member, prompts, pictures, self.token, self.pad, self._mode) for member in members])

    def after(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> PicturedPrompts:
        """These prompts, each with tokens of its answer."""
        prompts = [[*self.prompts[i], *new] for i, new in zip(rows, tokens, strict=True)]
        return PicturedPrompts(self.model, prompts, self.pad, [self.pictures[i] for i in rows], self.token)
