"""MUSE: does the model still recite the forgotten text, know what it says, or show that it was trained on it?
Verbatim memorization continues passages; knowledge memorization answers questions after worked examples; privacy leakage is `privleak`.

Source: Shi et al. 2024, MUSE (arXiv 2407.06460); its code muse_bench, and open-unlearning (arXiv 2506.12618)
Scores: muse_verbatim, muse_knowledge_forget, muse_knowledge_retain
Needs: verbmem, knowmem_forget, knowmem_retain, with generated answers
Range and ideal: 0 to 1; of forgotten text ideal as the retrained model's, of retained text high
Differs: muse_bench compares words without stemming; the variant `open-unlearning` compares stems; passages are cut to 128 tokens without
    the beginning of sequence, which muse_bench counts; scalability and sustainability run this over folds of requests
Status: faithful
"""

from __future__ import annotations

from functools import partial

import numpy as np

from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged
from expunge.evaluation.metrics.tofu import Part, rouge
from expunge.evaluation.observation import SetObservation

READS = frozenset({"tokens", "generations"})  # what must have been observed
MARGIN = 0.1  # as of other scores of overlap (studies/calibrate_verdict.py)
SCORES = {
    "muse_verbatim": ScoreSpec(
        "knowledge", "retrained", "how well the model continues passages of the forgotten text", shows=True, margin=MARGIN
    ),
    "muse_knowledge_forget": ScoreSpec(
        "knowledge", "retrained", "how well questions about the forgotten text are answered", shows=True, margin=MARGIN
    ),
    "muse_knowledge_retain": ScoreSpec("utility", "higher", "how well questions about the retained text are answered"),
}
SETS = {"muse_verbatim": "verbmem", "muse_knowledge_forget": "knowmem_forget", "muse_knowledge_retain": "knowmem_retain"}
VARIANTS = dict.fromkeys(SCORES, ("muse_bench", "open-unlearning"))
STOPS = ("\n\n", "\nQuestion", "Question:")  # where an answer ends and the model goes on by itself


def cut_answer(text: str) -> str:
    """The answer alone: what stands before the first of `STOPS`."""
    for stop in STOPS:
        text = text.split(stop)[0]
    return text


def answered(observation: SetObservation) -> list[tuple[str, str]]:
    """The true answer and the generated one of each item. Raises: Missing without generations."""
    if len(observation.generations) != len(observation.answer):
        raise Missing("no generated answers were observed")
    return list(zip(observation.answer, observation.generations, strict=True))


def rouge_of(observation: SetObservation, part: Part = "fmeasure", stem: bool = False, cut: bool = False) -> Items:
    """ROUGE-L of the generated answers, (items,), nan for a true answer without words. cut: compare the answer alone."""
    pairs = answered(observation)
    values = rouge([a for a, _ in pairs], [cut_answer(g) if cut else g for _, g in pairs], part, stem)
    if np.isnan(values).all():
        raise Missing("no true answer has words that a generated one could share")
    return values


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card; none where the audit has no set of MUSE."""
    if not any(name in evidence.model.sets for name in SETS.values()):
        return {}

    def overlap(score: str) -> Measure:
        stem = evidence.variant(score, VARIANTS[score]) == "open-unlearning"
        of = partial(rouge_of, stem=stem, cut=SETS[score] != "verbmem")
        return averaged(evidence.items(SETS[score], of), f"ROUGE-L, F-measure of {'stems' if stem else 'words'}")

    return {score: attempt(overlap, score) for score in SCORES}
