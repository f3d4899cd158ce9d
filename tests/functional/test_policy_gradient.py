"""Policy gradients: worked values, limits, and gradients against autograd of the plain formula."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.functional.policy_gradient import clipped_loss, group_advantages, low_variance_kl, piece_weights, whitened_returns


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.double)


def test_advantages_of_a_group_by_hand() -> None:
    eight = group_advantages(doubles(1, 1, 1, 1, 1, 1, 1, 0)[None], 1e-6)[0]
    assert eight.tolist() == pytest.approx([0.35355] * 7 + [-2.47487], abs=1e-5)
    four = group_advantages(doubles(1, 0, 0, 0)[None], 1e-4)[0]
    assert four.tolist() == pytest.approx([1.49970, -0.49990, -0.49990, -0.49990], abs=1e-5)


def test_advantages_may_keep_their_scale() -> None:
    assert group_advantages(doubles(1, 0, 0, 1)[None], 1e-4, scale=False)[0].tolist() == [0.5, -0.5, -0.5, 0.5]


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, math.exp(-1)])
def test_equal_rewards_have_no_advantage_at_all(value: float) -> None:
    rewards = torch.tensor([[value] * 7, [0.0] * 6 + [1.0]])
    advantages = group_advantages(rewards, 1e-6)
    assert not advantages[0].any()
    assert advantages[1].all()
    assert not whitened_returns(rewards[0], torch.arange(1, 8), 1e-8).any()


def test_whitened_returns_count_an_answer_once_for_each_token() -> None:
    rewards, lengths = doubles(1, 0, 0.5), torch.tensor([1, 3, 2])
    tokens = rewards.repeat_interleave(lengths)
    expected = (tokens - tokens.mean()) / (tokens.var() + 1e-8).sqrt()
    assert torch.allclose(whitened_returns(rewards, lengths, 1e-8).repeat_interleave(lengths), expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual", "loss"),
    [
        (1.0, 2.0, 0.0, -2.0),
        (1.5, 2.0, 0.0, -2.6),  # a likely token of a good answer gains no more than 1.3
        (0.5, 2.0, 0.0, -1.0),
        (0.5, -2.0, 0.0, 1.6),  # of a bad one no more than 0.8
        (5.0, -2.0, 0.0, 10.0),
        (5.0, -2.0, 3.0, 6.0),  # unless the dual clip bounds it
        (2.0, -2.0, 3.0, 4.0),
        (5.0, 2.0, 3.0, -2.6),
    ],
)
def test_clipped_losses_by_hand(ratio: float, advantage: float, dual: float, loss: float) -> None:
    log_ratio = doubles(math.log(ratio)).requires_grad_()
    value = clipped_loss(log_ratio, doubles(advantage), 0.2, 0.3, dual)
    assert value.item() == pytest.approx(loss)
    (slope,) = torch.autograd.grad(value.sum(), log_ratio)
    clipped = loss != pytest.approx(-advantage * ratio)
    assert slope.item() == pytest.approx(0.0 if clipped else -advantage * ratio)


def test_the_gradient_at_ratio_one_is_that_of_reinforce() -> None:
    logp, advantage = doubles(-1.0, -0.2, -3.0).requires_grad_(), doubles(2.0, -0.5, 0.0)
    (clipped,) = torch.autograd.grad(clipped_loss(logp - logp.detach(), advantage, 0.2, 0.3, 3.0).sum(), logp)
    (reinforce,) = torch.autograd.grad(-(advantage * logp).sum(), logp)
    assert torch.allclose(clipped, reinforce)


def test_log_ratios_without_bounds_give_finite_gradients() -> None:
    log_ratio = torch.tensor([200.0, -200.0]).requires_grad_()
    clipped = clipped_loss(log_ratio, torch.tensor([1.0, 1.0]), 0.2, 0.3).sum()
    divergence = low_variance_kl(torch.tensor([200.0, -200.0]), log_ratio * 0, cap=10.0).sum()
    (slope,) = torch.autograd.grad(clipped + divergence, log_ratio)
    assert slope.isfinite().all()
    assert divergence.item() == 20.0


def test_kl_estimates_are_zero_at_equal_models_and_never_negative() -> None:
    reference = torch.linspace(-8, 0, 50, dtype=torch.double)
    assert not low_variance_kl(reference, reference).any()
    assert (low_variance_kl(reference, reference.flip(0)) >= 0).all()
    assert low_variance_kl(doubles(math.log(2)), doubles(0.0)).item() == pytest.approx(2 - math.log(2) - 1)


def test_kl_estimates_have_the_kl_as_their_mean() -> None:
    p, q = (torch.randn(6, dtype=torch.double, generator=torch.Generator().manual_seed(k)).log_softmax(0) for k in (0, 1))
    assert (p.exp() * low_variance_kl(q, p)).sum().item() == pytest.approx((p.exp() * (p - q)).sum().item())


def test_the_gradient_of_kl_estimates_is_that_of_the_kl_from_the_reference() -> None:
    """Which is another one than that of their mean, because the samples do not move with the model: both vanish at the reference alone."""
    logits = torch.randn(6, dtype=torch.double, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reference = torch.randn(6, dtype=torch.double, generator=torch.Generator().manual_seed(1)).log_softmax(0)
    logp = logits.log_softmax(0)
    (ours,) = torch.autograd.grad((logp.detach().exp() * low_variance_kl(reference, logp)).sum(), logits, retain_graph=True)
    (forward,) = torch.autograd.grad((reference.exp() * (reference - logp)).sum(), logits)
    assert torch.allclose(ours, forward)


def test_a_capped_kl_has_no_gradient() -> None:
    logp = doubles(-1.0, -30.0, -1.0).requires_grad_()
    value = low_variance_kl(doubles(-30.0, -1.0, -2.0), logp, cap=10.0)
    assert value.tolist() == pytest.approx([10.0, 10.0, math.exp(-1)])
    (slope,) = torch.autograd.grad(value.sum(), logp)
    assert slope.tolist() == pytest.approx([0.0, 0.0, 1 - math.exp(-1)])


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_piece_weights_stand_for_the_mean_of_token_means(size: int) -> None:
    lengths = torch.tensor([1, 4, 2, 3, 5])
    losses = [torch.randn(int(n), dtype=torch.double, generator=torch.Generator().manual_seed(i)) for i, n in enumerate(lengths)]
    pieces = [torch.cat(losses[at : at + (size or 5)]).mean() for at in range(0, 5, size or 5)]
    sums = torch.stack([loss.sum() for loss in losses])
    assert (piece_weights(lengths, size) * sums).mean().item() == pytest.approx(torch.stack(pieces).mean().item())
