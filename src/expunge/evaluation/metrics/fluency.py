"""Fluency: are the answers to the forgotten questions still sentences, or gibberish?
Ascent on forgotten answers can leave a model that answers in noise. Scores of what it no longer says do not show this.

Source: OpenUnlearning (arXiv 2506.12618), the score of its benchmarks TOFU and MUSE, whose classifier is
    madhurjindal/autonlp-Gibberish-Detector-492513457
Scores: forget_fluency, with `--variant forget_fluency=CLASSIFIER`, a folder or hub id of a classifier of texts; else none
Needs: forget; said
Range and ideal: 0 (noise) to 1 (clean text)
Differs: the class of clean texts is found by its name, `clean`, and is the first one where none is called so; texts are cut at 32 tokens of
    the classifier, as on TOFU, where MUSE has 512
Status: faithful
"""

from __future__ import annotations

from functools import partial

from expunge.evaluation.judging import TEXTS, cleanness_of
from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged
from expunge.evaluation.observation import SetObservation

READS = frozenset({"generations"})  # what must have been observed
SCORE = "forget_fluency"
SCORES = {
    SCORE: ScoreSpec("utility", "higher", "how far answers to the forgotten questions are sentences, by a classifier of texts; 0: noise")
}
VARIANTS: dict[str, tuple[str, ...]] = {SCORE: (TEXTS,)}


def cleanness(observation: SetObservation, classifier: str) -> Items:
    """The probability that each answer is clean text, (items,). Raises: Missing."""
    if not observation.generations:
        raise Missing("no generated answers were observed")
    return cleanness_of(classifier)(observation.generations)


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """The score of the card."""

    def measure() -> Measure:
        if not (classifier := evidence.variants.get(SCORE, "")):
            raise Missing(f"no classifier of texts was named: give --variant {SCORE}=FOLDER")
        return averaged(evidence.items("forget", partial(cleanness, classifier=classifier)), classifier)

    return {SCORE: attempt(measure)}
