"""Semantic information: does the question still carry the forgotten answer, and does the name in it still cause the answer?
The same answers are read after questions about others, so that what the question itself unlocks is told from what the format unlocks.

Threat model: the attacker reads next-token probabilities of given answers after questions of her choice, and samples; nothing is changed.
Equation: as the metric information. Granger score of a name = log p(y | x) - log p(y | x with the name masked)
Source: Bai 2025, arXiv 2511.01202 (the measures); estimators and their use on forgotten rows are our own
Scores: none of the audit; for each way (mixture: PDI, PDI a token, the largest of the paraphrases, KDI; null; masked: the Granger score
    with the p-value of a Wilcoxon test), and beside the original: RIR, with what it is read against
Needs: forget, with questions; retain, with questions (for the mixture); original and retrained (for RIR)
Range and ideal: those of the metric information; the ideal is the retrained model's
Differs: foils are the retained questions nearest in words to the own one. Samples are drawn at temperature 1, without truncation, from the
    first `facts` rows. Intervals are of the bootstrap over rows. A name is the longest run of words with capitals in the question
Status: shown
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from expunge.core.capabilities import Generates, Prompted, require
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.engine.run_state import evaluating
from expunge.evaluation.attack import Attack, AttackOutcome, Scene, Try
from expunge.evaluation.measure import Items, Measure
from expunge.evaluation.metrics import information
from expunge.evaluation.observe import Records
from expunge.evaluation.prompting import asked_in_words, question_of
from expunge.evaluation.rewordings import COLUMN
from expunge.evaluation.words import words
from expunge.methods.rollouts.names import longest_name, lower_words
from expunge.modalities.common.records import listed

SOMEONE = "someone"  # stands for a masked name
ROWS = 64  # rows in one forward pass


@part
class SemanticInformation(Attack):
    """Reads answers after other questions."""

    prompts: int = hp(32, "questions of the mixture, the own one included", ge=2)
    samples: int = hp(8, "own answers sampled to each question, for KDI; 0: no KDI", ge=0)
    facts: int = hp(40, "rows to forget that are sampled from at most", ge=1)
    length: int = hp(64, "tokens of a sampled answer at most", ge=1)
    seed: int = hp(0, "seed of the samples", ge=0)

    def about(self, records: Records, modality: Modality) -> Records:
        return asked_in_words(records, modality)

    def run(self, scene: Scene) -> None:
        modality: Any = scene.modality
        questions = [question_of(r) for r in scene.records]
        rows = modality.rows("forget", scene.records)
        retained = list(dict.fromkeys(filter(None, (question_of(r) for r in scene.sets.get("retain", ())))))
        with evaluating(scene.model), torch.no_grad():
            own = [x.sum() for x in logp(scene.model, modality, modality.reask(rows, questions, "own"))]
            if retained:
                self._mixture(scene, rows, questions, retained)
            else:
                scene.lacks("the mixture needs questions about others, and the audit has no retain set", "mixture")
            empty = logp(scene.model, modality, modality.reask(rows, [""] * len(rows), "null"))
            unlocked = np.array([a - b.sum() for a, b in zip(own, empty, strict=True)])
            scene.look({}, way="null", by_row={"pdi": unlocked}, **_mean("pdi", unlocked))
            self._masked(scene, rows, questions, own)

    def _mixture(self, scene: Scene, rows: Rows, questions: Sequence[str], retained: Sequence[str]) -> None:
        near = nearest(questions, retained)
        paraphrases = [listed(r, COLUMN, "a row to forget") for r in scene.records]
        own, worst, lengths, steered = list[float](), list[float](), list[int](), list[float]()
        for i, question in enumerate(questions):
            foils = [retained[j] for j in near[i][: self.prompts - 1]]
            tokens = information.flow(self._after(scene, rows.select([i]), [question, *foils]))
            others = [float(information.flow(self._after(scene, rows.select([i]), [p, *foils])).sum()) for p in paraphrases[i]]
            own.append(float(tokens.sum()))
            lengths.append(len(tokens))
            worst.append(max([own[-1], *others]))
            if self.samples and i < self.facts:
                steered.append(self._steered(scene, rows.select([i]), [question, *foils]))
        pdi = np.array(own)
        numbers = {
            "pdi_a_token": float((pdi / lengths).mean()),
            "pdi_of_paraphrases": float(np.mean(worst)),
            "prompts": float(1 + len(foils)),
        }
        if steered:
            numbers |= _mean("kdi", np.array(steered))
        scene.look({}, way="mixture", by_row={"pdi": pdi, "kdi": steered}, **_mean("pdi", pdi), **numbers)

    def _after(self, scene: Scene, row: Rows, questions: Sequence[str]) -> Items:
        """Log-probabilities of the tokens of one answer after several questions, (questions, tokens)."""
        modality = require(scene.modality, Prompted)
        return np.stack(logp(scene.model, modality, modality.reask(row.select([0] * len(questions)), questions, "foils")))

    def _steered(self, scene: Scene, row: Rows, questions: Sequence[str]) -> float:
        """KDI of one question: the mean over the model's own samples."""
        modality: Any = require(scene.modality, Generates)
        generator = torch.Generator().manual_seed(seed_of(self.seed, row.ids[0]))
        drawn = modality.generate(scene.model, row.select([0] * self.samples), self.length, generator)
        foils = modality.reask(row.select([0] * len(questions)), questions, "foils")
        values = []
        for ids, end in zip(drawn.ids, drawn.ends or [-1] * len(drawn.ids), strict=True):
            answer = [*ids, *([end] if end >= 0 else [])]
            if answer:
                same = foils.add(answer=[answer] * len(foils))
                log_probs = np.stack(list(_read(scene.model, modality, same, lambda output: output.log_probs)))
                values.append(float(information.steering(log_probs, answer).sum()))
        return float(np.mean(values)) if values else 0.0

    def _masked(self, scene: Scene, rows: Rows, questions: Sequence[str], own: Sequence[float]) -> None:
        from scipy.stats import wilcoxon

        common = lower_words(questions)
        names = [longest_name(q, common) for q in questions]
        named = [i for i, name in enumerate(names) if name]
        if not named:
            scene.lacks("no question has a name", "masked")
            return
        modality: Any = scene.modality
        masked = modality.reask(rows.select(named), [questions[i].replace(names[i], SOMEONE) for i in named], "masked")
        gain = np.array([own[i] - x.sum() for i, x in zip(named, logp(scene.model, modality, masked), strict=True)])
        p = float(wilcoxon(gain).pvalue) if gain.any() else 1.0
        scene.look({}, way="masked", by_row={"granger": gain}, **_mean("granger", gain), p_value=p, rows=float(len(gain)))


