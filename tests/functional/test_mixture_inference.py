"""Counts of pairs by hand, and mixtures that merges were made from, which the program must give back."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from expunge.functional.mixture_inference import infer, replay

TRUE = (0.6, 0.3, 0.1)


def test_counts_by_hand() -> None:
    """aaab holds aa twice and ab once; after the merge of aa it is aa a b."""
    counts = replay([{"aaab": 2}, {"ab": 3}], [("a", "a"), ("x", "y"), ("a", "b")])
    at = {pair: i for i, pair in enumerate(counts.pairs)}
    assert counts.start[at["a", "a"]].tolist() == [4, 0]
    assert counts.start[at["a", "b"]].tolist() == [2, 3]
    assert counts.totals.tolist() == [6, 3]
    assert counts.merges == [at["a", "a"], -1, at["a", "b"]]
    changed, change = counts.changes[0]
    assert {counts.pairs[i]: c.tolist() for i, c in zip(changed, change, strict=True)} == {("a", "a"): [-4, 0], ("aa", "a"): [2, 0]}
    last, change = counts.changes[2]
    assert {counts.pairs[i]: c.tolist() for i, c in zip(last, change, strict=True)} == {
        ("aa", "a"): [-2, 0],
        ("aa", "ab"): [2, 0],
        ("a", "b"): [-2, -3],
    }


def samples() -> list[Counter[str]]:
    """Words of three categories with different letters."""
    rng = random.Random(0)
    weights = [[rng.random() ** 2 for _ in range(8)] for _ in TRUE]
    return [Counter("".join(rng.choices("abcdefgh", w, k=rng.randint(2, 6))) for _ in range(500)) for w in weights]


def merges_of(words: list[Counter[str]], count: int) -> list[tuple[str, str]]:
    """Merges of a BPE on a mixture of categories, each weighed to its share of all pairs; by plain counting."""
    pairs = [sum(n * (len(w) - 1) for w, n in c.items()) for c in words]
    together = [(list(w), n * share / total) for c, share, total in zip(words, TRUE, pairs, strict=True) for w, n in c.items()]
    merges = []
    for _ in range(count):
        counted: Counter[tuple[str, str]] = Counter()
        for word, weight in together:
            for pair in pairwise(word):
                counted[pair] += weight  # type: ignore[assignment]
        best = max(counted, key=lambda p: counted[p])
        merges.append(best)
        for word, _ in together:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def test_merges_give_the_mixture_back_and_shuffled_ones_do_not() -> None:
    words = samples()
    merges = merges_of(words, 60)
    mixture = infer(replay(words, merges))
    assert mixture.objective == pytest.approx(0, abs=1e-6)
    assert np.abs(mixture.shares - TRUE).max() < 0.02
    assert mixture.shares.sum() == pytest.approx(1)
    random.Random(1).shuffle(merges)
    shuffled = infer(replay(words, merges))
    assert shuffled.objective > 0.1
    assert np.abs(shuffled.shares - TRUE).max() > 0.1


def test_merges_that_no_sample_has_are_skipped() -> None:
    assert infer(replay([{"ab": 2}, {"cd": 1}], [("x", "y")])).constraints == 0
