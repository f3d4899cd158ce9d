"""The case of refusals: the fictitious people, and strangers about whom the model learned to say that it knows nothing.

Methods that redirect to this answer are compared with trained methods, which have the preset hyperparameters for the people.
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
    """People and strangers, and the original and the retrained model with their audits."""

    sweep = CASE
    model = CASE.model

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Return scores of the two models, of the baselines and of the method; and the method's hyperparameters."""
        hyperparameters = presets.hyperparameters(CASE.suite, CASE.model, name)
        numbers = {a.name: shown(a, self.suite.refusals) for a in (self.original_audit, self.retrained_audit)}
        for method in (*BASELINES, name):
            result = self.unlearn(method, hyperparameters if method == name else presets.hyperparameters("people", CASE.model, method))
            audited = self._audit(Opened(result.model, result.modality, method), method)
            numbers[method] = {**shown(audited, self.suite.refusals), "cost": result.receipt["cost"]["flops"] / 1e9}
        return numbers, hyperparameters


def shown(audited: AuditedModel, refusals: Sequence[str]) -> dict[str, float]:
    """The scores to compare.

    They include the share of refused forget questions and the deviation score. This score is 100 times the distance from the ideal: no word
    of the forget answers and every word of the retain answers.
    """
    scores, answers = people.shown(audited), audited.observation.sets["forget"].generations
    refused = sum(text.strip() in refusals for text in answers) / len(answers)
    return {**scores, "refused": refused, "deviation": 100 * math.hypot(scores["forget_rouge"], 1 - scores["retain_rouge"])}
