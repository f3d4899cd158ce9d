"""Score answers of an encoder-decoder teacher-forced. Each distinct prompt goes through the encoder once, for all answers to it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from expunge.modalities.text.reading import Inputs, Reading, difference_of, places_for, score, strange
from expunge.modalities.text.seq2seq_sides import Encoded, padded, padding_right
from expunge.modalities.text.trie import Batch, Pair, pack_rows

FEW = 3  # prompts on which a shared encoding is compared with a plain pass
Chunk = tuple[list[int], list[list[int]]]  # a row of each distinct source, and batches of rows that read these sources


def read(
    model: nn.Module,
    sources: Sequence[Sequence[int]],
    pairs: Sequence[Pair],
    moments: Sequence[bool],
    pad: int,
    progress: Callable[[float], None],
    asked: Sequence[Hashable] = (),
) -> Reading:
    """Score the labels of sequences.

    Args:
        sources: token ids that the encoder reads, for each sequence.
        pairs: token ids of the decoder's prompts and answers.
        moments: for each pair, whether to compute mean and deviation of the log-probabilities.
        pad: token id of padding.
        progress: is called with the share of the work that is done, from 0 to 1.
        asked: what the model is asked before each answer.
    """
    alone = bool(pairs) and not padded(model, sources[0], [*pairs[0][0], *pairs[0][1]], pad)
    budget = 1 if alone else places_for(model)
    obstacle = strange(model) or _unshareable(model, sources, pairs, pad, budget)
    how = f"each answer with its prompt: {obstacle}" if obstacle else "answers share the encoding of their prompts"
    return _scored(model, sources, pairs, moments, pad, budget, not obstacle, progress, how, asked)


def _unshareable(model: nn.Module, sources: Sequence[Sequence[int]], pairs: Sequence[Pair], pad: int, budget: int) -> str:
    """The reason why an encoding cannot be shared in this model; empty if it can. A few sequences are scored both ways."""
    longest = sorted(range(len(pairs)), key=lambda i: -len(sources[i]))[:FEW]
    few, few_sources = [pairs[i] for i in longest], [sources[i] for i in longest]
    if not few:
        return ""

    def scores(size: int, share: bool) -> Reading:
        return _scored(model, few_sources, few, [False] * len(few), pad, size, share)

    try:
        difference = difference_of(scores(budget, True), scores(budget, False), lambda: scores(1, False))
    except Exception as error:  # models raise errors of any kind
        return f"the model refuses to share ({type(error).__name__})"
    return f"log-probabilities would differ by {difference:.2g}" if difference else ""


def _scored(
    model: nn.Module,
    sources: Sequence[Sequence[int]],
    pairs: Sequence[Pair],
    moments: Sequence[bool],
    pad: int,
    budget: int,
    share: bool,
    progress: Callable[[float], None] = lambda share: None,
    how: str = "",
    asked: Sequence[Hashable] = (),
) -> Reading:
    chunks = list(_chunks(sources, pairs, budget))
    batches = [places for _, of_chunk in chunks for places in of_chunk]
    inputs = _shared(model, sources, chunks, pad) if share else _plain(model, sources, batches, pad)
    return score(model, pairs, pack_rows(pairs, batches, pad), moments, inputs, progress, how, asked)


def _chunks(sources: Sequence[Sequence[int]], pairs: Sequence[Pair], budget: int) -> Iterator[Chunk]:
    """Distinct sources of similar lengths, as many as the budget of places allows, with the batches of their answers."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, source in enumerate(sources):
        groups.setdefault(tuple(source), []).append(i)
    order, at = sorted(groups, key=lambda source: -len(source)), 0
    while at < len(order):
        chunk = order[at : at + max(1, budget // len(order[at]))]
        at += len(chunk)
        rows = sorted((i for source in chunk for i in groups[source]), key=lambda i: -_length(pairs[i]))
        yield [groups[source][0] for source in chunk], list(_batches(rows, pairs, len(chunk[0]), budget))


def _batches(rows: Sequence[int], pairs: Sequence[Pair], source: int, budget: int) -> Iterator[list[int]]:
    """Rows by falling length, within the budget. source: length of the longest source, over which each of them attends."""
    at = 0
    while at < len(rows):
        size = max(1, budget // max(source, _length(pairs[rows[at]])))
        yield list(rows[at : at + size])
        at += size


def _length(pair: Pair) -> int:
    return len(pair[0]) + len(pair[1])


def _shared(model: nn.Module, sources: Sequence[Sequence[int]], chunks: Sequence[Chunk], pad: int) -> Inputs:
    """The inputs for each batch; the sources of a chunk are encoded when its first batch is asked for."""
    of_batch = [(k, places) for k, (_, batches) in enumerate(chunks) for places in batches]
    current: dict[int, tuple[Encoded, dict[tuple[int, ...], int]]] = {}

    def inputs(number: int, batch: Batch) -> dict[str, Any]:
        chunk, places = of_batch[number]
        if chunk not in current:
            current.clear()  # frees the last chunk before the next one is computed
            distinct = [tuple(sources[i]) for i in chunks[chunk][0]]
            current[chunk] = Encoded(model, distinct, pad), {source: k for k, source in enumerate(distinct)}
        encoded, index = current[chunk]
        rows = torch.tensor([index[tuple(sources[i])] for i in places], device=batch.ids.device)
        return {**encoded.inputs(rows), **_decoder(batch)}

    return inputs


def _plain(model: nn.Module, sources: Sequence[Sequence[int]], batches: Sequence[Sequence[int]], pad: int) -> Inputs:
    """The inputs for each batch, with the source of each of its rows."""

    def inputs(number: int, batch: Batch) -> dict[str, Any]:
        ids, mask = padding_right([sources[i] for i in batches[number]], pad, batch.ids.device)
        return {"input_ids": ids, "attention_mask": mask, **_decoder(batch)}

    return inputs


def _decoder(batch: Batch) -> dict[str, Any]:
    return {"decoder_input_ids": batch.ids, "decoder_attention_mask": batch.real.long()}
