"""DUSK: are the forgotten documents gone, while what other documents tell as well is still known?
Four scores say what must stay, three what must go; each compares with a model trained without the forgotten documents.

Source: Jeung et al. 2025, DUSK (arXiv 2505.15209), and its code AI-ISL/DUSK
Scores: dusk_verbatim, dusk_unique_forget, dusk_privleak, dusk_shared, dusk_unique_retain, dusk_downstream, dusk_retain_deviation,
    dusk_verbatim_subsequence, dusk_verbatim_edits, dusk_verbatim_cosine
Needs: verbatim, unique_forget, shared, unique_retain (with generated answers), downstream (with choices); forget, retain and holdout with
    moments; retrained for privacy leakage and retain deviation; a sentence encoder for the cosine
Range and ideal: ROUGE and accuracy 0 to 1; privacy leakage in percent, ideal 0, negative where forgotten documents still stand out;
    retain deviation in percent, ideal 0; subsequence in words, edits in characters and cosine from 0 to 1, ideal as the retrained model's
Differs: answers are scored by the recall of ROUGE-L, passages by its F-measure; the code records both (variants `recall`, `fmeasure`);
    variances of next-token distributions are clamped, where half precision gives nan; the cosine of sentence embeddings needs an encoder of
    your own choice (`--variant dusk_verbatim_cosine=FOLDER`), where the code has paraphrase-MiniLM-L6-v2
Status: faithful
"""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np

from expunge.evaluation.attacks.mia import auc, min_k_plus_plus
from expunge.evaluation.measure import ENCODER, Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged
from expunge.evaluation.metrics.choice import right
from expunge.evaluation.metrics.muse import answered, rouge_of
from expunge.evaluation.metrics.tofu import Part
from expunge.evaluation.observation import SetObservation
from expunge.evaluation.rewordings import similarities
from expunge.functional.edit_distances import levenshtein
from expunge.functional.summary_rouge import common_subsequence

READS = frozenset({"tokens", "generations", "moments"})  # what must have been observed
MARGIN = 0.1  # as of other scores of overlap (studies/calibrate_verdict.py)
SCORES = {
    "dusk_verbatim": ScoreSpec(
        "knowledge", "retrained", "how well the model continues passages of the forgotten documents", shows=True, margin=MARGIN
    ),
    "dusk_unique_forget": ScoreSpec(
        "knowledge", "retrained", "how well questions are answered that forgotten documents alone answer", shows=True, margin=MARGIN
    ),
    "dusk_privleak": ScoreSpec(
        "membership", "retrained", "how far membership of forgotten documents shows beyond the retrained model, in percent", ideal=0.0
    ),
    "dusk_shared": ScoreSpec("utility", "higher", "how well questions are answered that retained documents answer as well"),
    "dusk_unique_retain": ScoreSpec("utility", "higher", "how well questions are answered that retained documents alone answer"),
    "dusk_downstream": ScoreSpec("utility", "higher", "share of general questions whose right choice is the most probable one"),
    "dusk_retain_deviation": ScoreSpec(
        "utility", "lower", "how far membership of retained documents moved from the retrained model's, in percent", ideal=0.0
    ),
    "dusk_verbatim_subsequence": ScoreSpec(
        "knowledge", "retrained", "words in order that a continued passage shares with the forgotten one", shows=True
    ),
    "dusk_verbatim_cosine": ScoreSpec(
        "knowledge", "retrained", "how alike in meaning a continued passage and the forgotten one are, by a sentence encoder", shows=True
    ),
    "dusk_verbatim_edits": ScoreSpec("knowledge", "retrained", "characters to change until a continued passage is the forgotten one"),
}
PARTS = ("recall", "fmeasure")
QUESTIONS = {"dusk_unique_forget": "unique_forget", "dusk_shared": "shared", "dusk_unique_retain": "unique_retain"}
VARIANTS = {**dict.fromkeys(QUESTIONS, PARTS), "dusk_verbatim": PARTS[::-1], "dusk_verbatim_cosine": (ENCODER,)}
OWN = ("verbatim", *QUESTIONS.values())