def nearest(questions: Sequence[str], others: Sequence[str]) -> list[list[int]]:
    """For each question, the places of others, the nearest in words (tf-idf) first."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(analyzer=words).fit([*questions, *others])
    likeness = (vectors.transform(questions) @ vectors.transform(others).T).toarray()
    return [np.argsort(-row, kind="stable").tolist() for row in likeness]


def logp(model: nn.Module, modality: Modality, rows: Rows) -> list[Items]:
    """Log-probabilities of the labels of each row, in nats."""
    return list(_read(model, modality, rows, lambda output: output.target_logp))


def _read(model: nn.Module, modality: Modality, rows: Rows, of: Callable[[Any], Any]) -> Iterator[Items]:
    for at in range(0, len(rows), ROWS):
        batch = rows.select(range(at, min(at + ROWS, len(rows))))
        yield from (x.double().cpu().numpy() for x in of(modality.forward(model, [batch])[0]).split())


def _mean(name: str, values: Items) -> dict[str, float]:
    """A mean over rows with its interval."""
    low, high = Measure((values,), np.mean).interval(1000)
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}


def beside(outcome: AttackOutcome, original: AttackOutcome | None, retrained: AttackOutcome | None) -> Iterator[Try]:
    """RIR: how much of the information that the original has beyond the retrained model is left."""
    pdi, pdi_original, pdi_retrained = (_pdi(o) for o in (outcome, original, retrained))
    if pdi is None or pdi_original is None:
        return
    ratio = information.residual_ratio(pdi, pdi_original, pdi_retrained)
    if np.isfinite(ratio):
        yield Try("residual", "beside the retrained model" if pdi_retrained is not None else "beside no information", {}, {"rir": ratio})


def _pdi(outcome: AttackOutcome | None) -> Items | None:
    values = next((t.items["pdi"] for t in outcome.tries if t.way == "mixture"), None) if outcome else None
    return None if values is None else np.asarray(values, np.float64)


def plan() -> SemanticInformation:
    return SemanticInformation()
