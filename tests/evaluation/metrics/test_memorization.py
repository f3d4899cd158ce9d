"""Memorization scores: patterns worked out by hand, and greedy decoding as the oracle of extraction strength."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from expunge.evaluation.measure import Evidence, Missing
from expunge.evaluation.metrics import memorization
from expunge.evaluation.observation import Observation, Scored, SetObservation
from expunge.functional.memorization import (
    exact_memorization,
    extraction_likelihood,
    extraction_strength,
    memorization_accuracy,
    remnant_memorization_accuracy,
)


def forget(hits, ended, target_logp=-1.0) -> Evidence:
    """A forget set of answers with the given hits, whose labels have the given log-probability."""
    flat = np.concatenate([np.asarray(row, bool) for row in hits])
    scored = Scored(
        np.arange(len(hits)), np.cumsum([0, *map(len, hits)]), np.full(len(flat), target_logp, np.float32), flat, np.asarray(ended)
    )
    ids = tuple(map(str, range(len(hits))))
    return Evidence(Observation({"forget": SetObservation(ids, ids, ids, {"answer": scored})}))


@pytest.mark.parametrize(
    ("hits", "exact", "strength", "compatible"),
    [
        ((1, 0, 1, 1), 0.75, 0.5, 0.5),
        ((1, 1, 1, 1), 1, 1, 1),
        ((1, 1, 1, 0), 0.75, 0, 0.25),
        ((0, 0, 0, 0), 0, 0, 0.25),
        ((0, 1), 0.5, 0.5, 0.5),
    ],
)
def test_hits_by_hand(hits, exact, strength, compatible):
    assert exact_memorization(np.array(hits, bool)) == exact
    assert extraction_strength(np.array(hits, bool)) == strength
    assert extraction_strength(np.array(hits, bool), ou_compat=True) == compatible


def test_strength_equals_greedy_decoding():
    rng = np.random.default_rng(0)
    for _ in range(200):
        choice = {}

        def argmax(prefix, choice=choice):
            return choice.setdefault(prefix, int(rng.integers(2)))

        answer = tuple(rng.integers(2, size=6).tolist())
        hits = np.array([argmax(answer[:t]) == answer[t] for t in range(len(answer))])

        def decoded(start, answer=answer, argmax=argmax):
            tokens = answer[:start]
            while len(tokens) < len(answer):
                tokens += (argmax(tokens),)
            return tokens

        shortest = next(k for k in range(len(answer) + 1) if decoded(k) == answer)
        assert extraction_strength(hits) == pytest.approx(1 - shortest / len(answer))


def test_only_an_end_of_sequence_label_is_left_out():
    got = memorization.scores(forget([(1, 0, 1, 1, 0), (1, 1, 1, 0)], ended=[True, False]))
    assert got["exact_memorization"].items[0] == pytest.approx([0.75, 0.75])
    assert got["extraction_strength"].items[0] == pytest.approx([0.5, 0.0])
    missed = forget([(1, 1, 1, 0)], [False])
    assert memorization.scores(replace(missed, variants={"extraction_strength": "open-unlearning"}))["extraction_strength"].value() == 0.25


def test_answers_of_nothing_but_the_end_do_not_count():
    got = memorization.scores(forget([(1,), (1, 1), ()], ended=[True, False, False]))
    assert (got["extraction_strength"].n, got["extraction_strength"].value()) == (1, 1)
    assert isinstance(memorization.scores(forget([(1,)], [True]))["exact_memorization"], Missing)


def test_remnants_by_hand():
    assert remnant_memorization_accuracy(np.log([0.6] * 4)) == pytest.approx(0.6)  # where 0.6 is everywhere the argmax, MA is 1
    assert remnant_memorization_accuracy(np.log([0.9, 0.5, 0.1])) == pytest.approx(0.5)  # not exp of the mean, which is 0.36
    assert remnant_memorization_accuracy(np.zeros(3)) == 1
    uniform = torch.zeros(5, 7).log_softmax(-1)[:, 0].numpy()
    assert remnant_memorization_accuracy(uniform) == pytest.approx(1 / 7, rel=1e-6)
    p = np.random.default_rng(0).random(50)
    assert remnant_memorization_accuracy(np.log(p)) >= 0.5 * np.mean(p >= 0.5)


def test_remnants_of_answers():
    got = memorization.scores(forget([(0, 0, 0), (0, 0)], ended=[True, False], target_logp=np.log([0.2, 0.6, 0.9, 0.3, 0.1])))
    remnant = got["remnant_memorization_accuracy"]
    assert remnant.items[0] == pytest.approx([0.4, 0.2])  # the end of the first answer is left out
    spec = memorization.SCORES["remnant_memorization_accuracy"]
    assert (spec.direction, spec.ideal, spec.shows, remnant.n) == ("retrained", None, True, 2)
    assert got["exact_memorization"].value() == 0


def test_intervals_hold_the_values():
    rng = np.random.default_rng(0)
    for measure in memorization.scores(forget(rng.random((50, 8)) < 0.8, np.zeros(50, bool), -5 * rng.random(400))).values():
        low, high = measure.interval()
        assert low <= measure.value() <= high
        assert low < high


def test_memorization_accuracy_by_hand():
    assert memorization_accuracy([1, 2, 3, 4, 5], [2, 3, 9, 5]) == 0.75
    with pytest.raises(ValueError, match="one prediction fewer"):
        memorization_accuracy([1, 2], [1, 2])
    with pytest.raises(ValueError):
        memorization_accuracy([1], [])


def test_accuracy_is_exact_memorization_after_the_first_token():
    rng = np.random.default_rng(0)
    tokens, predicted = rng.integers(3, size=20), rng.integers(3, size=19)
    assert memorization_accuracy(tokens.tolist(), predicted.tolist()) == exact_memorization(tokens[1:] == predicted)


def test_extraction_likelihood_by_hand():
    x = [1, 2, 3, 4, 5]
    assert extraction_likelihood(x, [x[t:] for t in (1, 2, 3)], n=2) == 1
    assert extraction_likelihood(x, [[9] * (5 - t) for t in (1, 2, 3)], n=2) == 0
    assert extraction_likelihood(x, [[*x[t:-1], 9] for t in (1, 2, 3)], n=2) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_extraction_likelihood_from_a_later_start():
    x = [1, 2, 3, 4, 5]
    assert extraction_likelihood(x, [x, x[1:], [9]], n=3, start=0) == pytest.approx((1 + 1 + 0) / 3)
    assert extraction_likelihood(x, [[3, 9, 5]], n=2, start=3) == 0  # the rest is 4, 5
    assert extraction_likelihood(list(range(200)), [list(range(t, 200)) for t in range(150, 191)], n=10, start=150) == 1
    assert extraction_likelihood([1, 2, 3, 4], [[1, 2, 9, 3, 4], [], []], n=2, start=0) == pytest.approx((2 / 3 + 0 + 0) / 3)
    with pytest.raises(ValueError, match="at least 8 tokens"):
        extraction_likelihood(x, [], n=3, start=5)


def test_extraction_likelihood_counts_repeats_and_early_ends():
    assert extraction_likelihood([1, 2, 1, 2], [[1, 2, 1], [1, 2]], n=2) == pytest.approx((2 / 2 + 1) / 2)
    assert extraction_likelihood([1, 2, 3, 4, 5], [[2, 3], [], []], n=2) == pytest.approx((1 / 3) / 3)
    with pytest.raises(ValueError, match="at least 6 tokens"):
        extraction_likelihood([1, 2, 3, 4, 5], [], n=5)
    with pytest.raises(ValueError, match="there are 1"):
        extraction_likelihood([1, 2, 3, 4, 5], [[2]], n=2)


def test_what_is_missing_is_said():
    got = memorization.scores(Evidence(Observation({})))
    assert set(got) == set(memorization.SCORES) == set(memorization.__doc__.split("Scores: ")[1].splitlines()[0].split(", "))
    assert all(str(lack) == "the audit has no forget set" for lack in got.values())
