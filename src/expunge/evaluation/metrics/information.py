"""Information: how many nats of the true answer does the question unlock, and how far does it steer what the model says?
A model may give a forgotten answer a low probability because it avoids it; then the question still steers, and the information is there.

Equation: i_t = log p(y_t | x, y_<t) - log q(y_t | y_<t); q = sum over m of w_m(t) p(. | x_m, y_<t), the mixture of M questions, with
    w_m(1) = 1 / M and w_m(t + 1) proportional to w_m(t) p(y_t | x_m, y_<t). PDI = sum of i_t on the true answer, at most log M; KDI = the
    mean over own samples of the sum of KL(p(. | x, y_<t) || q(. | y_<t)); RIR = (PDI - PDI_r) / (PDI_o - PDI_r), r retrained, o original
Source: Bai 2025 (arXiv 2511.01202) for directed information as the measure of generation, after Massey 1990; the estimators and what they
    say of unlearning are our own. Granger 1969; Blahut 1972 and Arimoto 1972
Scores: none of an audit by itself: the attack semantic_information asks a model and reports them
Needs: log-probabilities of the answers after other questions
Range and ideal: PDI to log M, of a true answer without lower bound; KDI from 0 to log M; RIR 1 (nothing is forgotten) to 0 (as retrained),
    below 0 over-forgotten; ideal as the retrained model's
Differs: inspired by the paper, which has neither estimators nor experiments. Where all of the question stands before the answer, directed
    information is mutual information, and no more causality is claimed. Membership information subtracts the bias of Miller and Madow
Status: faithful
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from expunge.evaluation.measure import Items

BINS = 10  # of the scores of both classes together


def _weights(logp: Items) -> Items:
    """Log-weights of the questions before each token, (questions, tokens), from log-probabilities of the tokens, (questions, tokens)."""
    before = np.concatenate([np.zeros((len(logp), 1)), np.cumsum(logp, axis=1)[:, :-1]], axis=1)
    return np.asarray(before - logsumexp(before, axis=0))


def flow(logp: Items, own: int = 0) -> Items:
    """The information density of each token of an answer, (tokens,), in nats.

    Args:
        logp: log p(y_t | x_m, y_<t) of the same answer after M questions, (questions, tokens).
        own: which question is the answer's own.
    """
    values = np.asarray(logp, np.float64)
    return np.asarray(values[own] - logsumexp(_weights(values) + values, axis=0))


def steering(log_probs: Items, tokens: Sequence[int], own: int = 0) -> Items:
    """KL between the next-token distribution after the own question and the mixture's, at each token of an answer, (tokens,), in nats.

    Args:
        log_probs: of all classes after M questions and the tokens before, (questions, tokens, classes).
        tokens: the answer, (tokens,).
        own: which question is its own.
    """
    values = np.asarray(log_probs, np.float64)
    at = np.take_along_axis(values, np.asarray(tokens)[None, :, None], axis=2)[:, :, 0]
    mixture = logsumexp(_weights(at)[:, :, None] + values, axis=0)
    with np.errstate(invalid="ignore"):  # 0 log 0
        return np.asarray(np.nan_to_num(np.exp(values[own]) * (values[own] - mixture)).sum(-1))


def residual_ratio(model: Items, original: Items, retrained: Items | None = None) -> float:
    """RIR of the PDI of each fact, (facts,) each; nan where original and retrained model differ by less than two standard errors.

    retrained: None counts as 0 everywhere.
    """
    base = np.zeros_like(original) if retrained is None else retrained
    known = original - base
    error = float(known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else 0.0
    return float((model - base).mean() / known.mean()) if abs(known.mean()) > 2 * error else float("nan")


class Granger(NamedTuple):
    """What one series adds to the prediction of another."""

    gain: float  # in nats a step: the transfer entropy of linear Gaussian series
    full: float  # variance of what is left with the other series
    restricted: float  # and without it


def granger(series: Items, other: Items, lags: int = 1) -> Granger:
    """The mean log-likelihood gain of predicting a series, (steps,), from its past and that of another one, against its past alone."""
    past = [series[lags - k - 1 : len(series) - k - 1] for k in range(lags)]
    others = [other[lags - k - 1 : len(other) - k - 1] for k in range(lags)]
    target, ones = series[lags:], np.ones(len(series) - lags)

    def left(columns: Sequence[Items]) -> float:
        x = np.stack([ones, *columns], axis=1)
        return float(np.mean((target - x @ np.linalg.lstsq(x, target, rcond=None)[0]) ** 2))

    full, restricted = left([*past, *others]), left(past)
    return Granger(0.5 * float(np.log(restricted / full)), full, restricted)


class Operating(NamedTuple):
    """A point of a rate-distortion curve."""

    rate: float  # nats
    distortion: float


def rate_distortion(source: Items, distortion: Items, slope: float, steps: int = 500) -> Operating:
    """The point of the rate-distortion curve with a slope, by the algorithm of Blahut and Arimoto.

    Args:
        source: probabilities of what is to be said, (symbols,).
        distortion: of each way to say it, (symbols, answers).
        slope: minus the derivative of the rate, in nats, above 0.
        steps: of the algorithm.
    """
    kernel = np.exp(-slope * distortion)
    answers = np.full(distortion.shape[1], 1 / distortion.shape[1])
    for _ in range(steps):
        channel = answers * kernel
        channel /= channel.sum(1, keepdims=True)
        answers = source @ channel
    joint = source[:, None] * channel
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.nansum(joint * np.log(channel / answers))
    return Operating(float(rate), float((joint * distortion).sum()))


def membership_information(forgotten: Items, unseen: Items, bins: int = BINS) -> float:
    """How much of the one bit of membership a score of items holds, in nats, from 0 to log 2; both kinds count alike.

    Args:
        forgotten, unseen: the score of each item, (items,) and (others,).
        bins: of equal mass over both kinds together.
    """
    edges = np.unique(np.quantile(np.concatenate([forgotten, unseen]), np.linspace(0, 1, bins + 1)[1:-1]))
    shares = np.stack(
        [np.bincount(np.searchsorted(edges, x, side="right"), minlength=len(edges) + 1) / len(x) for x in (forgotten, unseen)]
    )
    mean = shares.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        plug_in = float(np.nansum(shares / 2 * np.log(shares / mean)))
    bias = len(edges) / 8 * (1 / len(forgotten) + 1 / len(unseen))
    return max(0.0, plug_in - bias)
