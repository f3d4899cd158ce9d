"""Certificate: can an attacker tell unlearned models from retrained ones better than the certificate (epsilon, delta) allows?
A store is made, forgotten from and retrained many times with fresh noise; a likelihood-ratio test is fitted on half of the pairs, and tried
on the others.

Threat model: the attacker knows data, training and unlearning, and sees the published weights of one model, unlearned or retrained; she can
    make as many pairs of her own as she likes; nothing is changed.
Source: Guo et al. 2020 (arXiv 1911.03030) and Neel et al. 2020 (arXiv 2007.02923) for what is certified; the region of error rates is that
    of Kairouz et al. 2015 (arXiv 1311.0776), its lower bound on epsilon that of Jagielski et al. 2020 (arXiv 2006.07709)
Scores: epsilon_lower, margin, fpr, fnr
Needs: a by-design method whose store promises epsilon and delta; rows, and places of those to forget
Range and ideal: epsilon_lower 0 and upwards, at most the epsilon that is promised; margin, the least of FPR + e^epsilon FNR and its mirror
    image less 1 - delta, not below 0 but for chance
Differs: the likelihoods are normal, with one covariance for both kinds of models (shrunk), which suits noise that is normal; an attack that
    shows nothing proves nothing, since another test may be stronger
Status: shown
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.plan import Plan
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.run_state import RunState
from expunge.engine.weights import tensors_of
from expunge.evaluation.measure import Items

FEWEST = 8  # pairs: half of them fit the attack, and half try it
CONFIDENCE = 0.95


class PublishedPairs(NamedTuple):
    """Published weights of unlearned and of retrained models, (pairs, weights) each, and what their stores promise."""

    unlearned: Items
    retrained: Items
    epsilon: float
    delta: float


class CertificateTest(NamedTuple):
    """What an attacker achieved against a certificate."""

    epsilon: float
    delta: float
    epsilon_lower: float  # the certificate cannot hold with less, at 95% confidence
    margin: float  # least of FPR + e^epsilon FNR and FNR + e^epsilon FPR, less 1 - delta, over all thresholds
    fpr: Items  # share of retrained models that are taken for unlearned, (thresholds,)
    fnr: Items  # share of unlearned models that are taken for retrained, (thresholds,)

    @property
    def holds(self) -> bool:
        """Whether the attack leaves the certificate standing."""
        return self.epsilon_lower <= self.epsilon


def error_rates(unlearned: Items, retrained: Items) -> tuple[Items, Items]:
    """False positive and false negative rates at every threshold, (thresholds,) each. Scores accuse of having been unlearned."""
    thresholds = np.concatenate([[-np.inf], np.unique(np.concatenate([unlearned, retrained]))])
    return (retrained[:, None] > thresholds).mean(0), (unlearned[:, None] <= thresholds).mean(0)


def margin(fpr: Items, fnr: Items, epsilon: float, delta: float) -> float:
    """How far inside the region that a certificate allows the error rates stay: below 0 they leave it."""
    factor = np.exp(epsilon)
    return float(min((fpr + factor * fnr).min(), (fnr + factor * fpr).min()) - (1 - delta))


def epsilon_lower(false_positives: int, false_negatives: int, trials: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """The least epsilon with which a test that erred so often is possible, with some confidence; 0 where it shows nothing.

    Args:
        false_positives, false_negatives: errors on models of each kind.
        trials: models of each kind.
    """
    from scipy.stats import beta

    def most(errors: int) -> float:  # Clopper-Pearson; each of the two rates may exceed it with half of the doubt
        return 1.0 if errors >= trials else float(beta.ppf(1 - (1 - confidence) / 2, errors + 1, trials - errors))

    fpr, fnr = most(false_positives), most(false_negatives)
    ratios = [(1 - delta - a) / b for a, b in ((fnr, fpr), (fpr, fnr))]
    return max(0.0, *(float(np.log(r)) for r in ratios if r > 0))


def judge(pairs: PublishedPairs) -> CertificateTest:
    """Fit a test on the first half of the pairs, choose its threshold there, and try it on the other half.

    Raises:
        UserError: for fewer than eight pairs.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    count = len(pairs.unlearned)
    if count < FEWEST or len(pairs.retrained) != count:
        raise UserError(f"{count} unlearned and {len(pairs.retrained)} retrained models: the attack needs {FEWEST} pairs at least")
    varies = np.ptp(np.concatenate([pairs.unlearned, pairs.retrained]), axis=0) > 0
    half = count // 2
    if not varies.any():
        return CertificateTest(pairs.epsilon, pairs.delta, 0.0, pairs.delta, np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    unlearned, retrained = pairs.unlearned[:, varies], pairs.retrained[:, varies]
    scale = np.concatenate([unlearned[:half], retrained[:half]]).std(0)
    scale = np.where(scale > 0, scale, 1.0)
    test = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    test.fit(np.concatenate([unlearned[:half], retrained[:half]]) / scale, np.repeat([1, 0], half))
    accused, spared = (test.decision_function(x / scale) for x in (unlearned, retrained))
    threshold = _chosen(accused[:half], spared[:half], pairs.delta)
    trials = count - half
    errors = int((spared[half:] > threshold).sum()), int((accused[half:] <= threshold).sum())
    fpr, fnr = error_rates(accused[half:], spared[half:])
    least = epsilon_lower(*errors, trials, pairs.delta)
    return CertificateTest(pairs.epsilon, pairs.delta, least, margin(fpr, fnr, pairs.epsilon, pairs.delta), fpr, fnr)


def _chosen(accused: Items, spared: Items, delta: float) -> float:
    """The threshold with the highest lower bound on epsilon."""
    thresholds = np.unique(np.concatenate([accused, spared]))
    bounds = [epsilon_lower(int((spared > t).sum()), int((accused <= t).sum()), len(accused), delta) for t in thresholds]
    return float(thresholds[int(np.argmax(bounds))])


def published_pairs(
    model: nn.Module, modality: Modality, rows: Rows, forget: Collection[int], method: Plan, *, pairs: int = 500, seed: int = 0
) -> PublishedPairs:
    """Unlearned and retrained models, each pair with noise of its own.

    Args:
        model: the model that training starts from; it stays as it is.
        rows: the training rows.
        forget: places of the rows to forget.
        method: a by-design method.
        pairs: how many.
        seed: of noise that is not secret.

    Raises:
        UserError: where the store promises no epsilon and delta, and where all rows or none are to be forgotten.
    """
    leaving = set(forget)
    gone, rest = rows.select(sorted(leaving)).rename("forget"), rows.select([i for i in range(len(rows)) if i not in leaving])
    if not len(gone) or not len(rest):
        raise UserError(f"{len(gone)} of {len(rows)} rows are to be forgotten: some must leave, and some must stay")

    def run(sets: dict[str, Rows], place: tuple[object, ...], store: Any = None) -> RunState:
        return loop.run((method,), copy.deepcopy(model), modality, sets, seed=seed_of(seed, *place), store=store)

    unlearned, retrained, promise = list[Items](), list[Items](), dict[str, Any]()
    for k in range(pairs):
        whole = run({"retain": rows}, (k, "made"))
        left = run({"forget": gone}, (k, "forgotten"), whole.store)
        never = run({"retain": rest}, (k, "retrained"))
        unlearned.append(_flat(left.model))
        retrained.append(_flat(never.model))
        promise = dict((left.store or {}).get("guarantee", {}).get("numbers", {}))
        if not {"epsilon", "delta"} <= promise.keys():
            raise UserError("the store of this method promises no epsilon and delta, so there is no certificate to attack")
    return PublishedPairs(np.stack(unlearned), np.stack(retrained), float(promise["epsilon"]), float(promise["delta"]))


def _flat(model: nn.Module) -> Items:
    """All weights with a fraction, (weights,)."""
    return torch.cat([t.detach().double().flatten() for t in tensors_of(model).values() if t.is_floating_point()]).cpu().numpy()


def attack(
    model: nn.Module, modality: Modality, rows: Rows, forget: Collection[int], method: Plan, *, pairs: int = 500, seed: int = 0
) -> dict[str, float]:
    """Attack the certificate of a by-design method by many pairs of unlearned and retrained models. Arguments: of `published_pairs`.

    Returns:
        What is promised, `epsilon` and `delta`, and what the attack shows: `epsilon_lower`, `margin`, and `holds`, which is 1 where the
        lower bound is not above epsilon.

    Raises:
        UserError: as `published_pairs` and `judge`.
    """
    result = judge(published_pairs(model, modality, rows, forget, method, pairs=pairs, seed=seed))
    numbers = {n: float(getattr(result, n)) for n in ("epsilon", "delta", "epsilon_lower", "margin")}
    return {**numbers, "holds": float(result.holds)}
