"""The two sides of an encoder-decoder: what its encoder makes of sources, and whether padding disturbs either side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from expunge.core.modality import Weights
from expunge.engine.adapters import base_of
from expunge.engine.run_state import evaluating
from expunge.modalities.common.packed import call
from expunge.modalities.text.decoding import equal, sized

_padded: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # what was found for a model, by trying


class Encoded:
    """Sources as the encoder of a model reads them, once for all answers to them."""

    def __init__(self, model: nn.Module, sources: Sequence[Sequence[int]], pad: int) -> None:
        """Run the encoder. pad: token id of padding, which stands on the right."""
        ids, self.mask = padding_right(sources, pad, next(model.parameters()).device)
        base: Any = base_of(model)
        self.states: Tensor = base.get_encoder()(input_ids=ids, attention_mask=self.mask)[0]  # (sources, positions, width)

    def inputs(self, rows: Tensor | None = None) -> dict[str, Any]:
        """The inputs of the model that stand for these sources; rows: their indices, (rows,); default: all."""
        from transformers.modeling_outputs import BaseModelOutput

        states, mask = (self.states, self.mask) if rows is None else (self.states[rows], self.mask[rows])
        return {"encoder_outputs": BaseModelOutput(last_hidden_state=states), "attention_mask": mask}

    def keep(self, rows: Tensor) -> None:
        """Drop all sources but those at these indices."""
        self.states, self.mask = self.states[rows], self.mask[rows]


def padding_right(sequences: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both (sequences, width)."""
    width = max(map(len, sequences))
    ids = torch.tensor([[*s, *[pad] * (width - len(s))] for s in sequences], device=device)
    mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences], device=device)
    return ids, mask


def padded(model: nn.Module, source: Sequence[int], sequence: Sequence[int], pad: int) -> bool:
    """Whether a model's predictions are the same in padded rows. It is tried once for each model, on token ids of both sides."""
    base = base_of(model)
    if base not in _padded:
        long, device = (sized(source), sized(sequence)), next(model.parameters()).device
        short = tuple(side[: len(side) // 2] for side in long)
        ids, mask = padding_right([long[0], short[0]], pad, device)
        decoder_ids, decoder_mask = padding_right([long[1], short[1]], pad, device)
        inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder_ids, "decoder_attention_mask": decoder_mask}
        with evaluating(model), torch.no_grad():
            both, alone = model(**inputs, use_cache=False).logits, unpadded(model, None, inputs)
        real = decoder_mask.bool()
        _padded[base] = all(equal(b[r].flatten(), a[r].flatten()) for b, a, r in zip(both, alone, real, strict=True))
    return _padded[base]


def unpadded(model: nn.Module, weights: Weights | None, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits of all rows, (rows, width, classes), each from a forward pass of its own without padding."""
    lengths = inputs["attention_mask"].sum(1).tolist(), inputs["decoder_attention_mask"].sum(1).tolist()
    logits = []
    for i, (n, m) in enumerate(zip(*lengths, strict=True)):
        row = {"input_ids": inputs["input_ids"][i : i + 1, :n], "decoder_input_ids": inputs["decoder_input_ids"][i : i + 1, :m]}
        logits.append(call(model, weights, **row, use_cache=False).logits[0])
    return nn.utils.rnn.pad_sequence(logits, batch_first=True)
