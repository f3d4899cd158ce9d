"""Choices: does the model give the right one of several answers the highest probability?
Each choice is scored as an answer; the one with the highest log-probability is the model's answer.

Source: the multiple-choice scoring of lm-evaluation-harness, which the variants `acc` (summed log-probability) and `acc_norm` (divided by
    the characters of the choice) repeat: the end of sequence after a choice does not count
Scores: choice_accuracy
Needs: a set that asks by choices (`SetSpec(ask=("choose",), metrics=("choice",))`)
Range and ideal: 0 to 1; of forgotten facts as the retrained model's, of others high
Differs: the default is the mean log-probability of a token, end of sequence included, which favors neither long choices nor short ones;
    variants `acc` and `acc_norm` do not differ from the harness
Status: faithful
"""

from __future__ import annotations

from functools import partial

import numpy as np

from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged, labeled
from expunge.evaluation.metrics.memorization import content
from expunge.evaluation.observation import Scored, SetObservation

READS = frozenset({"choices"})  # what must have been observed
SCORES = {
    "choice_accuracy": ScoreSpec(
        "knowledge", "retrained", "share of questions whose right choice is the most probable one", shows=True, margin=0.1
    )
}


VARIANTS = {"choice_accuracy": ("mean", "acc", "acc_norm")}
HOW = {
    "mean": "mean log-probability of a token of the choice",
    "acc": "lm-evaluation-harness acc: summed log-probability of the choice",
    "acc_norm": "lm-evaluation-harness acc_norm: summed log-probability by characters",
}


def values_of(scored: Scored, how: str = "mean") -> Items:
    """What each choice is judged by, (choices,), by one of `VARIANTS`."""
    if how == "mean":
        return scored.mean_logp()
    sums = np.array([content(scored, k, scored.target_logp.astype(np.float64)).sum() for k in range(len(scored))])
    return sums if how == "acc" else sums / np.array([max(1, len(text.strip())) for text in scored.text])


def right(observation: SetObservation, how: str = "mean") -> Items:
    """1 where the right choice has the highest value, the first of equal ones, (items,). Raises: Missing without choices."""
    if observation.correct is None:
        raise Missing("no choices were observed")
    scored = labeled(observation, "choice")
    values = values_of(scored, how)
    best = [int(np.argmax(values[scored.item == i])) for i in range(len(observation))]
    return np.asarray(np.array(best) == observation.correct, np.float64)


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """The score of the card, on the set in the place of the forget set; no score where that set does not ask by choices."""
    observation = evidence.model.sets.get("forget")
    if observation is None or observation.correct is None:
        return {}
    how = evidence.variant("choice_accuracy", VARIANTS["choice_accuracy"])
    return {"choice_accuracy": attempt(lambda: averaged(evidence.items("forget", partial(right, how=how)), HOW[how]))}
