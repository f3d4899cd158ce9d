"""Leakage: does the model still say what is telling in the forgotten answers: names, numbers, addresses, words that stand nowhere else?
A text that differs from the forgotten answer in every other word, and holds its telephone number, still leaks it.

Source: Carlini et al. 2021 (arXiv 2012.07805), for what was extracted verbatim; the parts of answers are our own
Scores: forget_leakage
Needs: forget, with the model's own answers; the more other sets, the better it is known what is rare
Range and ideal: share of the forgotten answers, 0 to 1; ideal as the retrained model's, which may guess some
Differs: an answer's part is telling where it does not stand in the question, and in at most 1 % of all answers of the audit; whole answers
    count where they are long and stand nowhere else
Status: faithful
"""

from __future__ import annotations

from expunge.evaluation.leaks import FORGET, leaking
from expunge.evaluation.measure import Evidence, Measure, Missing, ScoreSpec, attempt, averaged

READS = frozenset({"tokens", "generations"})  # what must have been observed
SCORES = {
    "forget_leakage": ScoreSpec(
        "knowledge", "retrained", "share of forgotten answers whose names, numbers or rare words the model says", shows=True, margin=0.1
    )
}


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """The score of the card."""

    def leakage() -> Measure:
        if FORGET not in evidence.model.sets:
            raise Missing("the audit has no forget set")
        return averaged(leaking(evidence.model), "names, numbers, addresses and rare words in the model's own answers")

    return {"forget_leakage": attempt(leakage)}
