"""The case of methods that preserve a model without retain data, on the fictitious people.

The baselines are gradient ascent and negative preference optimization with the rows to forget alone. All have the same learning rate, and
all stop as soon as the model remembers the rows to forget no better than people whom it never saw.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from expunge.benchmarks import presets
from expunge.core.plan import Plan
from expunge.io.models import Opened
from expunge.methods.objectives.npo import NPO
from expunge.methods.terms import Ascent
from expunge.workflows import build_plan
from expunge.workflows.unlearn import unlearn
from studies.cases import people
from studies.cases.claims import Claim, Numbers

SPARES = Claim(
    "utility stays above those of ga and npo without retain data at the same rate, ended by the same scores of memory",
    lambda n, me: n[me]["model_utility"] > max(n["ga"]["model_utility"], n["npo"]["model_utility"]),
)
CLAIMS: dict[str, tuple[Claim, ...]] = {"icu": (people.FORGETS, SPARES, people.KEEPS)}


class Case(people.Case):
    """The people, and the original and the retrained model with their audits."""

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Return scores of the two models, of the baselines and of the method; and the method's hyperparameters."""
        hyperparameters = presets.hyperparameters(people.CASE.suite, self.model, name)
        plan = build_plan.plan(name, hyperparameters)[0]
        plans = {"ga": replace(plan, action=Ascent(), selectors=()), "npo": replace(plan, action=NPO(), selectors=()), name: plan}
        numbers = {"original": people.shown(self.original_audit), "retrained": people.shown(self.retrained_audit)}
        for method, method_plan in plans.items():
            self.progress(0, 1, f"{method}: forgetting")
            numbers[method] = self._after(method, method_plan)
        return numbers, hyperparameters

    def _after(self, name: str, plan: Plan) -> dict[str, float]:
        """Scores of the original after a plan, and the number of steps."""
        opened = Opened(copy.deepcopy(self.original.model), self.original.modality, self.original.source)
        rows, unseen = self.suite.train, self.suite.sets["holdout"]
        result = unlearn(plan, opened, rows["forget"], rows["retain"], holdout=unseen, allow_overlap=True)
        audited = self._audit(Opened(result.model, result.modality, name), name)
        return {**people.shown(audited), "steps": float(result.receipt["cost"]["steps"])}
