"""Log-probabilities and hits of given answers: in one pass over what they have in common where a modality can, else row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from expunge.core.capabilities import Generates, SharedReading, offers
from expunge.core.modality import Modality, ModelOutput
from expunge.core.rows import Rows
from expunge.evaluation.observation import Scored

BUDGET = 4096  # positions in one forward
IMAGES = 256  # rows in one forward of a classifier
VARIANCE = 1e-6  # smallest variance of a position's log-probability

Kinds = Mapping[str, tuple[Rows, list[int]]]  # rows by kind of answer, with the item that each belongs to
Members = Callable[[str, str], bool]  # set, kind -> whether moments are wanted
Told = Sequence[Mapping[str, Any]]  # of each row, what was seen of its labels: logp, hit and, where wanted, mean and std
Place = tuple[str, str]  # set, kind


def score_all(
    model: nn.Module,
    modality: Modality,
    rows: Mapping[str, Kinds],
    moments: Members,
    progress: Callable[[float], None],
    told: Mapping[Place, Told] = {},
) -> tuple[dict[str, dict[str, Scored]], Any]:
    """Answers of all sets and kinds, and the modality's own reading of them, where it has one. told: what need not be read any more."""
    seen, reading = dict(told), None
    places = [(name, kind) for name, kinds in rows.items() for kind in kinds if (name, kind) not in told]
    if offers(modality, SharedReading):
        reading = modality.read(model, [rows[n][k][0] for n, k in places], [moments(n, k) for n, k in places], progress)
        first = 0
        for name, kind in places:
            some = range(first, first + len(rows[name][kind][0]))
            seen[name, kind] = [reading.of(i, moments(name, kind)) for i in some]
            first = some.stop
    else:
        done, total = 0, sum(len(rows[n][k][0]) for n, k in places)
        for name, kind in places:
            some_rows = rows[name][kind][0]
            seen[name, kind] = score(model, modality, some_rows, moments(name, kind))
            done += len(some_rows)
            progress(done / total)
    return {n: {k: packed(modality, r, item, seen[n, k]) for k, (r, item) in kinds.items()} for n, kinds in rows.items()}, reading


def packed(modality: Modality, rows: Rows, item: Sequence[int], parts: Told) -> Scored:
    """What was seen of rows, one behind the other."""
    lengths = [len(p["target_logp"]) for p in parts]
    names = parts[0] if parts else {}
    return Scored(
        item=np.array(item, dtype=np.int64),
        start=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ended=np.array(modality.ended(rows), dtype=bool),
        text=tuple(modality.answer_texts(rows)),
        **{n: np.concatenate([p[n] for p in parts]) for n in names},
    )


def batches(modality: Modality, rows: Rows, budget: int = BUDGET) -> Iterator[list[int]]:
    """Places of rows of similar length, so many that a padded batch stays within the budget."""
    lengths = [modality.counts(rows.select([i]))["tokens"] for i in range(len(rows))]
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    most = IMAGES if not offers(modality, Generates) else len(order)
    at = 0
    while at < len(order):
        size = max(1, min(most, int(budget / lengths[order[at]])))
        yield order[at : at + size]
        at += size


def score(
    model: nn.Module,
    modality: Modality,
    rows: Rows,
    moments: bool,
    hook_points: tuple[str, ...] = (),
    keep: Callable[[ModelOutput], None] = lambda answer: None,
) -> Told:
    """What a model says of rows. keep: what else to do with the answers of each forward, which see `hook points`."""
    parts = room(modality, rows, moments)
    for places in batches(modality, rows):
        answer = modality.forward(model, [rows.select(places)], hook_points)[0]
        keep(answer)
        read(answer, [parts[i] for i in places])
    return parts


def room(modality: Modality, rows: Rows, moments: bool) -> Told:
    """Empty arrays for what `read` tells of each row, to be made before the first forward: what stays of one batch, put between the large
    tensors of two, would keep their room from being reused.
    """
    edges = np.cumsum([0, *(int(modality.counts(rows.select([i]))["labels"]) for i in range(len(rows)))]).tolist()
    names = ("target_logp", "hit", "mean", "std") if moments else ("target_logp", "hit")
    whole = {n: np.empty(edges[-1], bool if n == "hit" else np.float32) for n in names}
    return [{n: x[a:b] for n, x in whole.items()} for a, b in pairwise(edges)]


@torch.no_grad()
def read(answer: ModelOutput, into: Told) -> None:
    """Fill in, of each row, log-probs, hits and, where there is room, mean and deviation of log p under the model's own distribution."""
    scores, logp = answer.logits.values, answer.target_logp
    best = scores.amax(-1)
    hit = scores.gather(-1, answer.labels[:, None])[:, 0] >= best
    if (tied := hit & ((scores == best[:, None]).sum(-1) > 1)).any():  # a model that says nothing says everything equally
        hit[tied] = scores[tied].argmax(-1) == answer.labels[tied]
    found = {"target_logp": logp.values.detach(), "hit": hit}
    if "mean" in into[0]:
        log = answer.log_probs.values
        p = log.exp()
        mean = (p * log).sum(-1)
        variance = (p * log.square()).sum(-1) - mean.square()
        found |= {"mean": mean, "std": variance.clamp_min(VARIANCE).sqrt()}
    lengths = logp.lengths.tolist()
    for name, values in found.items():
        for part, mine in zip(into, values.to("cpu", torch.bool if name == "hit" else torch.float32).split(lengths), strict=True):
            part[name][:] = mine.numpy()
