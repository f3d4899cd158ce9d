"""Minimum-norm solutions against the pseudo-inverse, and networks that must stay exact."""

from itertools import pairwise

import pytest
import torch

from expunge.functional.minimum_norm import balanced, fewest, first_layer, linear, predictor, span, within
from squares import random


def test_a_basis_of_what_is_spanned_repeats_and_lengths_aside() -> None:
    a, b = random(2, 7)
    basis = span(torch.stack([a, 1e-9 * b, a, a + b, torch.zeros(7, dtype=torch.float64)]))
    assert basis.shape == (7, 2)
    assert torch.allclose(basis.T @ basis, torch.eye(2, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(within(a, basis), a, atol=1e-12)
    assert torch.allclose(within(b, basis), b, atol=1e-12)
    assert span(torch.zeros(3, 7)).shape == (7, 0)
    assert span(random(9, 4)).shape == (4, 4)


@pytest.mark.parametrize("seed", range(3))
def test_from_any_interpolating_weight_to_the_smallest_one(seed: int) -> None:
    x, whole = random(8, 20, seed=seed), random(2, 20, seed=seed + 10)
    found = linear(whole, x)
    assert torch.allclose(found, (torch.linalg.pinv(x) @ (x @ whole.T)).T, atol=1e-12)
    assert torch.allclose(found, linear(whole + random(2, 20) - linear(random(2, 20), x), x), atol=1e-12)


@pytest.mark.parametrize("widths", [[6], [6, 5], [4, 1, 7]])
def test_the_first_layer_of_a_deep_linear_network(widths: list[int]) -> None:
    x, sizes = random(5, 9, seed=3), [9, *widths, 1]
    layers = [random(b, a, seed=i) for i, (a, b) in enumerate(pairwise(sizes))]
    after = [first_layer(layers, x), *layers[1:]]
    assert torch.allclose(predictor(after), linear(predictor(layers), x), atol=1e-12)
    assert torch.allclose(x @ predictor(after).T, x @ predictor(layers).T, atol=1e-10)
    dead = [layers[0], 0 * layers[1], *layers[2:]]
    assert torch.equal(first_layer(dead, x), layers[0])


@pytest.mark.parametrize("widths", [[6], [6, 5], [4, 1, 7]])
def test_balanced_networks(widths: list[int]) -> None:
    weight = random(9, seed=4)
    layers = balanced(weight, widths)
    assert [tuple(layer.shape) for layer in layers] == list(zip([*widths, 1], [9, *widths], strict=True))
    assert torch.allclose(predictor(layers)[0], weight, atol=1e-12)
    norms = torch.stack([layer.norm() for layer in layers])
    assert torch.allclose(norms, (weight.norm() ** (1 / len(layers))).expand(len(layers)), atol=1e-12)
    sizes = [9, *widths, 1]
    other = [random(b, a, seed=i) for i, (a, b) in enumerate(pairwise(sizes))]
    other[-1] = other[-1] * (weight.norm() / predictor(other).norm())  # as long a predictor, with larger weights
    assert float(norms.square().sum()) < float(torch.stack([layer.norm() for layer in other]).square().sum())
    assert not any(layer.any() for layer in balanced(0 * weight, widths))


def test_few_units_say_the_same() -> None:
    inner, x, outer = random(40, 3, seed=5), random(12, 3, seed=6), random(40, 2, seed=7)
    features = (x @ inner.T).relu()
    found = fewest(features, features @ outer)
    rank = int(torch.linalg.matrix_rank(features))
    used = found.abs().sum(1) > 0
    assert torch.allclose(features @ found, features @ outer, atol=1e-8)
    assert int(used.sum()) <= rank <= 12
    assert found.dtype == outer.dtype
    twice = fewest(features[:4].repeat(2, 1), (features[:4] @ outer).repeat(2, 1))
    assert int((twice.abs().sum(1) > 0).sum()) <= 4
