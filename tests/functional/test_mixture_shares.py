"""Shares of a mixture: by hand where distributions do not overlap, and as a maximum of the likelihood where they do."""

from __future__ import annotations

import pytest
import torch

from expunge.functional.mixture_shares import mixture_shares


def test_without_overlap_shares_are_those_of_the_observations() -> None:
    own = torch.tensor([[1, 1, 0, 1], [0, 0, 1, 0]], dtype=torch.float64)
    assert mixture_shares((own + 1e-12).log()).tolist() == pytest.approx([0.75, 0.25], abs=1e-6)


def test_the_likelihood_is_at_its_maximum() -> None:
    logs = torch.randn(3, 200, generator=torch.Generator().manual_seed(0)).double()

    def likelihood(shares: torch.Tensor) -> float:
        return float((logs + shares.log()[:, None]).logsumexp(0).sum())

    shares = mixture_shares(logs)
    assert float(shares.sum()) == pytest.approx(1.0)
    for direction in (torch.tensor([1.0, -1.0, 0.0]), torch.tensor([0.0, 1.0, -1.0]), torch.tensor([-1.0, 0.0, 1.0])):
        assert likelihood(shares + 1e-3 * direction.double()) < likelihood(shares)


def test_members_that_are_alike_count_alike() -> None:
    logs = torch.randn(1, 50).expand(4, 50)
    assert mixture_shares(logs).tolist() == pytest.approx([0.25] * 4)
