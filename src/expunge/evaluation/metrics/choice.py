"""Choices: does the model give the right one of several answers the highest probability?
Each choice is scored as an answer; the one with the highest mean log-probability per token is the model's answer.

Source: the multiple-choice scoring of lm-evaluation-harness (`acc_norm`), with tokens instead of bytes
Scores: choice_accuracy
Needs: a set that asks by choices (`SetSpec(ask=("choose",), metrics=("choice",))`)
Range and ideal: 0 to 1; of forgotten facts as the retrained model's, of others high
Differs: normalized by the tokens of a choice, not by its bytes
Status: faithful
"""

from __future__ import annotations

import numpy as np

from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged, labeled
from expunge.evaluation.observation import SetObservation

READS = frozenset({"choices"})  # what must have been observed
SCORES = {
    "choice_accuracy": ScoreSpec(
        "knowledge", "retrained", "share of questions whose right choice is the most probable one", shows=True, margin=0.1
    )
}


def right(observation: SetObservation) -> Items:
    """1 where the right choice has the highest mean log-probability, (items,). Raises: Missing without choices."""
    if observation.correct is None:
        raise Missing("no choices were observed")
    scored = labeled(observation, "choice")
    values = scored.mean_logp()
    best = [int(np.argmax(values[scored.item == i])) for i in range(len(observation))]
    return np.asarray(np.array(best) == observation.correct, np.float64)


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """The score of the card, on the set in the place of the forget set; no score where that set does not ask by choices."""
    observation = evidence.model.sets.get("forget")
    if observation is None or observation.correct is None:
        return {}
    return {"choice_accuracy": attempt(lambda: averaged(evidence.items("forget", right)))}
