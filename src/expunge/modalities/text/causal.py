"""Causal language models: a row is one sequence, in which the answer continues the prompt."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.rows import Rows
from expunge.functional.brief import brief
from expunge.modalities.common.packed import Layout, call, cut, watching
from expunge.modalities.text.decoding import PLAIN, DecodingMode, disturbed, mode_of, started
from expunge.modalities.text.encode import FORMATS, Encoder
from expunge.modalities.text.forward import packed_head, without_padding
from expunge.modalities.text.read import read
from expunge.modalities.text.reading import Reading


@brief("formats", "lacks")
@dataclass(frozen=True)
class Causal:
    """How rows go through a model that continues one sequence."""

    formats: tuple[str, ...] = FORMATS
    lacks: frozenset[Any] = frozenset()

    def encoder(self, tokenizer: Any, prompt_format: str, limit: int, vocabulary: int) -> Encoder:
        """What turns records into token ids."""
        return Encoder(tokenizer, prompt_format, limit, vocabulary)

    def counts(self, rows: Rows) -> Mapping[str, float]:
        """Numbers of positions besides those of prompts and answers."""
        return {}

    def about(self) -> dict[str, Any]:
        """What receipts say besides what they say of all language models."""
        return {}

    def asked(self, rows: Rows) -> list[Hashable]:
        """What the model is asked in each row."""
        return [tuple(prompt) for prompt in rows["prompt"]]

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        pad: int,
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """See `Text.forward`. pad: token id of padding."""
        pairs = [r for g in groups for r in zip(g["prompt"], g["answer"], strict=True)]
        ids, mask, layout = collate(pairs, pad, next(model.parameters()).device)
        if pairs and disturbed(model, self.words([*pairs[0][0], *pairs[0][1]]), pad):
            if hook_points or patch:
                raise UserError(ALONE)
            alone = zip((g.select([i]) for g in groups for i in range(len(g))), ids, mask.sum(1).tolist(), strict=True)
            beside = [self.beside(model, [row], row_ids[None, :n]) for row, row_ids, n in alone]
            logits = without_padding(model, weights, ids, mask, beside).flatten(0, 1)[layout.label_at]
            return list(cut(logits, layout, {}, groups))
        inputs = {"input_ids": ids, "attention_mask": mask, **self.beside(model, groups, ids)}
        late = not weights and not patch
        with watching(model, hook_points, patch) as hooked, packed_head(model, layout.label_at, hook_points, late) as packed:
            logits = call(model, weights, use_cache=False, **inputs).logits
        if packed.late:
            return list(cut(packed.late.states, layout, hooked, groups, packed.late, packed.late.at_once))
        logits = logits[0] if packed.used else logits.flatten(0, 1)[layout.label_at]
        return list(cut(logits, layout, hooked, groups))

    def words(self, ids: list[int]) -> list[int]:
        """The token ids that stand for text alone."""
        return ids

    def beside(self, model: nn.Module, groups: Sequence[Rows], ids: Tensor) -> dict[str, Any]:
        """Inputs of the model besides the token ids of rows, (rows, width): none."""
        return {}

    def read(self, model: nn.Module, rows: Rows, moments: Sequence[bool], pad: int, progress: Callable[[float], None]) -> Reading:
        """Score the labels of rows. moments: for each row, whether to compute mean and deviation of the log-probabilities."""
        return read(model, list(zip(rows["prompt"], rows["answer"], strict=True)), moments, pad, progress)

    def beginnings(self, model: nn.Module, rows: Rows, pad: int) -> Prompts:
        """What answers to rows begin from."""
        return Prompts(model, rows["prompt"], pad)


CAUSAL = Causal()  # it has no settings of its own
ALONE = "padding changes what this model predicts, so hidden states of several rows cannot be read at once"


def collate(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pad: int, device: torch.device) -> tuple[Tensor, Tensor, Layout]:
    """Pad prompts and answers on the right.

    Args:
        pad: token id of padding.

    Returns:
        Token ids (rows, width), mask (rows, width) and the layout of labels and tokens. The mask comes from the lengths, never from the
        ids, so a padding token within a text counts as text.
    """
    width = max(len(p) + len(a) for p, a in pairs)
    ids = torch.tensor([[*p, *a] + [pad] * (width - len(p) - len(a)) for p, a in pairs])
    prompt = torch.tensor([len(p) for p, _ in pairs])
    ends = torch.tensor([len(p) + len(a) for p, a in pairs])
    column = torch.arange(width)
    mask = column < ends[:, None]
    label = mask & (column >= prompt[:, None])
    row, at = label.nonzero(as_tuple=True)
    token_row, token_column = mask.nonzero(as_tuple=True)
    layout = Layout(ids[row, at], row, row * width + at - 1, token_row, token_row * width + token_column)
    return ids.to(device), mask.long().to(device), layout.to(device)


@brief("prompts")
@dataclass(frozen=True)
class Prompts:
    """Prompts that a causal model continues."""

    model: nn.Module
    prompts: Sequence[Sequence[int]]
    pad: int

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def _mode(self) -> DecodingMode:
        return mode_of(self.model, self.prompts, self.pad) if self.prompts else PLAIN

    @property
    def dropped(self) -> bool:
        """Whether finished rows leave a batch."""
        return self._mode.dropped

    def begins_with(self, row: int) -> Hashable:
        """What the answer begins from."""
        return tuple(self.prompts[row])

    def batches(self, size: int) -> Iterator[list[int]]:
        """Indices of prompts of similar lengths; of equal lengths, unless the mode pads them."""
        order, mode = sorted(range(len(self)), key=lambda i: -len(self.prompts[i])), self._mode
        for _, group in groupby(order, key=lambda i: 0 if mode.padded else len(self.prompts[i])):
            rows = list(group)
            yield from (rows[at : at + size] for at in range(0, len(rows), size))

    def begin(self, rows: Sequence[int]) -> Any:
        """Rows of tokens that begin with these prompts."""
        return started(self.model, [self.prompts[i] for i in rows], self.pad, self._mode)

    def after(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> Prompts:
        """These prompts, each with tokens of its answer."""
        return Prompts(self.model, [[*self.prompts[i], *new] for i, new in zip(rows, tokens, strict=True)], self.pad)
