"""Sequences that begin alike, packed so that what they share is there once: the answers to one question as a tree of tokens in one row.

A row holds the prompt and then the tokens of the tree, each before those that follow it, branch by branch. A place sees its own ancestors
alone, and its position is its depth, so that a causal language model says of each label what it says of it in a row of its own.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Pair = tuple[Sequence[int], Sequence[int]]  # token ids of a prompt and of its answer

LARGEST = 1024  # places of a row, unless one sequence alone is longer: a mask grows with the square
KEPT = 4  # packings that are remembered, for the next model that is asked the same


@dataclass(frozen=True, eq=False)
class Batch:
    """Some packed rows of about the same length, padded on the right."""

    ids: Tensor  # (rows, width)
    position: Tensor  # (rows, width)
    last: Tensor  # (rows, width) the last place that sees this one
    real: Tensor  # (rows, width)
    at: Tensor  # (predictions,) the flattened places that predict something
    by: Tensor  # (labels,) which of these predicts the label, ascending
    label: Tensor  # (labels,)

    def to(self, device: torch.device) -> Batch:
        return Batch(*(t.to(device, non_blocking=True) for t in vars(self).values()))

    def mask(self, dtype: torch.dtype) -> Tensor:
        """What is added to the scores of attention, (rows, 1, width, width): 0 where a place (third) sees another (fourth)."""
        place = torch.arange(self.ids.shape[1], device=self.ids.device)
        sees = (place <= place[:, None]) & (self.last[:, None, :] >= place[:, None])
        return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, torch.finfo(dtype).min)[:, None]


@dataclass(frozen=True, eq=False)
class Packing:
    """All batches, and where in their labels, taken one behind the other, those of each sequence are."""

    batches: tuple[Batch, ...]
    labels: tuple[Ints, ...]  # by sequence, (labels of its answer,)
    by: Ints  # (labels,) which prediction each label is one of
    predictions: int
    places: int  # of all rows, without padding
    tokens: int  # of all sequences


@dataclass
class _Row:
    """A row in the making."""

    ids: list[int]
    position: list[int]
    parent: list[int]
    last: list[int]
    prompt: int
    paths: dict[int, list[int]] = field(default_factory=dict)  # of each sequence, the places of its labels


_known: OrderedDict[bytes, Packing] = OrderedDict()


def pack(pairs: Sequence[Pair], share: bool, budget: int, pad: int) -> Packing:
    """Pack sequences into batches of so many places, padding included, or of one row.

    share: whether answers to equal prompts share a row; else each sequence has its own, as in a plain forward.
    """
    key = _key(pairs, share, budget, pad)
    if key not in _known:
        _known[key] = _pack(pairs, share, budget, pad)
        while len(_known) > KEPT:
            _known.popitem(last=False)
    _known.move_to_end(key)
    return _known[key]


def _key(pairs: Sequence[Pair], *how: int) -> bytes:
    flat = np.fromiter(chain.from_iterable(x for pair in pairs for x in pair), np.int64)
    lengths = np.fromiter((len(x) for pair in pairs for x in pair), np.int64)
    return hashlib.blake2b(flat.tobytes() + b"|" + lengths.tobytes() + repr(how).encode()).digest()


def _pack(pairs: Sequence[Pair], share: bool, budget: int, pad: int) -> Packing:
    groups: dict[object, list[int]] = {}
    for i, (prompt, _) in enumerate(pairs):
        groups.setdefault(tuple(prompt) if share else i, []).append(i)
    rows = sorted((row for group in groups.values() for row in _rows(pairs, group)), key=lambda r: -len(r.ids))
    labels: list[Ints] = [np.zeros(0, np.int64)] * len(pairs)
    batches, by = list[Batch](), [np.zeros(0, np.int64)]
    seen = predictions = at = 0
    while at < len(rows):
        some = rows[at : at + max(1, budget // len(rows[at].ids))]
        at += len(some)
        batch, edge = _batch(some, pad)
        for row, edges in zip(some, edge, strict=True):
            for i, path in row.paths.items():
                labels[i] = edges[path] + seen
        batches.append(batch)
        by.append(batch.by.numpy() + predictions)
        seen, predictions = seen + len(batch.label), predictions + len(batch.at)
    tokens = sum(len(p) + len(a) for p, a in pairs)
    return Packing(tuple(batches), tuple(labels), np.concatenate(by), predictions, sum(len(r.ids) for r in rows), tokens)


def _rows(pairs: Sequence[Pair], group: Sequence[int]) -> Iterator[_Row]:
    """The tree of answers to one prompt; in another row once this one is full. Sorted, answers with a common start are neighbours."""
    prompt = list(pairs[group[0]][0])
    row, before, path = _begun(prompt), list[int](), list[int]()
    for i in sorted(group, key=lambda i: list(pairs[i][1])):
        answer = list(pairs[i][1])
        same = next((k for k, (a, b) in enumerate(zip(answer, before, strict=False)) if a != b), min(len(answer), len(before)))
        if row.paths and len(row.ids) + len(answer) - same > LARGEST:
            yield row
            row, same, path = _begun(prompt), 0, []
        first, new = len(row.ids), len(answer) - same
        places = list(range(first, first + new))
        row.ids += answer[same:]
        row.position += range(len(prompt) + same, len(prompt) + len(answer))
        if new:
            row.parent += [path[same - 1] if same else len(prompt) - 1, *places[:-1]]
        row.last += [0] * new
        path = path[:same] + places
        row.paths[i] = path
        for place in (*range(len(prompt)), *path):  # whoever comes after them and leaves them on its path moves this on
            row.last[place] = len(row.ids) - 1
        before = answer
    yield row


def _begun(prompt: list[int]) -> _Row:
    places = range(len(prompt))
    return _Row([*prompt], [*places], [k - 1 for k in places], [0] * len(prompt), len(prompt))


def _batch(rows: Sequence[_Row], pad: int) -> tuple[Batch, list[Ints]]:
    """A batch, and for each of its rows the label (of the batch) that each place is."""
    width = max(len(r.ids) for r in rows)

    def padded(values: Sequence[Sequence[int]], fill: int) -> Ints:
        out = np.full((len(values), width), fill, np.int64)
        for line, mine in zip(out, values, strict=True):
            line[: len(mine)] = mine
        return out

    last = padded([r.last for r in rows], -1)
    last[:, 0] = width  # padding must see something
    lengths = np.array([[len(r.ids)] for r in rows])
    place = np.arange(width)[None]
    real = place < lengths
    is_label = real & (place >= np.array([[r.prompt] for r in rows]))
    row, column = is_label.nonzero()
    ids = padded([r.ids for r in rows], pad)
    at, by = np.unique(row * width + padded([r.parent for r in rows], 0)[row, column], return_inverse=True)
    order = np.argsort(by, kind="stable")
    edge = np.zeros((len(rows), width), np.int64)
    edge[row[order], column[order]] = np.arange(len(order))
    given = (ids, padded([r.position for r in rows], 0), last, real, at, by[order], ids[row, column][order])
    return Batch(*map(torch.from_numpy, given)), list(edge)
