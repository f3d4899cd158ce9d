"""Information: bounds, chain rule, sub-martingale, and the laws of Gaussian series and of rate and distortion."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from expunge.evaluation.metrics.information import flow, granger, membership_information, rate_distortion, residual_ratio, steering

RNG = np.random.default_rng(0)


def chains(questions: int = 6, classes: int = 5, seed: int = 0) -> np.ndarray:
    """Log-probabilities of a first-order chain for each question, (questions, classes + 1, classes)."""
    logits = 1.5 * np.random.default_rng(seed).normal(size=(questions, classes + 1, classes))
    return logits - logsumexp(logits, axis=-1, keepdims=True)


def read(model: np.ndarray, answer: list[int]) -> np.ndarray:
    """Log-probabilities of all classes at each token, (questions, tokens, classes)."""
    before = [model.shape[2], *answer[:-1]]
    return model[:, before]


def at(log_probs: np.ndarray, answer: list[int]) -> np.ndarray:
    return np.stack([log_probs[:, t, y] for t, y in enumerate(answer)], axis=1)


def test_the_chain_rule() -> None:
    answer = [0, 3, 1, 1, 4]
    logp = at(read(chains(), answer), answer)
    whole = logp.sum(1)
    assert flow(logp, 2).sum() == pytest.approx(whole[2] - logsumexp(whole) + np.log(6), abs=1e-9)


def test_bounds_are_log_m_for_disjoint_answers_and_zero_for_equal_questions() -> None:
    tiny = -80.0
    disjoint = np.full((4, 3), tiny)
    disjoint[1] = 0.0
    assert flow(disjoint, 1).sum() == pytest.approx(np.log(4))
    same = np.repeat(at(read(chains(1), [0, 1]), [0, 1]), 4, axis=0)
    assert flow(same) == pytest.approx([0, 0])
    assert flow(disjoint, 0).sum() < -70, "an anti-trained answer is far below zero, and is not clipped"


def test_own_samples_carry_the_divergence_of_each_token_on_average() -> None:
    """The flow is a sub-martingale: its expected step is a KL divergence, here from the posterior of the mixture."""
    model, rng, sums, divergences = chains(4, 3, seed=1), np.random.default_rng(2), [], []
    for _ in range(500):
        own, answer = int(rng.integers(4)), list[int]()
        for _ in range(3):
            p = np.exp(model[own, answer[-1] if answer else 3])
            answer.append(int(rng.choice(3, p=p / p.sum())))
        log_probs = read(model, answer)
        sums.append(flow(at(log_probs, answer), own).sum())
        divergences.append(steering(log_probs, answer, own).sum())
    assert min(divergences) >= 0
    error = np.std(np.subtract(sums, divergences)) / len(sums) ** 0.5
    assert np.mean(sums) == pytest.approx(np.mean(divergences), abs=3 * error)
    assert 0 < np.mean(sums) < np.log(4)
    posterior = np.exp(at(read(model, [0, 1]), [0, 1])[:, 0])
    mixture = (posterior[:, None] * np.exp(model[:, 0])).sum(0) / posterior.sum()
    p = np.exp(model[2, 0])
    assert steering(read(model, [0, 1]), [0, 1], 2)[1] == pytest.approx((p * np.log(p / mixture)).sum())


def test_gaussian_series_have_their_transfer_entropy() -> None:
    """x_t = 0.5 x_(t-1) + 1.0 z_(t-1) + e: without z the innovation has variance 2, with it 1."""
    n = 10_000
    z, e, x = RNG.normal(size=n), RNG.normal(size=n), np.zeros(n)
    for t in range(1, n):
        x[t] = 0.5 * x[t - 1] + z[t - 1] + e[t]
    exact = 0.5 * np.log(2)
    assert granger(x, z).gain == pytest.approx(exact, abs=4 * (2 * exact / n) ** 0.5)
    assert granger(z, x).gain == pytest.approx(0, abs=1e-3), "the other way nothing flows"


@pytest.mark.parametrize(("letters", "distortion", "rate"), [(2, 0.119203, 0.327813), (4, 0.288765, 0.468011)])
def test_rate_and_distortion_of_uniform_letters(letters: int, distortion: float, rate: float) -> None:
    point = rate_distortion(np.full(letters, 1 / letters), 1 - np.eye(letters), slope=2)
    assert point.distortion == pytest.approx(distortion, abs=1e-5)
    assert point.rate == pytest.approx(rate, abs=1e-4)
    d = point.distortion
    entropy = -d * np.log(d) - (1 - d) * np.log(1 - d)
    assert point.rate == pytest.approx(np.log(letters) - entropy - d * np.log(letters - 1), abs=1e-6)


def test_the_residual_ratio() -> None:
    original, retrained = np.array([5.0, 6.0, 7.0]), np.array([1.0, 1.0, 1.0])
    assert residual_ratio(original, original, retrained) == pytest.approx(1)
    assert residual_ratio(retrained, original, retrained) == pytest.approx(0)
    assert residual_ratio(retrained - 1, original, retrained) == pytest.approx(-0.2), "over-forgotten"
    assert residual_ratio(original / 2, original) == pytest.approx(0.5)
    assert np.isnan(residual_ratio(original, retrained + np.array([1, -1, 0.1]), retrained)), "nothing was known"


def test_membership_information() -> None:
    assert membership_information(np.arange(100.0), np.arange(100.0) + 1000) == pytest.approx(np.log(2), abs=0.03)
    draws = [membership_information(RNG.normal(size=50), RNG.normal(size=400)) for _ in range(200)]
    assert np.mean(draws) < 0.0268 / 2, "most of the bias of the plug-in estimate, 0.0268, is gone"
