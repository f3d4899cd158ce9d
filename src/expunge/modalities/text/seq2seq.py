"""Encoder-decoders: the encoder reads the prompt of a row, and the decoder writes its answer after a fixed beginning."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from expunge.core.capabilities import OneSequence
from expunge.core.errors import UserError
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.rows import Packed, Rows
from expunge.engine.adapters import base_of
from expunge.engine.blocks import in_encoder
from expunge.functional.brief import brief
from expunge.modalities.common.packed import PackedOutput, call, cut, module_at, watching
from expunge.modalities.text.causal import ALONE, collate
from expunge.modalities.text.encode import FORMATS
from expunge.modalities.text.forward import packed_head
from expunge.modalities.text.reading import Reading
from expunge.modalities.text.seq2seq_encode import PLAIN, SourceEncoder, target_lead
from expunge.modalities.text.seq2seq_generate import Sources
from expunge.modalities.text.seq2seq_read import read
from expunge.modalities.text.seq2seq_sides import padded, unpadded


@brief("start", "source_limit")
@dataclass(frozen=True)
class EncoderDecoder:
    """How rows go through an encoder-decoder.

    The prompt of a row goes to the encoder, as its column `source`. Its columns `prompt` and `answer` are the decoder's sequence.
    """

    start: tuple[int, ...]  # token ids that the decoder reads before an answer
    source_limit: int = 0  # longest source in tokens; 0: no limit
    formats: tuple[str, ...] = (PLAIN, "question: {prompt}", *FORMATS[:1])
    lacks: frozenset[Any] = frozenset({OneSequence})

    def encoder(self, tokenizer: Any, prompt_format: str, limit: int, vocabulary: int) -> SourceEncoder:
        """What turns records into token ids."""
        return SourceEncoder(tokenizer, prompt_format, limit, vocabulary, start=self.start, source_limit=self.source_limit)

    def counts(self, rows: Rows) -> Mapping[str, float]:
        """Numbers of positions of both sides, and of both together as `tokens`."""
        encoder, decoder = (sum(len(ids) for c in side for ids in rows[c]) for side in (("source",), ("prompt", "answer")))
        return {"encoder_tokens": encoder, "decoder_tokens": decoder, "tokens": encoder + decoder}

    def about(self) -> dict[str, Any]:
        """What receipts say besides what they say of all language models."""
        return {"architecture": "encoder-decoder", "source_limit": self.source_limit, "decoder_start": list(self.start)}

    def asked(self, rows: Rows) -> list[Hashable]:
        """What the model is asked in each row: what both sides read before the answer."""
        return [(tuple(source), tuple(prompt)) for source, prompt in zip(rows["source"], rows["prompt"], strict=True)]

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        pad: int,
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """See `Text.forward`. A module of the encoder has states of the source, any other module those of the decoder's sequence."""
        device = next(model.parameters()).device
        pairs = [r for g in groups for r in zip(g["prompt"], g["answer"], strict=True)]
        sources = [(source, ()) for g in groups for source in g["source"]]
        decoder_ids, decoder_mask, layout = collate(pairs, pad, device)
        ids, mask, source_layout = collate(sources, pad, device)
        inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder_ids, "decoder_attention_mask": decoder_mask}
        if pairs and not padded(model, sources[0][0], [*pairs[0][0], *pairs[0][1]], pad):
            if hook_points or patch:
                raise UserError(ALONE)
            logits = unpadded(model, weights, inputs).flatten(0, 1)[layout.label_at]
            return list(cut(logits, layout, {}, groups))
        with watching(model, hook_points, patch) as hooked, packed_head(model, layout.label_at, hook_points) as packed:
            logits = call(model, weights, **inputs, use_cache=False).logits
        logits = logits[0] if packed.used else logits.flatten(0, 1)[layout.label_at]
        of_source = {n: states for n, states in hooked.items() if in_encoder(model, module_at(base_of(model), n))}
        outputs = cut(logits, layout, {n: states for n, states in hooked.items() if n not in of_source}, groups)
        source_outputs = cut(logits[:0], _unlabeled(source_layout), of_source, groups)
        return [TwoSided(**vars(o), source=s) for o, s in zip(outputs, source_outputs, strict=True)]

    def read(self, model: nn.Module, rows: Rows, moments: Sequence[bool], pad: int, progress: Callable[[float], None]) -> Reading:
        """Score the labels of rows. moments: for each row, whether to compute mean and deviation of the log-probabilities."""
        pairs = list(zip(rows["prompt"], rows["answer"], strict=True))
        return read(model, rows["source"], pairs, moments, pad, progress, self.asked(rows))

    def beginnings(self, model: nn.Module, rows: Rows, pad: int) -> Sources:
        """What answers to rows begin from."""
        return Sources(model, rows["source"], rows["prompt"], pad)


def _unlabeled(layout: Any) -> Any:
    empty = layout.token_row[:0]
    return replace(layout, labels=layout.labels[:0], label_row=empty, label_at=layout.label_at[:0])


@brief("source")
@dataclass
class TwoSided(PackedOutput):
    """The output of an encoder-decoder. Its tokens are those of the decoder; modules of the encoder have other ones."""

    source: PackedOutput = field(kw_only=True)

    def _hooked(self, hook_point: str, side: int, answers: bool) -> Packed:
        if hook_point not in self.source.hooked:
            return replace(super()._hooked(hook_point, side, answers), kind="labels" if answers else "decoder_tokens")
        if answers:
            raise UserError(
                f"{hook_point!r} is a module of the encoder, which reads prompts and no answers: name a block of the decoder (the blocks "
                f"after those of the encoder), or take all positions"
            )
        return replace(self.source.input(hook_point) if side == 0 else self.source.hidden(hook_point), kind="encoder_tokens")


def decoder_start(model: nn.Module, tokenizer: Any) -> tuple[int, ...]:
    """The token ids that the decoder reads before an answer: its start, and what the tokenizer or the model puts before every answer.

    Raises:
        UserError: when the model does not say what its decoder starts with.
    """
    base: Any = base_of(model)

    def configured(name: str) -> Any:
        values = (getattr(holder, name, None) for holder in (getattr(base, "generation_config", None), base.config))
        return next((v for v in values if v is not None), None)

    if (start := configured("decoder_start_token_id")) is None:
        raise UserError(
            f"this {type(base).__name__} does not say which token its decoder starts with: set decoder_start_token_id in config.json"
        )
    forced = configured("forced_bos_token_id")
    return (int(start), *([int(forced)] if forced is not None else target_lead(tokenizer)))


def side_limits(model: nn.Module, tokenizer: Any) -> tuple[int, int]:
    """The longest source and the longest sequence of the decoder, in tokens; 0: no limit."""
    config: Any = base_of(model).config
    both = getattr(config, "max_position_embeddings", 0) or 0
    configured = tokenizer.model_max_length if tokenizer.model_max_length < 10**6 else 0
    sides = (getattr(config, f"max_{side}_position_embeddings", 0) or both for side in ("encoder", "decoder"))
    encoder, decoder = (min((n for n in (side, configured) if n), default=0) for side in sides)
    return encoder, decoder
