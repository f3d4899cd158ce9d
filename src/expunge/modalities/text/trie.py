"""Pack sequences so that shared beginnings occur once: the answers to one question form a tree (trie) of tokens in one row.

A row holds the prompt and then the tokens of the tree, branch by branch, each token before its successors. A place attends to its own
ancestors only, and its position is its depth. A causal language model therefore predicts each label as it does in a row of its own.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge.functional.brief import brief

Ints = NDArray[np.int64]
Pair = tuple[Sequence[int], Sequence[int]]  # token ids of a prompt and of its answer

LARGEST = 1024  # most places of a row, unless one sequence is longer; the mask grows with the square
KEPT = 4  # packings in the cache, for the next model that reads the same sequences


@brief("ids", "label")
@dataclass(frozen=True, eq=False)
class Batch:
    """Packed rows of similar length, padded on the right."""

    ids: Tensor  # (rows, width) token ids
    position: Tensor  # (rows, width) position ids
    last: Tensor  # (rows, width) the last place that attends to this one
    real: Tensor  # (rows, width) whether the place is no padding
    at: Tensor  # (predictions,) the flattened places that predict a label
    by: Tensor  # (labels,) the index in `at` of the place that predicts the label, ascending
    label: Tensor  # (labels,) token ids

    def to(self, device: torch.device) -> Batch:
        return Batch(*(t.to(device, non_blocking=True) for t in vars(self).values()))

    def mask(self, dtype: torch.dtype) -> Tensor:
        """The additive attention mask, (rows, 1, query, key): 0 if the query attends to the key, else the smallest number of `dtype`."""
        place = torch.arange(self.ids.shape[1], device=self.ids.device)
        attends = (place <= place[:, None]) & (self.last[:, None, :] >= place[:, None])
        return torch.zeros(attends.shape, dtype=dtype, device=attends.device).masked_fill_(~attends, torch.finfo(dtype).min)[:, None]


@brief("batches", "labels", "predictions", "places", "tokens")
@dataclass(frozen=True, eq=False)
class Packing:
    """All batches, and the labels of each sequence as indices into the concatenated labels of the batches."""

    batches: tuple[Batch, ...]
    labels: tuple[Ints, ...]  # for each sequence, (labels of its answer,)
    by: Ints  # (labels,) the index of the prediction of each label
    predictions: int
    places: int  # in all rows, without padding
    tokens: int  # in all sequences


@dataclass
class _Row:
    """A row under construction."""

    ids: list[int]
    position: list[int]
    parent: list[int]
    last: list[int]
    prompt: int
    paths: dict[int, list[int]] = field(default_factory=dict)  # the places of the labels of each sequence


_cache: OrderedDict[bytes, Packing] = OrderedDict()


def pack(pairs: Sequence[Pair], share: bool, budget: int, pad: int) -> Packing:
    """Pack sequences into batches. A small cache keeps the latest packings.

    Args:
        share: answers to equal prompts share a row; otherwise each sequence has its own row, as in a plain forward pass.
        budget: most places of a batch, padding included. A batch holds at least one row.
        pad: token id of padding.
    """
    key = _key(pairs, share, budget, pad)
    if key not in _cache:
        _cache[key] = _pack(pairs, share, budget, pad)
        while len(_cache) > KEPT:
            _cache.popitem(last=False)
    _cache.move_to_end(key)
    return _cache[key]


def _key(pairs: Sequence[Pair], *options: int) -> bytes:
    flat = np.fromiter(chain.from_iterable(x for pair in pairs for x in pair), np.int64)
    lengths = np.fromiter((len(x) for pair in pairs for x in pair), np.int64)
    return hashlib.blake2b(flat.tobytes() + b"|" + lengths.tobytes() + repr(options).encode()).digest()


def pack_rows(pairs: Sequence[Pair], batches: Iterable[Sequence[int]], pad: int) -> Packing:
    """Pack each sequence as a row of its own, in given batches.

    Args:
        pairs: token ids of prompts and answers.
        batches: indices of the pairs of each batch.
        pad: token id of padding.
    """
    return _packing(pairs, ([row for i in places for row in _rows(pairs, [i], LARGEST)] for places in batches), pad)


def _pack(pairs: Sequence[Pair], share: bool, budget: int, pad: int) -> Packing:
    groups: dict[object, list[int]] = {}
    for i, (prompt, _) in enumerate(pairs):
        groups.setdefault(tuple(prompt) if share else i, []).append(i)
    rows = sorted((row for group in groups.values() for row in _rows(pairs, group, min(LARGEST, budget))), key=lambda r: -len(r.ids))
    return _packing(pairs, _within(rows, budget), pad)


def _within(rows: Sequence[_Row], budget: int) -> Iterator[Sequence[_Row]]:
    """Batches of rows, sorted by falling length, that stay within a budget of places."""
    at = 0
    while at < len(rows):
        size = max(1, budget // len(rows[at].ids))
        yield rows[at : at + size]
        at += size


def _packing(pairs: Sequence[Pair], rows_by_batch: Iterable[Sequence[_Row]], pad: int) -> Packing:
    labels: list[Ints] = [np.zeros(0, np.int64)] * len(pairs)
    batches, by = list[Batch](), [np.zeros(0, np.int64)]
    label_count = predictions = places = 0
    for batch_rows in rows_by_batch:
        batch, label_indices = _batch(batch_rows, pad)
        for row, indices in zip(batch_rows, label_indices, strict=True):
            for i, path in row.paths.items():
                labels[i] = indices[path] + label_count
        batches.append(batch)
        by.append(batch.by.numpy() + predictions)
        label_count, predictions = label_count + len(batch.label), predictions + len(batch.at)
        places += sum(len(r.ids) for r in batch_rows)
    tokens = sum(len(p) + len(a) for p, a in pairs)
    return Packing(tuple(batches), tuple(labels), np.concatenate(by), predictions, places, tokens)


def _rows(pairs: Sequence[Pair], group: Sequence[int], largest: int) -> Iterator[_Row]:
    """Build the tree of answers to one prompt; another row follows one of `largest` places. Sorting joins common starts."""
    prompt = list(pairs[group[0]][0])
    row, previous, path = _prompt_row(prompt), list[int](), list[int]()
    for i in sorted(group, key=lambda i: list(pairs[i][1])):
        answer = list(pairs[i][1])
        shared = next((k for k, (a, b) in enumerate(zip(answer, previous, strict=False)) if a != b), min(len(answer), len(previous)))
        if row.paths and len(row.ids) + len(answer) - shared > largest:
            yield row
            row, shared, path = _prompt_row(prompt), 0, []
        first, new = len(row.ids), len(answer) - shared
        places = list(range(first, first + new))
        row.ids += answer[shared:]
        row.position += range(len(prompt) + shared, len(prompt) + len(answer))
        if new:
            row.parent += [path[shared - 1] if shared else len(prompt) - 1, *places[:-1]]
        row.last += [0] * new
        path = path[:shared] + places
        row.paths[i] = path
        for place in (*range(len(prompt)), *path):  # the new places attend to all places on their path
            row.last[place] = len(row.ids) - 1
        previous = answer
    yield row


def _prompt_row(prompt: list[int]) -> _Row:
    places = range(len(prompt))
    return _Row([*prompt], [*places], [k - 1 for k in places], [0] * len(prompt), len(prompt))


def _batch(rows: Sequence[_Row], pad: int) -> tuple[Batch, list[Ints]]:
    """Build a batch; also return, for each of its rows, the index among the labels of the batch of each place."""
    width = max(len(r.ids) for r in rows)

    def padded(values: Sequence[Sequence[int]], fill: int) -> Ints:
        out = np.full((len(values), width), fill, np.int64)
        for line, row_values in zip(out, values, strict=True):
            line[: len(row_values)] = row_values
        return out

    last = padded([r.last for r in rows], -1)
    last[:, 0] = width  # padding must attend to something, or its softmax is not finite
    lengths = np.array([[len(r.ids)] for r in rows])
    place = np.arange(width)[None]
    real = place < lengths
    is_label = real & (place >= np.array([[r.prompt] for r in rows]))
    row, column = is_label.nonzero()
    ids = padded([r.ids for r in rows], pad)
    at, by = np.unique(row * width + padded([r.parent for r in rows], 0)[row, column], return_inverse=True)
    order = np.argsort(by, kind="stable")
    label_index = np.zeros((len(rows), width), np.int64)
    label_index[row[order], column[order]] = np.arange(len(order))
    arrays = (ids, padded([r.position for r in rows], 0), last, real, at, by[order], ids[row, column][order])
    return Batch(*map(torch.from_numpy, arrays)), list(label_index)
