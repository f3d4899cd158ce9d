"""Four scores of memorization in one number: how little of the forgotten answers is left, whichever way one looks.
A harmonic mean is low as soon as one of its parts is: a model that never says an answer, but still finds it probable in other words, has
not forgotten it.

Source: OpenUnlearning (arXiv 2506.12618), its leaderboard of TOFU
Scores: forget_paraphrased_probability, memorization_aggregate
Needs: forget, with paraphrased answers; for the aggregate also wrong ones (`perturbed_answer`)
Range and ideal: 0 to 1; ideal as the retrained model. The aggregate is larger the less is left; the probability is smaller
Differs: the aggregate is reconstructed, the harmonic mean of 1 minus extraction strength, exact memorization, the probability of the
    paraphrased answer, and the share of the right answer in the truth ratio (`prob_mean`); items that lack one of the four do not count;
    extraction strength is 0 where the last token is wrong. ROUGE against paraphrased answers is left out, since audits keep no text of them
Status: faithful
"""

from __future__ import annotations

import numpy as np

from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged, item_mean, labeled
from expunge.evaluation.metrics.memorization import per_item
from expunge.evaluation.metrics.tofu import harmonic_mean, share_of_right, truth_ratios
from expunge.evaluation.observation import SetObservation
from expunge.functional.memorization import exact_memorization, extraction_strength

READS = frozenset({"tokens"})  # what must have been observed
KIND = "paraphrase"
PROBABILITY, AGGREGATE = "forget_paraphrased_probability", "memorization_aggregate"
SCORES = {
    PROBABILITY: ScoreSpec(
        "knowledge", "retrained", "how probable the true answers to the forgotten questions are in other words", shows=True
    ),
    AGGREGATE: ScoreSpec("knowledge", "retrained", "how little of the forgotten answers is left, by four scores at once; 1: nothing"),
}


def paraphrased_probability(observation: SetObservation) -> Items:
    """The probability of the paraphrased answer, the geometric mean over its labels, (items,); nan for an item without one."""
    scored = labeled(observation, KIND)
    return np.exp(item_mean(scored.mean_logp(), scored.item, len(observation)))


def left(observation: SetObservation) -> Items:
    """How much of each answer is left, by extraction strength, exact memorization, paraphrase and truth ratio, (items, 4).

    Raises:
        Missing: where the items have no paraphrased or no wrong answers.
    """
    if not len(ratios := truth_ratios(observation)):
        raise Missing("no wrong answers were observed")
    columns = [per_item(observation, of) for of in (extraction_strength, exact_memorization)]
    return np.column_stack([*columns, paraphrased_probability(observation), share_of_right(ratios)])


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """The scores of the card."""
    return {
        PROBABILITY: attempt(lambda: averaged(evidence.items("forget", paraphrased_probability), "geometric mean over the labels")),
        AGGREGATE: attempt(lambda: Measure((evidence.items("forget", left),), _aggregate, "harmonic mean of four")),
    }


def _aggregate(table: Items) -> float:
    return harmonic_mean(np.clip(1 - table.mean(axis=0), 0, 1))
