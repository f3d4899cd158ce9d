"""KLoM by hand, its limits, and how large it is where nothing or much differs."""

import math

import numpy as np
import pytest

from expunge.evaluation.metrics.klom import BINS, by_group, floor, klom, summary


def normal(shift: float, models: int = 100, points: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (models, points))


def test_by_hand() -> None:
    """Margins at 0, 0, 1, 1 against 0, 0, 0, 1: the first bin and the last."""
    u, o = np.array([[0.0], [0], [1], [1]]), np.array([[0.0], [0], [0], [1]])
    assert klom(u, o) == pytest.approx([0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)])
    assert klom(u, o, "retrained||unlearned") == pytest.approx([0.75 * math.log(1.5) + 0.25 * math.log(0.5)])
    assert klom(u, o) != pytest.approx(klom(u, o, "retrained||unlearned"))


def test_without_renormalization_by_the_library() -> None:
    """q of the newer code of the benchmark: raised bins, but no sum of 1 any more."""
    u, o = normal(2, models=30, points=40), normal(0, models=50, points=40, seed=1)
    for k in range(40):
        edges = np.linspace(min(u[:, k].min(), o[:, k].min()), max(u[:, k].max(), o[:, k].max()), BINS + 1)
        q, p = (np.histogram(x[:, k], edges)[0] / len(x) for x in (u, o))
        some = p > 0
        expected = (p[some] * np.log(p[some] / np.maximum(q, 1e-5)[some])).sum()
        assert klom(u, o, "retrained||unlearned", renormalized=False)[k] == pytest.approx(expected)
    assert klom(u, o, "retrained||unlearned")[0] != klom(u, o, "retrained||unlearned", renormalized=False)[0]


def test_equal_samples_are_0_apart_and_disjoint_ones_as_far_as_can_be() -> None:
    x = normal(0)
    assert klom(x, x).max() == pytest.approx(0, abs=1e-12)
    far = math.log((1 + 1e-5) / 1e-5)
    assert far == pytest.approx(11.513, abs=1e-3)
    for a, b in ((np.zeros((5, 2)), np.ones((7, 2))), (np.ones((5, 2)), np.zeros((7, 2)))):  # the largest value is in a bin, too
        assert klom(a, b) == pytest.approx([far, far])
    assert klom(np.full((3, 1), 2.0), np.full((4, 1), 2.0)) == pytest.approx([0])


def test_units_do_not_matter_within_the_range() -> None:
    u, o = np.round(normal(1, points=50) * 64) / 64, np.round(normal(0, points=50, seed=1) * 64) / 64
    assert klom(2 * u + 8, 2 * o + 8) == pytest.approx(klom(u, o))


def test_as_the_librarys_histograms_have_it() -> None:
    u, o = normal(1, models=30, points=40), normal(0, models=50, points=40, seed=1)
    for k in range(40):
        edges = np.linspace(min(u[:, k].min(), o[:, k].min()), max(u[:, k].max(), o[:, k].max()), BINS + 1)
        p, q = (np.histogram(x[:, k], edges)[0] / len(x) for x in (u, o))
        q = np.where(p > 0, np.maximum(q, 1e-5), q)
        some = p > 0
        assert klom(u, o)[k] == pytest.approx((p[some] * np.log(p[some] / (q / q.sum())[some])).sum())


def test_far_margins_are_cut() -> None:
    u, o = np.array([[0.0], [100]]), np.array([[0.0], [5000]])
    assert klom(u, o) == pytest.approx([0])
    assert klom(np.array([[np.inf]]), np.array([[100.0]])) == pytest.approx([0])


def test_one_bin_more_or_less_decides() -> None:
    edge = 1 / BINS
    o = np.array([[0.0], [1.0], [edge * 1.5]])
    assert klom(np.array([[0.0], [1.0], [edge * 1.9]]), o) == pytest.approx([0])
    assert klom(np.array([[0.0], [1.0], [edge * 2.1]]), o) > 1


def test_what_samples_of_a_hundred_give() -> None:
    shifted = summary(klom(normal(2), normal(0, seed=1)))
    alike = summary(klom(normal(0), normal(0, seed=1)))
    assert (shifted.mean, shifted.p95) == (pytest.approx(3.6, abs=0.2), pytest.approx(5, abs=0.4))
    assert (alike.mean, alike.p95) == (pytest.approx(0.35, abs=0.03), pytest.approx(0.67, abs=0.07))
    assert klom(normal(0.5), normal(0, seed=1)).mean() > 1.5 * alike.mean
    half = floor(normal(0, models=200, seed=2))
    assert half.mean == pytest.approx(alike.mean, abs=0.05)


def test_groups_have_means_and_percentiles_of_their_own() -> None:
    groups = by_group({"forget": (normal(2), normal(0, seed=1)), "retain": (normal(0), normal(0, seed=1))})
    values = klom(normal(2), normal(0, seed=1))
    assert groups["forget"] == (values.mean(), np.quantile(values, 0.95), 300)
    assert groups["retain"].mean < 1 < groups["forget"].mean


def test_what_is_no_pair_of_samples() -> None:
    for u, o in ((normal(0)[:0], normal(0)), (normal(0), normal(0, points=7))):
        with pytest.raises(ValueError, match="at the same points"):
            klom(u, o)
    with pytest.raises(ValueError, match="not a number"):
        klom(np.array([[np.nan]]), np.array([[1.0]]))
    for nothing in (np.zeros((4, 0)), np.zeros((1, 3))):
        with pytest.raises(ValueError):
            floor(nothing)
