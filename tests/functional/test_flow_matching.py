"""Flow matching and masked orders: hand values, the published numbers of steps, and limits."""

from __future__ import annotations

import pytest
import torch

from expunge.functional import flow_matching as flow
from expunge.functional.masked_order import guidance_at, masked_counts, masked_ratio, visible_tokens


def test_noise_levels_of_training_by_hand() -> None:
    """sigmoid(0) = 1/2: index 500, sigma 0.5; ends of the table are 1 and 0.001."""
    sigma = flow.training_sigma(torch.tensor([0.0, -50.0, 50.0], dtype=torch.float64))
    assert sigma.tolist() == pytest.approx([0.5, 1.0, 0.001])


def test_the_loss_by_hand() -> None:
    """x = (1, 3), noise = (0, 1): velocity (-1, -2); a model that says 0 has loss (1 + 4) / 2; at sigma 1/4 it reads (0.75, 2.5)."""
    x, noise = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])
    assert flow.noised(x, noise, torch.tensor(0.25)).tolist() == [0.75, 2.5]
    assert flow.velocity(x, noise).tolist() == [-1.0, -2.0]
    assert float(flow.velocity_loss(torch.zeros(2), flow.velocity(x, noise))) == 2.5


def test_the_velocity_is_the_derivative_of_the_line() -> None:
    x, noise = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    up, down = (flow.noised(x, noise, torch.tensor(s, dtype=torch.float64)) for s in (0.6, 0.4))
    torch.testing.assert_close((up - down) / 0.2, flow.velocity(x, noise))


@pytest.mark.parametrize("steps", [1, 3, 25])
def test_euler_is_exact_where_the_velocity_is_constant(steps: int) -> None:
    x, noise = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(flow.euler(noise, steps, lambda _, sigma: noise - x), x)


def test_levels_of_sampling_by_hand() -> None:
    assert flow.euler_sigmas(3) == pytest.approx([1.0, 0.5005, 0.001, 0.0])


def test_frequencies_by_hand() -> None:
    """Two frequencies, 1 and 1/100."""
    angles = torch.tensor([2.0, 0.02])
    torch.testing.assert_close(flow.frequencies(torch.tensor(2.0), 2), torch.cat([angles.cos(), angles.sin()]))


@pytest.mark.parametrize(("tokens", "steps", "run"), [(256, 64, 61), (1024, 128, 125), (64, 8, 8)])
def test_as_many_steps_run_as_the_authors_code_runs(tokens: int, steps: int, run: int) -> None:
    counts = masked_counts(tokens, steps)
    assert len(counts) == run
    assert counts == sorted(set(counts), reverse=True)
    assert counts[-1] == 0


def test_counts_by_hand() -> None:
    """64 cos(pi/6) = 55.43, 64 cos(pi/3) = 32."""
    assert masked_counts(64, 3) == [55, 32, 0]


def test_ratios_follow_the_truncated_normal_distribution() -> None:
    """Its ends, and its mean: 1 - sd (phi(0) - phi(1.2)) / (Phi(0) - Phi(-1.2)), 0.862 here."""
    assert [masked_ratio(u) for u in (0.0, 1.0)] == pytest.approx([0.7, 1.0], abs=1e-9)
    ratios = [masked_ratio((i + 0.5) / 2000) for i in range(2000)]
    assert ratios == sorted(ratios)
    assert sum(ratios) / len(ratios) == pytest.approx(1 - 0.25 * (0.398942 - 0.194186) / (0.5 - 0.115070), abs=1e-4)


def test_visible_tokens_and_guidance_by_hand() -> None:
    assert [visible_tokens(r, 64) for r in (1.0, 0.7, 0.9)] == [0, 19, 6]
    assert [guidance_at(i, 4, 1.0, 2.4) for i in (1, 4)] == pytest.approx([1.35, 2.4])
