"""From the order of a tokenizer's merges to the mixture that it was trained on: a linear program over the counts of pairs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from expunge.functional.brief import brief

Pair = tuple[str, str]
Floats = NDArray[np.float64]
WORST, ENOUGH, SLACK = 10, 100, 1e-6  # competitors of a step, new constraints of a walk, and how far a pair may exceed a merge
SCALE = 1e3  # of the constraints, against the absolute tolerance of the solver


@brief("merges", "pairs")
@dataclass(frozen=True)
class Replay:
    """Counts of pairs in each category's sample as merges are applied one after the other.

    Args:
        pairs: all pairs that occur at any time.
        start: their counts before the first merge, (pairs, categories).
        merges: for each merge, the index of its pair; -1 where it occurs in no sample at any time.
        changes: for each merge, indices of pairs whose count it changes, and the changes, (indices, categories).
    """

    pairs: Sequence[Pair]
    start: Floats
    merges: Sequence[int]
    changes: Sequence[tuple[NDArray[np.int64], Floats]]

    @property
    def totals(self) -> Floats:
        """Number of pairs in each sample before any merge, (categories,)."""
        return np.asarray(self.start.sum(0))


@brief("shares", "objective", "constraints")
@dataclass(frozen=True)
class Mixture:
    """Shares of the categories in all pairs of the training text, (categories,), and what contradicts them: 0 where nothing does."""

    shares: Floats
    objective: float
    constraints: int


def replay(samples: Sequence[Mapping[str, int]], merges: Sequence[Pair]) -> Replay:
    """Apply merges to samples.

    Args:
        samples: for each category, how often each pre-token occurs in its sample.
        merges: the merges, in order.
    """
    together: dict[str, Floats] = defaultdict(lambda: np.zeros(len(samples)))
    for k, sample in enumerate(samples):
        for text, count in sample.items():
            together[text][k] += count
    words, weights = [list(w) for w in together], list(together.values())
    index: dict[Pair, int] = {}
    holders: dict[Pair, set[int]] = defaultdict(set)
    first: dict[int, Floats] = defaultdict(lambda: np.zeros(len(samples)))
    for i, word in enumerate(words):
        for pair, n in Counter(pairwise(word)).items():
            first[index.setdefault(pair, len(index))] += n * weights[i]
            holders[pair].add(i)
    changes = []
    for left, right in merges:
        change: dict[int, Floats] = defaultdict(lambda: np.zeros(len(samples)))
        for i in sorted(holders.pop((left, right), ())):
            old, words[i] = words[i], _joined(words[i], left, right)
            counts = Counter(pairwise(words[i]))
            counts.subtract(Counter(pairwise(old)))
            for pair, n in counts.items():
                if n:
                    change[index.setdefault(pair, len(index))] += n * weights[i]
                if n > 0:
                    holders[pair].add(i)
        changes.append((np.array(list(change), dtype=np.int64), np.array(list(change.values())).reshape(len(change), len(samples))))
    start = np.zeros((len(index), len(samples)))
    for at, counts_at in first.items():
        start[at] = counts_at
    return Replay(list(index), start, [index.get((a, b), -1) for a, b in merges], changes)


def _joined(word: list[str], left: str, right: str) -> list[str]:
    """A word with a pair merged, from the left."""
    tokens, at = list[str](), 0
    while at < len(word):
        both = at + 1 < len(word) and word[at] == left and word[at + 1] == right
        tokens.append(left + right if both else word[at])
        at += 1 + both
    return tokens


def infer(counts: Replay, rounds: int = 1000) -> Mixture:
    """The mixture under which each merge was the most frequent pair of its time, as nearly as possible.

    Minimizes sum_t v_t + sum_p w_p, where for each merge t and other pair p: sum_k alpha_k (c_k(merge) - c_k(p)) / N_k + v_t + w_p >= 0.
    Constraints are added as they are violated, until none is.

    Args:
        counts: pairs of samples of each category.
        rounds: solutions of the program, at most.
    """
    categories, totals = counts.start.shape[1], np.maximum(counts.totals, 1)
    alpha, v, w = np.full(categories, 1 / categories), np.zeros(len(counts.merges)), np.zeros(len(counts.pairs))
    rows: dict[tuple[int, int], Floats] = {}
    objective = 0.0
    for _ in range(rounds):
        new = _violated(counts, alpha / totals, v, w, rows)
        if not new:
            break
        rows |= {key: difference / totals for key, difference in new.items()}
        alpha, v, w, objective = _solved(rows, categories, len(v), len(w))
    return Mixture(alpha, objective, len(rows))


def _violated(
    counts: Replay, weights: Floats, v: Floats, w: Floats, rows: Mapping[tuple[int, int], Floats]
) -> dict[tuple[int, int], Floats]:
    """Constraints (merge, pair) that do not hold, with the difference of the counts, (categories,): the first ones in order."""
    now, scores, new = counts.start.copy(), counts.start @ weights - w, dict[tuple[int, int], Floats]()
    for t, (merge, (at, change)) in enumerate(zip(counts.merges, counts.changes, strict=True)):
        if merge >= 0:
            limit = scores[merge] + w[merge] + v[t] + SLACK
            exceeding = np.flatnonzero(scores > limit)
            for p in exceeding[np.argsort(-scores[exceeding], kind="stable")][:WORST].tolist():
                if p != merge and (t, p) not in rows:
                    new[t, p] = now[merge] - now[p]
            if len(new) >= ENOUGH:
                break
        now[at] += change
        scores[at] += change @ weights
    return new


def _solved(rows: Mapping[tuple[int, int], Floats], categories: int, merges: int, pairs: int) -> tuple[Floats, Floats, Floats, float]:
    """The solution of the program with some constraints: shares, excuses of merges, excuses of pairs, and their sum."""
    steps, others = (sorted({key[i] for key in rows}) for i in (0, 1))
    step_at, other_at = ({n: i for i, n in enumerate(names)} for names in (steps, others))
    width, data, row, column = categories + len(steps) + len(others), list[float](), list[int](), list[int]()
    for i, ((t, p), difference) in enumerate(rows.items()):
        data += [*(-SCALE * difference), -1.0, -1.0]
        row += [i] * (categories + 2)
        column += [*range(categories), categories + step_at[t], categories + len(steps) + other_at[p]]
    cost, total = np.ones(width), np.zeros((1, width))
    cost[:categories], total[0, :categories] = 0, 1
    matrix = coo_matrix((data, (row, column)), shape=(len(rows), width)).tocsr()
    solution = linprog(cost, A_ub=matrix, b_ub=np.zeros(len(rows)), A_eq=total, b_eq=[1.0], bounds=(0, None), method="highs")
    v, w = np.zeros(merges), np.zeros(pairs)
    v[steps], w[others] = solution.x[categories : categories + len(steps)] / SCALE, solution.x[categories + len(steps) :] / SCALE
    return np.asarray(solution.x[:categories]), v, w, float(solution.fun) / SCALE
