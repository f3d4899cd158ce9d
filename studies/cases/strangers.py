"""The case of refusals: the fictitious people, and strangers whom the model was taught to know nothing about. Methods that redirect to that
answer are held against trained ones with the hyperparameters of `recipes` for the people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from expunge.benchmarks import presets
from expunge.evaluation.audited_models import AuditedModel
from expunge.io.models import Opened
from expunge.workflows.sweep import Sweep
from studies.cases import people
from studies.cases.claims import Claim, Numbers

CASE = Sweep("strangers", (), model="micro")
BASELINES = ("ga", "graddiff", "kl", "idk", "npo")

REFUSES = Claim("at least half of the questions to forget are answered with a refusal", lambda n, me: n[me]["refused"] >= 0.5)
DEVIATES_LEAST = Claim(
    "the deviation score, of ROUGE-L on forget and retain rows, is lower than those of ga, graddiff, kl, idk and npo",
    lambda n, me: n[me]["deviation"] < min(n[m]["deviation"] for m in BASELINES),
)
SILENT = Claim("the true answers to forget are gone: forget_rouge is at most 0.1", lambda n, me: n[me]["forget_rouge"] <= 0.1)
QUICK = Claim("passes through the model cost less than half of npo's", lambda n, me: n[me]["cost"] <= 0.5 * n["npo"]["cost"])

CLAIMS: dict[str, tuple[Claim, ...]] = {
    "lunar": (people.FORGETS, REFUSES, people.KEEPS, DEVIATES_LEAST),
    "stamp": (people.FORGETS, REFUSES, people.KEEPS, SILENT, QUICK),
}


class Case(people.Case):
    """People and strangers, the original and the retrained model, seen once."""

    sweep = CASE
    model = CASE.model

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Numbers of the two models, of the baselines, and of the method; and the method's hyperparameters."""
        hyperparameters = presets.hyperparameters(CASE.suite, CASE.model, name)
        numbers = {s.name: shown(s, self.suite.refusals) for s in (self.first, self.there)}
        for other in (*BASELINES, name):
            made = self.made(other, hyperparameters if other == name else presets.hyperparameters("people", CASE.model, other))
            seen = self._see(Opened(made.model, made.modality, other), other)
            numbers[other] = {**shown(seen, self.suite.refusals), "cost": made.receipt["cost"]["flops"] / 1e9}
        return numbers, hyperparameters


def shown(audited: AuditedModel, refusals: Sequence[str]) -> dict[str, float]:
    """The scores that are compared, the share of questions to forget that are refused, and the deviation score: 100 times the distance from
    no word of the answers to forget and every word of those to retain.
    """
    scores, said = people.shown(audited), audited.seen.sets["forget"].generations
    refused = sum(text.strip() in refusals for text in said) / len(said)
    return {**scores, "refused": refused, "deviation": 100 * math.hypot(scores["forget_rouge"], 1 - scores["retain_rouge"])}
