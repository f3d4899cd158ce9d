"""The case of entanglement: the fictitious people, forgotten by steering the output of a block, with two kinds of retain rows.

One kind has much in common with the rows to forget (other people, the same wording), the other little (facts about the world).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from expunge.benchmarks import presets
from expunge.core.rows import Rows
from expunge.evaluation.audited_models import Progress
from expunge.workflows import build_plan
from studies.cases import equal, people
from studies.cases.claims import Claim, Numbers
from studies.cases.updates import Forgotten

KINDS = {"high": "retain", "low": "world_facts"}  # the set that provides the retain rows of a kind
RIVAL = "rmu"


def _both(holds: Any) -> Any:
    return lambda n, me: all(holds(n[f"{me}, {kind}"], n[f"{RIVAL}, {kind}"]) for kind in KINDS)


CLAIMS: dict[str, tuple[Claim, ...]] = {
    "srmu": (
        Claim(
            "the probability of the answers to forget falls to at most half of the original's, at high and at low entanglement",
            lambda n, me: all(n[f"{me}, {k}"]["forget_probability"] <= 0.5 * n["original"]["forget_probability"] for k in KINDS),
        ),
        Claim(
            "rmu has then forgotten as far, by the loss of the forget rows",
            _both(lambda own, rival: rival["forget_loss"] >= own["forget_loss"] - 0.05),
        ),
        Claim(
            "at high entanglement what is left of the rest is more than with rmu",
            lambda n, me: n[f"{me}, high"]["model_utility"] > n[f"{RIVAL}, high"]["model_utility"],
        ),
        Claim(
            "at low entanglement it is no less, but for 0.02",
            lambda n, me: n[f"{me}, low"]["model_utility"] >= n[f"{RIVAL}, low"]["model_utility"] - 0.02,
        ),
    )
}


def overlap(first: Rows, second: Rows, base: people.Case) -> float:
    """Number of words in both sets, as a share of the words in either."""
    modality = base.original.modality
    first_words, second_words = (
        {w for text in [*modality.questions(r), *modality.answer_texts(r)] for w in text.lower().split()} for r in (first, second)
    )
    return len(first_words & second_words) / len(first_words | second_words)


class Case:
    """The people and the original model."""

    model = people.CASE.model

    def __init__(self, progress: Progress) -> None:
        self.case = equal.Case(progress)
        self.suite = self.case.suite

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Return scores of the original and, for both kinds of retain rows, of the method and its rival; and the hyperparameters."""
        case, modality = self.case, self.case.original.modality
        hyperparameters = presets.hyperparameters(people.CASE.suite, self.model, name)
        numbers: dict[str, Any] = {"original": case.scores(case.original.model, "original")}
        all_sets = case.sets
        for kind, source in KINDS.items():
            records = self.suite.train["retain"] if source == "retain" else self.suite.sets[source]
            case.use({**all_sets, "retain": modality.rows("retain", records)})
            numbers[f"{name}, {kind}"] = scores = dict(case.run(name, build_plan.plan(name, hyperparameters)[0]))
            scores["overlap"] = overlap(case.sets["forget"], case.sets["retain"], case.base)
            plan = build_plan.plan(RIVAL, {**presets.hyperparameters(people.CASE.suite, self.model, RIVAL), **equal.TOGETHER})[0]
            train = replace(plan.train, epochs=0, steps=equal.LONGEST)
            numbers[f"{RIVAL}, {kind}"] = case.run(RIVAL, replace(plan, stop_rules=(Forgotten(scores["forget_loss"]),), train=train))
        return numbers, hyperparameters
