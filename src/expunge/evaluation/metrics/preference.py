"""Preferences in words: answers of yes or no of a language model that recommends, and how far its answers are from the retrained model's.
The first word of an answer is compared as a distribution over all words, and as yes against no.

Source: Wang et al. 2024, E2URec (arXiv 2403.03536)
Scores: answer_jsd, answer_jeffreys_half, answer_l2, yes_auc, yes_accuracy, yes_log_loss
Needs: forget, retrained, in a benchmark that asks for predictions (`SetSpec(ask=("predict",))`); the last three: one that asks by two
    choices, the first of which is the positive answer (`SetSpec(ask=("choose",))`)
Range and ideal: divergences in nats, ideal 0, answer_jsd to log 2; answer_l2 0 to 1.42, ideal 0; AUC and accuracy 0 to 1; all three of
    forgotten items as the retrained model's
Differs: what the authors' code calls JSD is half the Jeffreys divergence, here `answer_jeffreys_half`; `answer_jsd` is the true one, which
    their code has in a comment. Yes and no are the first tokens of the two choices, not token ids of T5
Status: faithful
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from expunge.evaluation.attacks.mia import auc, precedes
from expunge.evaluation.measure import Broken, Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged, labeled
from expunge.evaluation.metrics.classification import jensen_shannon
from expunge.evaluation.observation import SetObservation

READS = frozenset({"choices", "predictions"})  # what must have been observed
EPSILON = 1e-12  # added to probabilities inside logarithms, as in the authors' code
SCORES = {
    "answer_jsd": ScoreSpec(
        "knowledge", "lower", "how far first words of answers are from the retrained model's: Jensen-Shannon divergence", ideal=0.0
    ),
    "answer_jeffreys_half": ScoreSpec(
        "knowledge", "lower", "how far first words of answers are from the retrained model's: half the Jeffreys divergence", ideal=0.0
    ),
    "answer_l2": ScoreSpec(
        "knowledge", "lower", "how far first words of answers are from the retrained model's: distance of probabilities", ideal=0.0
    ),
    "yes_auc": ScoreSpec("knowledge", "retrained", "how well the answers tell what is liked from what is not; 0.5: not at all", shows=True),
    "yes_accuracy": ScoreSpec("knowledge", "retrained", "share of the answers of yes or no that are right", shows=True),
    "yes_log_loss": ScoreSpec("knowledge", "retrained", "loss of the right one of yes and no, in nats"),
}


def jeffreys_half(a: Items, b: Items) -> Items:
    """KL(p || q) / 2 + KL(q || p) / 2 in nats of distributions given as log-probabilities (items, classes): (items,)."""
    p, q = np.exp(a), np.exp(b)
    return np.asarray(((p - q) * (np.log(p + EPSILON) - np.log(q + EPSILON))).sum(1) / 2)


def euclidean(a: Items, b: Items) -> Items:
    """The distance of probabilities, given as log-probabilities (items, classes): (items,)."""
    return np.asarray(np.linalg.norm(np.exp(a) - np.exp(b), axis=1))


def predictions(observation: SetObservation) -> Items:
    """Log-probabilities of all words at the first label, (items, classes). Raises: Missing, Broken."""
    if observation.predicted is None:
        raise Missing("no predictions were observed")
    if np.isnan(observation.predicted).any():
        raise Broken("log-probabilities are not finite")
    return observation.predicted.astype(np.float64)


def yes(observation: SetObservation) -> Items:
    """Probability of the first of two choices against the second one, by their first tokens, and whether it is right: (items, 2).

    Raises:
        Missing: where the items are no choices between two.
    """
    scored = labeled(observation, "choice")
    if observation.correct is None or (np.bincount(scored.item, minlength=len(observation)) != 2).any():
        raise Missing("no choices between two were observed")
    order = np.argsort(scored.item, kind="stable")
    first, second = scored.target_logp[scored.start[:-1]][order].astype(np.float64).reshape(-1, 2).T
    return np.stack([1 / (1 + np.exp(second - first)), observation.correct == 0], 1)


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """The scores of the card, on the set in the place of the forget set; none of a kind for which that set does not ask."""
    observation = evidence.model.sets.get("forget")
    results: dict[str, Measure | Missing] = {}
    if observation is not None and observation.predicted is not None:
        distances: dict[str, Callable[[Items, Items], Items]] = {
            "answer_jsd": jensen_shannon,
            "answer_jeffreys_half": jeffreys_half,
            "answer_l2": euclidean,
        }
        results |= {name: attempt(_distance, evidence, of) for name, of in distances.items()}
    if observation is not None and observation.correct is not None:
        results |= {
            "yes_auc": attempt(_auc, evidence),
            "yes_accuracy": attempt(lambda: averaged(evidence.items("forget", _right))),
            "yes_log_loss": attempt(lambda: Measure((evidence.items("forget", _loss),), _mean, "nats")),
        }
    return results


def _distance(evidence: Evidence, of: Callable[[Items, Items], Items]) -> Measure:
    own, other = evidence.both("forget", predictions)
    if own.shape != other.shape:
        raise Missing("forget: the retrained model has another vocabulary")
    return Measure((of(other, own),), _mean)


def _right(observation: SetObservation) -> Items:
    p, positive = yes(observation).T
    return np.asarray((p > 0.5) == (positive == 1), np.float64)


def _loss(observation: SetObservation) -> Items:
    p, positive = yes(observation).T
    return np.asarray(-np.log(np.clip(np.where(positive == 1, p, 1 - p), EPSILON, 1)))


def _auc(evidence: Evidence) -> Measure:
    p, positive = evidence.items("forget", yes).T
    if not 0 < positive.sum() < len(positive):
        raise Missing("forget: all answers are of one kind, so there are none to tell apart")
    return Measure((-p[positive == 1], -p[positive == 0]), auc, kernel=precedes)


def _mean(values: Items) -> float:
    return float(values.mean())