def privacy_leak(area: float, retrained: float) -> float:
    """Percent by which the area under the ROC curve (forgotten 0, unseen 1, by a score that is high for members) is off the retrained's."""
    return 100 * (area - retrained) / retrained if retrained else float("nan")


def retain_deviation(area: float, retrained: float) -> float:
    """Percent by which the area under the ROC curve (unseen 0, retained 1) is off the retrained model's, in either direction."""
    return 100 * abs(area - retrained) / retrained if retrained else float("nan")


def subsequences(observation: SetObservation) -> Items:
    """Words of the longest common subsequence of each passage and its continuation, (items,)."""
    return np.array([len(common_subsequence(a.split(), g.split())) for a, g in answered(observation)], np.float64)


def edits(observation: SetObservation) -> Items:
    """Levenshtein distance of each passage and its continuation in characters, (items,)."""
    return np.array([levenshtein(a, g) for a, g in answered(observation)], np.float64)


def cosines(observation: SetObservation, encoder: str) -> Items:
    """Cosine of the sentence embeddings of each passage and its continuation, at least 0, (items,)."""
    pairs = answered(observation)
    alike = similarities([a for a, _ in pairs], [g for _, g in pairs], encoder).diagonal()
    return np.asarray(alike.clamp_min(0.0).cpu().numpy(), np.float64)


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card; none where the audit has no set of DUSK."""
    if not all(name in evidence.model.sets for name in OWN):
        return {}

    def questions(score: str) -> Measure:
        part = cast(Part, evidence.variant(score, VARIANTS[score]))
        return averaged(evidence.items(QUESTIONS[score], partial(rouge_of, part=part, cut=True)), f"ROUGE-L, {part} of words")

    def verbatim() -> Measure:
        part = cast(Part, evidence.variant("dusk_verbatim", VARIANTS["dusk_verbatim"]))
        return averaged(evidence.items("verbatim", partial(rouge_of, part=part)), f"ROUGE-L, {part} of words")

    def downstream() -> Measure:
        return averaged(evidence.items("downstream", right), "mean log-probability of a token of the choice")

    def counted(of: str) -> Measure:
        return Measure((evidence.items("verbatim", subsequences if of == "words" else edits),), np.mean, of)

    def alike() -> Measure:
        if not (encoder := evidence.variants.get("dusk_verbatim_cosine", "")):
            raise Missing("no sentence encoder was named: give --variant dusk_verbatim_cosine=FOLDER")
        return averaged(evidence.items("verbatim", partial(cosines, encoder=encoder)), encoder)

    def leak() -> Measure:
        def stat(forgotten: Items, unseen: Items) -> float:
            areas = [1 - auc(forgotten[:, k], unseen[:, k]) for k in (0, 1)]
            return privacy_leak(*areas)

        return Measure(_both(evidence, "forget"), stat, "Min-K%++, k = 0.4")

    def deviation() -> Measure:
        def stat(retained: Items, unseen: Items) -> float:
            areas = [auc(retained[:, k], unseen[:, k]) for k in (0, 1)]
            return retain_deviation(*areas)

        return Measure(_both(evidence, "retain"), stat, "Min-K%++, k = 0.4")

    return {
        "dusk_verbatim": attempt(verbatim),
        **{score: attempt(questions, score) for score in QUESTIONS},
        "dusk_privleak": attempt(leak),
        "dusk_downstream": attempt(downstream),
        "dusk_retain_deviation": attempt(deviation),
        "dusk_verbatim_subsequence": attempt(counted, "words"),
        "dusk_verbatim_edits": attempt(counted, "characters"),
        "dusk_verbatim_cosine": attempt(alike),
    }


def _both(evidence: Evidence, name: str) -> tuple[Items, Items]:
    """Scores of the items of a set and of holdout, low for members, under the model and the retrained one, each (items, 2)."""
    return evidence.pairs(name, min_k_plus_plus), evidence.pairs("holdout", min_k_plus_plus)
