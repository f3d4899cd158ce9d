"""Linear attention: equal to its quadratic form, hand values of normalizers, what constants and gates do to it."""

from __future__ import annotations

import pytest
import torch

from expunge.functional.linear_attention import LEAST, division, positive, subtraction


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quadratic_division(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The weights of every pair of tokens, (..., N, N)."""
    products = q @ k.transpose(-2, -1)
    return products / (products.sum(-1, keepdim=True) + LEAST * k.shape[-2])


def quadratic_subtraction(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    s, n = q.shape[-1] ** -0.5, k.shape[-2]
    return s / n * (q @ k.transpose(-2, -1)) + (1 - s * (q * k.mean(-2, keepdim=True)).sum(-1, keepdim=True)) / n


def test_division_by_hand() -> None:
    """Two tokens, one coordinate: q = 2, k = (1, 3), v = (10, 20): (1/2 (2*10 + 6*20)) / (2*2 + 1e-6)."""
    q, k, v = (torch.tensor([[x] for x in xs], dtype=torch.float64) for xs in ((2.0, 2.0), (1.0, 3.0), (10.0, 20.0)))
    assert division(q, k, v)[:, 0].tolist() == pytest.approx([70 / (4 + 1e-6)] * 2, rel=1e-12)


def test_subtraction_by_hand() -> None:
    """The same numbers: 1/2 (20 + 120) + (1 - 4) 15 = 25."""
    q, k, v = (torch.tensor([[x] for x in xs], dtype=torch.float64) for xs in ((2.0, 2.0), (1.0, 3.0), (10.0, 20.0)))
    assert subtraction(q, k, v)[:, 0].tolist() == pytest.approx([25.0] * 2, rel=1e-12)


@pytest.mark.parametrize("single", [False, True], ids=["float64", "float32"])
def test_both_equal_their_quadratic_forms(single: bool) -> None:
    q, k, v = (drawn(2, 3, 40, 8, seed=i) for i in range(3))
    pairs = {
        division: (quadratic_division(positive(q), positive(k)) @ v, (positive(q), positive(k), v)),
        subtraction: (quadratic_subtraction(q.relu(), k.relu()) @ v, (q.relu(), k.relu(), v)),
    }
    for function, (expected, inputs) in pairs.items():
        out = function(*(x.float() if single else x for x in inputs))
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-6 if single else 1e-12)


def test_constant_values_come_out_times_the_sum_of_weights() -> None:
    q, k = positive(drawn(5, 2, seed=3) - 1), positive(drawn(5, 2, seed=4))
    sums = (q * k.mean(-2, keepdim=True)).sum(-1)
    expected = 7 * sums / (sums + LEAST)
    assert float(sums.min()) < 1e-4, "a query without positive coordinates has a sum that the constant matters to"
    torch.testing.assert_close(division(q, k, torch.full_like(q, 7.0)), expected[:, None].expand(-1, 2))
    torch.testing.assert_close(subtraction(q, k, torch.full_like(q, 7.0)), torch.full_like(q, 7.0))


def test_division_does_not_care_about_the_order_of_keys() -> None:
    q, k, v = positive(drawn(6, 4)), positive(drawn(6, 4, seed=1)), drawn(6, 4, seed=2)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(division(q, k[order], v[order]), division(q, k, v))


def test_subtraction_of_a_zero_query_is_the_mean_and_weights_may_be_negative() -> None:
    k, v = drawn(6, 4).relu(), drawn(6, 4, seed=1)
    torch.testing.assert_close(subtraction(torch.zeros(6, 4, dtype=torch.float64), k, v), v.mean(0, keepdim=True).expand(6, -1))
    weights = quadratic_subtraction(torch.full((1, 4), 50.0, dtype=torch.float64), k)
    assert float(weights.min()) < 0
    assert float(weights.sum()) == pytest.approx(1.0)


def test_a_key_of_zero_leaves_its_token_out() -> None:
    """The N of both means cancels, up to the 1e-6 of the normalizer."""
    q, k, v = positive(drawn(6, 4).abs()), positive(drawn(6, 4, seed=1).abs()), drawn(6, 4, seed=2)
    gated = k * torch.tensor([1.0, 1, 0, 1, 1, 1], dtype=torch.float64)[:, None]
    rest = [0, 1, 3, 4, 5]
    torch.testing.assert_close(division(q, gated, v), division(q, k[rest], v[rest]), atol=1e-5, rtol=0)


def test_half_precision_is_computed_in_float32() -> None:
    """Sums over many tokens, and 1e-6, are beyond it."""
    q, k, v = (drawn(4096, 32, seed=i).half() for i in range(3))
    out = division(positive(q), positive(k), v)
    assert out.dtype == torch.float16
    expected = division(positive(q.double()), positive(k.double()), v.double())
    torch.testing.assert_close(out.double(), expected, atol=1e-3, rtol=0)
