"""The case of methods that hold the rest of a model without its data: the fictitious people, forgotten beside gradient ascent and negative
preference optimisation that have rows to forget and nothing else. All go at the same rate, and all end once the rows to forget are
remembered no better than people whom the model never saw.
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
    """The people, the original and the retrained model, seen once."""

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Numbers of the two models, of the baselines, and of the method; and the method's hyperparameters."""
        hyperparameters = presets.hyperparameters(people.CASE.suite, self.model, name)
        plan = build_plan.plan(name, hyperparameters)[0]
        plans = {"ga": replace(plan, action=Ascent(), selectors=()), "npo": replace(plan, action=NPO(), selectors=()), name: plan}
        numbers = {"original": people.shown(self.first), "retrained": people.shown(self.there)}
        for each, how in plans.items():
            self.progress(0, 1, f"{each}: forgetting")
            numbers[each] = self._after(each, how)
        return numbers, hyperparameters

    def _after(self, name: str, plan: Plan) -> dict[str, float]:
        """Numbers of the original after a plan, and its steps."""
        opened = Opened(copy.deepcopy(self.original.model), self.original.modality, self.original.source)
        rows, unseen = self.suite.train, self.suite.sets["holdout"]
        made = unlearn(plan, opened, rows["forget"], rows["retain"], holdout=unseen, allow_overlap=True)
        seen = self._see(Opened(made.model, made.modality, name), name)
        return {**people.shown(seen), "steps": float(made.receipt["cost"]["steps"])}
