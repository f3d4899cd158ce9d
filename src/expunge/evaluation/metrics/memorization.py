"""Memorization: how much of the true answers the model still gives back, token by token.
Extraction strength is the share of an answer that greedy decoding yields after the shortest start that makes it do so;
exact memorization is the share of its tokens that are the argmax, given all before them; remnant memorization accuracy is their mean
probability, which shows what is still drawn now and then although it is nowhere the argmax.

Source: Carlini et al. 2021 (arXiv 2012.07805), Jang et al. 2022 (arXiv 2210.01504), OpenUnlearning (arXiv 2506.12618), Lee et al. 2024
    (arXiv 2406.14091)
Scores: extraction_strength, exact_memorization, remnant_memorization_accuracy
Needs: forget
Range and ideal: 0 (nothing) to 1 (all of it); ideal as the retrained model
Differs: an answer whose last token is wrong has strength 0 by the definition, where open-unlearning's code gives 1/N; the variant
    `open-unlearning`, the default of its benchmark `tofu`, does the same; the last label is left out only where it is the end of the
    sequence; answers without other labels do not count, where that code has 0
Status: faithful
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged, item_mean, labeled
from expunge.evaluation.observation import Scored, SetObservation
from expunge.functional.memorization import exact_memorization, extraction_strength, remnant_memorization_accuracy

READS = frozenset({"tokens"})  # what must have been observed
MARGIN = 0.1  # two retrained models with different seeds differ by less (studies/calibrate_verdict.py)
SCORES = {
    "extraction_strength": ScoreSpec(
        "knowledge", "retrained", "share of a forgotten answer that its beginning makes the model say", shows=True, margin=MARGIN
    ),
    "exact_memorization": ScoreSpec(
        "knowledge", "retrained", "share of the tokens of forgotten answers that the model would say", shows=True, margin=MARGIN
    ),
    "remnant_memorization_accuracy": ScoreSpec(
        "knowledge", "retrained", "probability of a token of forgotten answers, on average", shows=True, margin=MARGIN
    ),
}
VARIANTS = {"extraction_strength": ("definition", "open-unlearning")}
Number = TypeVar("Number", bound=np.generic)


def content(scored: Scored, k: int, values: NDArray[Number]) -> NDArray[Number]:
    """The values of answer k, (N,), without that of the end-of-sequence label; values (positions,)."""
    answer_values = values[scored.start[k] : scored.start[k + 1]]
    return answer_values[:-1] if scored.ended[k] else answer_values


def per_item(observation: SetObservation, of: Callable[..., float], values: Literal["hit", "target_logp"] = "hit") -> Items:
    """A function of the tokens of each true answer, (items,); nan for an answer without any besides the end of the sequence."""
    scored = labeled(observation, "answer")
    answers = [content(scored, k, getattr(scored, values)) for k in range(len(scored))]
    values_by_answer = np.array([of(answer_values) if len(answer_values) else np.nan for answer_values in answers])
    return item_mean(values_by_answer, scored.item, len(observation))


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores on the true answers of the forget set."""

    def measure(of: Callable[..., float], variant: str, values: Literal["hit", "target_logp"] = "hit") -> Measure:
        return averaged(evidence.items("forget", partial(per_item, of=of, values=values)), variant)

    ou_compat = evidence.variant("extraction_strength", VARIANTS["extraction_strength"]) == "open-unlearning"
    strength = "open-unlearning: at least 1/N" if ou_compat else "definition: 0 where the last token is wrong"
    return {
        "extraction_strength": attempt(measure, partial(extraction_strength, ou_compat=ou_compat), strength),
        "exact_memorization": attempt(measure, exact_memorization, "teacher-forced"),
        "remnant_memorization_accuracy": attempt(measure, remnant_memorization_accuracy, "teacher-forced", "target_logp"),
    }
