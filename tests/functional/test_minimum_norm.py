"""Minimum-norm solutions against the pseudo-inverse, and networks whose outputs must stay exact."""

from itertools import pairwise

import pytest
import torch

from expunge.functional.minimum_norm import balanced, fewest, first_layer, linear, predictor, span, within
from squares import random


def test_span_ignores_repeats_and_lengths() -> None:
    a, b = random(2, 7)
    basis = span(torch.stack([a, 1e-9 * b, a, a + b, torch.zeros(7, dtype=torch.float64)]))
    assert basis.shape == (7, 2)
    assert torch.allclose(basis.T @ basis, torch.eye(2, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(within(a, basis), a, atol=1e-12)
    assert torch.allclose(within(b, basis), b, atol=1e-12)
    assert span(torch.zeros(3, 7)).shape == (7, 0)
    assert span(random(9, 4)).shape == (4, 4)


@pytest.mark.parametrize("seed", range(3))
def test_linear_maps_any_interpolating_weight_to_the_smallest_one(seed: int) -> None:
    x, weight = random(8, 20, seed=seed), random(2, 20, seed=seed + 10)
    smallest = linear(weight, x)
    assert torch.allclose(smallest, (torch.linalg.pinv(x) @ (x @ weight.T)).T, atol=1e-12)
    assert torch.allclose(smallest, linear(weight + random(2, 20) - linear(random(2, 20), x), x), atol=1e-12)


@pytest.mark.parametrize("widths", [[6], [6, 5], [4, 1, 7]])
def test_first_layer_gives_a_deep_network_the_smallest_predictor(widths: list[int]) -> None:
    x, sizes = random(5, 9, seed=3), [9, *widths, 1]
    layers = [random(b, a, seed=i) for i, (a, b) in enumerate(pairwise(sizes))]
    shrunk = [first_layer(layers, x), *layers[1:]]
    assert torch.allclose(predictor(shrunk), linear(predictor(layers), x), atol=1e-12)
    assert torch.allclose(x @ predictor(shrunk).T, x @ predictor(layers).T, atol=1e-10)
    dead_layers = [layers[0], 0 * layers[1], *layers[2:]]
    assert torch.equal(first_layer(dead_layers, x), layers[0])


@pytest.mark.parametrize("widths", [[6], [6, 5], [4, 1, 7]])
def test_balanced_layers_have_equal_norms_and_the_smallest_weights(widths: list[int]) -> None:
    weight = random(9, seed=4)
    layers = balanced(weight, widths)
    assert [tuple(layer.shape) for layer in layers] == list(zip([*widths, 1], [9, *widths], strict=True))
    assert torch.allclose(predictor(layers)[0], weight, atol=1e-12)
    norms = torch.stack([layer.norm() for layer in layers])
    assert torch.allclose(norms, (weight.norm() ** (1 / len(layers))).expand(len(layers)), atol=1e-12)
    sizes = [9, *widths, 1]
    unbalanced = [random(b, a, seed=i) for i, (a, b) in enumerate(pairwise(sizes))]
    unbalanced[-1] = unbalanced[-1] * (weight.norm() / predictor(unbalanced).norm())  # as long a predictor, with larger weights
    assert float(norms.square().sum()) < float(torch.stack([layer.norm() for layer in unbalanced]).square().sum())
    assert not any(layer.any() for layer in balanced(0 * weight, widths))


def test_fewest_units_keep_the_outputs() -> None:
    inner, x, outer = random(40, 3, seed=5), random(12, 3, seed=6), random(40, 2, seed=7)
    features = (x @ inner.T).relu()
    weights = fewest(features, features @ outer)
    rank = int(torch.linalg.matrix_rank(features))
    used_units = weights.abs().sum(1) > 0
    assert torch.allclose(features @ weights, features @ outer, atol=1e-8)
    assert int(used_units.sum()) <= rank <= 12
    assert weights.dtype == outer.dtype
    duplicate_weights = fewest(features[:4].repeat(2, 1), (features[:4] @ outer).repeat(2, 1))
    assert int((duplicate_weights.abs().sum(1) > 0).sum()) <= 4
