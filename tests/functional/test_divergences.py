"""Divergences against worked values, derivatives and closed forms; p is the probability of the good answer, q of the bad answer."""

import math

import pytest
import torch
from torch import Tensor

from expunge.functional.divergences import DIVERGENCES, Name

NAMES: tuple[Name, ...] = ("tv", "kl", "js", "pearson")
POINTS = [(0.4, 0.8), (0.05, 0.95), (0.7, 0.7), (0.99, 0.01)]


def bound(name: Name, p: Tensor, q: Tensor) -> Tensor:
    d = DIVERGENCES[name]
    return d.penalty(q) - d.activation(p)


def double(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


@pytest.mark.parametrize(("name", "value"), [("kl", 0.418731), ("tv", 0.142044), ("pearson", 0.56), ("js", 0.297822)])
def test_divergence_matches_worked_value(name: Name, value: float) -> None:
    assert float(bound(name, double(0.4), double(0.8))) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("name", "value"), [("kl", 1 / math.e), ("tv", 0.0), ("pearson", 0.0), ("js", 0.0)])
def test_divergence_matches_value_at_zero(name: Name, value: float) -> None:
    assert float(bound(name, double(0.0), double(0.0))) == pytest.approx(value, abs=1e-12)


def slopes(name: Name, p: float, q: float) -> tuple[float, float]:
    """Derivatives by p and q, worked out on paper."""
    sigmoid = lambda v: 1 / (1 + math.exp(-v))  # noqa: E731
    return {
        "tv": (-(1 - math.tanh(p) ** 2) / 2, (1 - math.tanh(q) ** 2) / 2),
        "kl": (-1.0, math.exp(q - 1)),
        "js": (-sigmoid(-p), sigmoid(q)),
        "pearson": (-1.0, 1 + q / 2),
    }[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("p", "q"), POINTS)
def test_numerical_derivatives_match_slopes_on_paper(name: Name, p: float, q: float) -> None:
    h = 1e-5
    by_p = (bound(name, double(p + h), double(q)) - bound(name, double(p - h), double(q))) / (2 * h)
    by_q = (bound(name, double(p), double(q + h)) - bound(name, double(p), double(q - h))) / (2 * h)
    assert (float(by_p), float(by_q)) == pytest.approx(slopes(name, p, q), abs=1e-8)


@pytest.mark.parametrize(("p", "q"), POINTS)
def test_total_variation_flips_sign_when_the_probabilities_swap(p: float, q: float) -> None:
    assert float(bound("tv", double(p), double(q))) == -float(bound("tv", double(q), double(p)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("p", "q"), POINTS)
def test_divergence_matches_closed_form(name: Name, p: float, q: float) -> None:
    expected = {
        "tv": -math.tanh(p) / 2 + math.tanh(q) / 2,
        "kl": -p + math.exp(q - 1),
        "js": math.log1p(math.exp(-p)) + q + math.log1p(math.exp(-q)) - 2 * math.log(2),
        "pearson": -p + q + q * q / 4,
    }[name]
    assert float(bound(name, double(p), double(q))) == pytest.approx(expected, abs=1e-12)
