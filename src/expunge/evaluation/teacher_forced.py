"""Log-probabilities and hits of given answers: in one pass over their common prefixes where a modality can, else row by row."""

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
LabelScores = Sequence[Mapping[str, Any]]  # arrays over the labels of each row: target_logp, hit and, where wanted, mean and std
SetKind = tuple[str, str]  # set, kind


def score_all(
    model: nn.Module,
    modality: Modality,
    rows: Mapping[str, Kinds],
    moments: Members,
    progress: Callable[[float], None],
    known: Mapping[SetKind, LabelScores] = {},
) -> tuple[dict[str, dict[str, Scored]], Any]:
    """Score the answers of all sets and kinds; also return the modality's own reading, where it has one. known: scores read earlier."""
    label_scores, reading = dict(known), None
    places = [(name, kind) for name, kinds in rows.items() for kind in kinds if (name, kind) not in known]
    if offers(modality, SharedReading):
        reading = modality.read(model, [rows[n][k][0] for n, k in places], [moments(n, k) for n, k in places], progress)
        first = 0
        for name, kind in places:
            indices = range(first, first + len(rows[name][kind][0]))
            label_scores[name, kind] = [reading.of(i, moments(name, kind)) for i in indices]
            first = indices.stop
    else:
        done, total = 0, sum(len(rows[n][k][0]) for n, k in places)
        for name, kind in places:
            set_rows = rows[name][kind][0]
            label_scores[name, kind] = score(model, modality, set_rows, moments(name, kind))
            done += len(set_rows)
            progress(done / total)
    return {n: {k: packed(modality, r, item, label_scores[n, k]) for k, (r, item) in kinds.items()} for n, kinds in rows.items()}, reading


def packed(modality: Modality, rows: Rows, item: Sequence[int], parts: LabelScores) -> Scored:
    """Label scores of rows, packed one behind the other."""
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
    """Indices of rows of similar length; a padded batch stays within the budget of positions."""
    lengths = [modality.counts(rows.select([i]))["tokens"] for i in range(len(rows))]
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    most = IMAGES if not offers(modality, Generates) else len(order)
    first = 0
    while first < len(order):
        size = max(1, min(most, int(budget / lengths[order[first]])))
        yield order[first : first + size]
        first += size


def score(
    model: nn.Module,
    modality: Modality,
    rows: Rows,
    moments: bool,
    hook_points: tuple[str, ...] = (),
    keep: Callable[[ModelOutput], None] = lambda output: None,
) -> LabelScores:
    """Label scores of rows. keep: a function that receives the output of each forward pass, recorded at `hook_points`."""
    parts = empty_label_scores(modality, rows, moments)
    for indices in batches(modality, rows):
        output = modality.forward(model, [rows.select(indices)], hook_points)[0]
        keep(output)
        fill_label_scores(output, [parts[i] for i in indices])
    return parts


def empty_label_scores(modality: Modality, rows: Rows, moments: bool) -> LabelScores:
    """Empty arrays that `fill_label_scores` fills for each row.

    The caller allocates them before the first forward pass: small results that stay between the large tensors of two batches would
    keep the memory of these from being reused.
    """
    edges = np.cumsum([0, *(int(modality.counts(rows.select([i]))["labels"]) for i in range(len(rows)))]).tolist()
    parts = ("target_logp", "hit", "mean", "std") if moments else ("target_logp", "hit")
    arrays = {n: np.empty(edges[-1], bool if n == "hit" else np.float32) for n in parts}
    return [{n: x[a:b] for n, x in arrays.items()} for a, b in pairwise(edges)]


@torch.no_grad()
def fill_label_scores(output: ModelOutput, parts: LabelScores) -> None:
    """Fill in the log-probabilities and hits of each row and, where the arrays exist, mean and deviation of log p under the model's own
    distribution.
    """
    logits, logp = output.logits.values, output.target_logp
    best = logits.amax(-1)
    hit = logits.gather(-1, output.labels[:, None])[:, 0] >= best
    if (tied := hit & ((logits == best[:, None]).sum(-1) > 1)).any():  # a model with equal logits gives every class the same rank
        hit[tied] = logits[tied].argmax(-1) == output.labels[tied]
    tensors = {"target_logp": logp.values.detach(), "hit": hit}
    if "mean" in parts[0]:
        log = output.log_probs.values
        p = log.exp().mul_(log)  # in place, since these are the largest tensors of a pass
        mean = p.sum(-1)
        variance = p.mul_(log).sum(-1) - mean.square()
        tensors |= {"mean": mean, "std": variance.clamp_min(VARIANCE).sqrt()}
    lengths = logp.lengths.tolist()
    for name, values in tensors.items():
        for part, row_values in zip(parts, values.to("cpu", torch.bool if name == "hit" else torch.float32).split(lengths), strict=True):
            part[name][:] = row_values.numpy()
