"""Answers of an encoder-decoder that grow by one token at a time; the encoder runs once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache

from expunge.engine.adapters import base_of
from expunge.engine.committee import members_of
from expunge.engine.run_state import evaluating
from expunge.functional.brief import brief
from expunge.modalities.text.decoding import FORCED, DecodingMode, equal, sized, together
from expunge.modalities.text.seq2seq_sides import Encoded, padded

MODES = (DecodingMode(), DecodingMode(dropped=False), DecodingMode(cached=False))  # the fastest first
_modes: WeakKeyDictionary[nn.Module, DecodingMode] = WeakKeyDictionary()  # what was found for a model, by trying


class GrowingAnswers:
    """The decoder's rows of tokens, and the model's prediction of the next one."""

    def __init__(
        self, model: nn.Module, sources: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], pad: int, cached: bool
    ) -> None:
        """Start from the prompts of the decoder, which have equal lengths. cached: keep keys and values. pad: token id of padding."""
        self.model, self.cached = model, cached
        # the cache that models make by themselves has as many layers as the encoder, even where the decoder has more
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if cached else None
        self.encoded = Encoded(model, sources, pad)
        self.ids = torch.tensor([list(p) for p in prompts], device=self.encoded.mask.device)

    def logits(self) -> Tensor:
        """The logits of the next token of each row, (rows, classes)."""
        kept = {"past_key_values": self.cache} if self.cached else {}
        logits: Tensor = self.model(**self.encoded.inputs(), decoder_input_ids=self.ids, use_cache=self.cached, **kept).logits
        return logits[:, -1]

    def append(self, tokens: Tensor) -> None:
        """Add a token, (rows,), to each row."""
        self.ids = tokens[:, None] if self.cached else torch.cat([self.ids, tokens[:, None]], 1)

    def keep(self, rows: Tensor) -> None:
        """Keep the rows at these indices alone; an index may repeat."""
        if self.cache is not None:
            self.cache.reorder_cache(rows)
        self.ids = self.ids[rows]
        self.encoded.keep(rows)


@brief("sources", "prompts")
@dataclass(frozen=True)
class Sources:
    """What the encoder reads, and the beginnings of the decoder's sequences."""

    model: nn.Module
    sources: Sequence[Sequence[int]]
    prompts: Sequence[Sequence[int]]
    pad: int

    def __len__(self) -> int:
        return len(self.sources)

    @cached_property
    def _mode(self) -> DecodingMode:
        return _mode_of(members_of(self.model)[0], self.sources[0], self.prompts[0], self.pad) if len(self) else MODES[0]

    @property
    def dropped(self) -> bool:
        """Whether finished rows leave a batch."""
        return self._mode.dropped

    def begins_with(self, row: int) -> Hashable:
        """What the answer begins from."""
        return tuple(self.sources[row]), tuple(self.prompts[row])

    def batches(self, size: int) -> Iterator[list[int]]:
        """Indices of rows whose decoders begin with equally many tokens, of similar sources (of equally long ones if padding disturbs)."""
        mode, lengths = self._mode, [(len(p), len(s)) for p, s in zip(self.prompts, self.sources, strict=True)]
        order = sorted(range(len(self)), key=lambda i: lengths[i], reverse=True)
        for _, group in groupby(order, key=lambda i: (lengths[i][0], 0 if mode.padded else lengths[i][1])):
            rows = list(group)
            yield from (rows[at : at + size] for at in range(0, len(rows), size))

    def begin(self, rows: Sequence[int]) -> Any:
        """Rows of tokens that begin with the prompts of these rows."""
        sources, prompts = ([side[i] for i in rows] for side in (self.sources, self.prompts))
        cached = self._mode.cached
        return together([GrowingAnswers(member, sources, prompts, self.pad, cached) for member in members_of(self.model)])

    def after(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> Sources:
        """These rows, each with tokens of its answer."""
        prompts = [[*self.prompts[i], *new] for i, new in zip(rows, tokens, strict=True)]
        return Sources(self.model, [self.sources[i] for i in rows], prompts, self.pad)


def _mode_of(model: nn.Module, source: Sequence[int], prompt: Sequence[int], pad: int) -> DecodingMode:
    """The fastest mode in which a model's answers may grow. It is tried once for each model, on a row."""
    base = base_of(model)
    if base not in _modes:
        whole = sized(source)
        pads = padded(model, whole, [*prompt, *whole], pad)
        with evaluating(model), torch.no_grad():
            fastest = next((m for m in MODES if _equals_plain(model, whole, prompt, pad, m, pads)), MODES[-1])
        _modes[base] = DecodingMode(pads, fastest.cached, fastest.dropped)
    return _modes[base]


def _equals_plain(model: nn.Module, source: list[int], prompt: Sequence[int], pad: int, mode: DecodingMode, pads: bool) -> bool:
    """Whether two rows that grow in this mode, one of which is dropped half-way, get the logits of plain forward passes."""
    sources, forced = [source, source[len(source) // 2 :] if pads else source[::-1]], source[:FORCED]
    device, pairs = next(model.parameters()).device, list[tuple[Any, Any]]()
    try:
        growing = GrowingAnswers(model, sources, [prompt, prompt], pad, mode.cached)
        decoder_ids = torch.tensor([[*prompt, *forced]], device=device)
        inputs = [{"input_ids": torch.tensor([s], device=device), "decoder_input_ids": decoder_ids, "use_cache": False} for s in sources]
        plain = [model(**i).logits[0, len(prompt) - 1 :] for i in inputs]
        for step, token in enumerate(forced):
            pairs += zip(growing.logits(), (rows[step] for rows in plain), strict=True)
            growing.append(torch.tensor([token] * len(plain), device=device))
            if mode.dropped and step == len(forced) // 2:
                growing.keep(torch.tensor([1], device=device))
                plain = plain[1:]
    except torch.OutOfMemoryError:
        raise
    except Exception:  # models raise errors of any kind
        return False
    return all(equal(*pair) for pair in pairs)
