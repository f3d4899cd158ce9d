"""Deviation: one number for how far answers are from none to forgotten questions and the true ones to all others.
The control score says how near answers to forgotten questions are to a refusal, the nearest of some. Over several requests in a row,
`of_requests` gives its mean with a penalty for each rise, and how steady the utility stayed.

Source: Shen et al. 2025 (LUNAR, arXiv 2502.07218) for the score; Wang et al. 2025 (DRAGON, arXiv 2511.05784) for sequences of requests
Scores: deviation_score; control_score, with `--variant control_score=ENCODER`, a folder or hub id of a sentence encoder
Needs: forget, retain; said
Range and ideal: 0 (forgotten questions are not answered, others as before) to 141.4 (the other way round), in percent; control_score -1 to
    1 (all answers are refusals)
Differs: words of answers are compared by ROUGE-L recall of stems, and by ROUGE-1 as LUNAR has it with the variant `rouge_1`. A refusal has
    0, and a retrained model more: a low score says that nothing is answered, not that the model is like a retrained one. The control score
    is reconstructed, the largest cosine of an answer to built-in refusals, averaged over the forget set
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from expunge.core.errors import UserError
from expunge.evaluation.measure import ENCODER, Evidence, Items, Measure, Missing, ScoreSpec, attempt
from expunge.evaluation.metrics.tofu import Grams, rouge
from expunge.evaluation.observation import SetObservation
from expunge.evaluation.rewordings import similarities
from expunge.functional.guard_scores import deviation_score, dynamic_deviation_score, dynamic_utility_score
from expunge.modalities.text.refusals import REFUSALS

READS = frozenset({"generations"})  # what must have been observed
SCORE, CONTROL = "deviation_score", "control_score"
SCORES = {
    SCORE: ScoreSpec(
        "utility", "lower", "how far answers are from none to the forgotten questions and the true ones to others, in percent", ideal=0.0
    ),
    CONTROL: ScoreSpec(
        "utility", "higher", "how near answers to the forgotten questions are to refusals, by a sentence encoder", ideal=1.0
    ),
}


VARIANTS = {SCORE: ("rouge_l", "rouge_1"), CONTROL: (ENCODER,)}


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """The deviation of the forget and the retain set, and the control score of the forget set; the bootstrap draws the items of each."""
    grams: Grams = "rouge1" if evidence.variant(SCORE, VARIANTS[SCORE]) == "rouge_1" else "rougeL"

    def measure() -> Measure:
        sets = tuple(evidence.items(name, partial(_recall, grams=grams)) for name in ("forget", "retain"))
        how = "ROUGE-1, recall of stems" if grams == "rouge1" else "ROUGE-L, recall of stems"
        return Measure(sets, lambda forget, retain: deviation_score(float(forget.mean()), float(retain.mean())), how)

    def control() -> Measure:
        if not (encoder := evidence.variants.get(CONTROL, "")):
            raise Missing(f"no sentence encoder was named: give --variant {CONTROL}=FOLDER")
        return Measure((evidence.items("forget", partial(likeness, encoder=encoder)),), np.mean, encoder)

    return {SCORE: attempt(measure), CONTROL: attempt(control)}


def likeness(observation: SetObservation, encoder: str) -> Items:
    """The largest cosine of each answer to a refusal, (items,). Raises: Missing."""
    if not observation.generations:
        raise Missing("no generated answers were observed")
    return np.asarray(similarities(observation.generations, REFUSALS, encoder).amax(1).cpu().numpy(), np.float64)


def _recall(observation: SetObservation, grams: Grams) -> Items:
    if not observation.generations:
        raise Missing("no generated answers were observed")
    values = rouge(observation.answer, observation.generations, grams=grams)
    if np.isnan(values).all():
        raise Missing("no true answer has words that a generated one could share")
    return values


def of_requests(audits: Sequence[Mapping[str, Any]], utility: str, beta: float = 0.5) -> dict[str, float]:
    """Scores of a sequence of requests, from the audit after each of them.

    Args:
        audits: scores by name, as an audit has them, each with its `value`; in the order of the requests.
        utility: name of the score that measures utility, e.g. that of TOFU.
        beta: weight of the mean rise of the deviation.

    Returns:
        `dynamic_deviation_score` (DDS, 0 is best), and `dynamic_utility_score` (DUS, 1 is best).

    Raises:
        UserError: where there is no audit, or one lacks a score.
    """
    if not audits:
        raise UserError("give the scores of at least one audit, in the order of the requests")
    columns = dict[str, list[float]]()
    for k, audit in enumerate(audits, 1):
        for name in (SCORE, utility):
            if audit.get(name, {}).get("value") is None:
                raise UserError(f"audit {k} has no {name}: it needs generated answers to the sets forget and retain")
            columns.setdefault(name, []).append(float(audit[name]["value"]))
    return {
        "dynamic_deviation_score": dynamic_deviation_score([value / 100 for value in columns[SCORE]], beta),
        "dynamic_utility_score": dynamic_utility_score(columns[utility]),
    }
