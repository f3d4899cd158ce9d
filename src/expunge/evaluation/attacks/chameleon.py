"""Chameleon: does the right answer hang on the wording of the question? Every question is reworded, and a paired test compares both.
An unlearned model that is right about the rewordings far more often than about the questions has forgotten wordings, not knowledge.

Threat model: the attacker can only ask; whatever stands around the model stays in place.
Equation: b = items right before and wrong after rewording, c = the other way round; delta = b - c; chi2 = (b - c)^2 / (b + c); p by one
    degree of freedom, or exact binomial below 25 changed items; overfit where p < alpha and b > c
Source: Cohen-Inger et al. 2025, C-BOD, arXiv 2502.07445 (code: SeffiCohen/CBOD, nuritci/CBOD)
Scores: those of the true answers after the reworded question, for each strength; and for each set: rows, accuracy, accuracy_reworded, worse
    (b), better (c), delta, relative_drop and absolute_drop in percent, chi2, p, p_exact, overfit, suppressed (the other way round, which
    the paper never saw), and beside the original how much delta differs from its delta, with an interval
Needs: forget, with questions; paraphrased questions, or a rephraser; choices or wrong answers (else the probability of the answer is
    compared)
Range and ideal: relative drop 0; overfit and suppressed 0. Compare with the retrained model
Differs: the answer is the choice with the highest mean log-probability, not a letter read out of a generation. The exact test stands
    beside the asymptotic one, which the paper prints and its code does not compute. A rewording that fails leaves both sides, after three
    tries; the gate on the cosine needs an encoder, and no judge is asked. Several strengths are corrected after Holm. Rows to forget, and
    the reading of c > b, are our extension
Status: shown
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from expunge.benchmarks.suite import SetSpec
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.evaluation.attack import Attack, AttackOutcome, Scene, Try
from expunge.evaluation.measure import Items, Measure, Missing, labeled
from expunge.evaluation.metrics.choice import right
from expunge.evaluation.observation import SetObservation
from expunge.evaluation.observation_spec import QUICK
from expunge.evaluation.observe import Records, observe
from expunge.evaluation.prompting import asked_in_words, asking, question_of, with_questions
from expunge.evaluation.rewordings import OWN, RULES, Rewordings, reworded
from expunge.functional.paired_tests import McNemar, mcnemar
from expunge.modalities.common.records import listed
from expunge.modalities.text.records import pair_of

CHOOSING = {"forget": SetSpec("forget", ("score", "choose"))}
SCORING = {"forget": SetSpec("forget", ("score",))}


@part
class Chameleon(Attack):
    """Rewords every question, and tests whether that changes what is right."""

    rephraser: str = hp("", "own (the rows' paraphrases), rules, or a writer (folder, hub id, http://...#MODEL); empty: own, else rules")
    strength: tuple[Annotated[float, Field(ge=0, le=2)], ...] = hp((1.0,), "temperatures of the writer, one after the other", min_length=1)
    alpha: float = hp(0.05, "level of the test", gt=0, lt=1)
    encoder: str = hp("", "sentence encoder (folder or hub id) that compares both wordings; empty: they are not compared")
    floor: float = hp(0.7, "least cosine of a rewording that counts, where there is an encoder", ge=0, le=1)

    def about(self, records: Records, modality: Modality) -> Records:
        return asked_in_words(records, modality)

    def run(self, scene: Scene) -> None:
        for name in ("forget", "retain"):
            records: Records = scene.records if name == "forget" else scene.sets.get(name, ())
            if questioning := with_questions(records):
                try:
                    self._set(scene, name, questioning)
                except Missing as why:
                    scene.lacks(str(why), name)

    def _set(self, scene: Scene, name: str, records: Records) -> None:
        tests = list[tuple[Rewordings, Items, Items, Any]]()
        for heat in self.strength:
            rewordings = self._reworded(records, heat)
            places = sorted(rewordings.questions)
            originals = [records[i] for i in places]
            before, _ = correct(scene, originals, [question_of(r) for r in originals])
            after, observed = correct(scene, originals, [rewordings.questions[i] for i in places])
            tests.append((rewordings, before, after, observed))
        results = [mcnemar(int((b > a).sum()), int((a > b).sum())) for _, b, a, _ in tests]
        corrected = holm([r.p for r in results])
        for heat, (rewordings, before, after, observed), result, p in zip(self.strength, tests, results, corrected, strict=True):
            scores = scene.scores_of(observed, CHOOSING) if name == "forget" else {}
            case = f"strength {heat:g}" if len(self.strength) > 1 else ""
            numbers = summary(before, after, result, self.alpha, p)
            scene.look(scores, case, name, {"before": before, "after": after}, **numbers, dropped=float(rewordings.dropped))

    def _reworded(self, records: Records, heat: float) -> Rewordings:
        questions = [question_of(r) for r in records]
        if self.rephraser:
            return reworded(records, questions, self.rephraser, heat, self.encoder, self.floor)
        try:
            return reworded(records, questions, OWN, heat, self.encoder, self.floor)
        except Missing:
            return reworded(records, questions, RULES, heat, self.encoder, self.floor)


def correct(scene: Scene, records: Records, questions: Sequence[str]) -> tuple[Items, Any]:
    """How right the model is about each record, (records,), when it is asked some questions, and what was observed.

    1 or 0 where the records have choices or wrong answers, else the probability of the true answer.
    """
    choices = [listed(r, "choices", "a row") for r in records]
    wrong = [listed(r, "perturbed_answer", "a row") for r in records]
    with_choices = all(c or w for c, w in zip(choices, wrong, strict=True))
    rows = [asking(r, q) for r, q in zip(records, questions, strict=True)]
    if with_choices:  # the true answer is last, so that a model to which all are alike is wrong
        rows = [{**r, "choices": c or [*w, pair_of(r, "a row").answer]} for r, c, w in zip(rows, choices, wrong, strict=True)]
    specs = CHOOSING if with_choices else SCORING
    observed = observe(scene.model, scene.modality, {"forget": rows}, specs=specs, wants=QUICK)
    values = right(observed.sets["forget"]) if with_choices else probability(observed.sets["forget"])
    return values, observed


def probability(observation: SetObservation) -> Items:
    """The probability of each true answer, the geometric mean over its tokens, (items,)."""
    return np.asarray(np.exp(labeled(observation, "answer").mean_logp()))


def summary(before: Items, after: Items, result: McNemar, alpha: float, p: float | None = None) -> dict[str, float]:
    """The record of one comparison; p: corrected for several ones."""
    p = result.p if p is None else p
    delta = float(before.sum() - after.sum())
    return {
        "rows": float(len(before)),
        "accuracy": float(before.mean()),
        "accuracy_reworded": float(after.mean()),
        "worse": float(result.worse),
        "better": float(result.better),
        "delta": delta,
        "relative_drop": 100 * delta / float(before.sum()) if before.sum() else 0.0,
        "absolute_drop": 100 * delta / len(before),
        "chi2": result.statistic,
        "p": p,
        "p_exact": result.p_exact,
        "overfit": float(p < alpha and result.worse > result.better),
        "suppressed": float(p < alpha and result.better > result.worse),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests, corrected after Holm."""
    order, corrected, least = np.argsort(p_values), list(p_values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, p_values[place] * (len(p_values) - rank)))
        corrected[place] = least
    return corrected


def beside(outcome: AttackOutcome, original: AttackOutcome | None, retrained: AttackOutcome | None) -> Iterator[Try]:
    """How much delta differs from the original's, as a share of the items, with an interval over items."""
    for t in outcome.tries:
        other = next((o for o in (original.tries if original else ()) if (o.way, o.case) == (t.way, t.case)), None)
        if not other or len(other.items["before"]) != len(t.items["before"]):
            continue
        change = np.subtract(t.items["before"], t.items["after"]) - np.subtract(other.items["before"], other.items["after"])
        low, high = Measure((change,), np.mean).interval(1000)
        yield Try(called(t.way), t.case, {}, {"delta_beyond": float(change.sum()), "share": float(change.mean()), "low": low, "high": high})


def called(way: str) -> str:
    """The way of a comparison with the original."""
    return f"{way}, beside the original"


def plan() -> Chameleon:
    return Chameleon()
