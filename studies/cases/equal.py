"""The case of equal forgetting: the fictitious people, forgotten by a method, and by its rivals until the rows to forget are as improbable.

How much of a model survives depends on how much was forgotten, so rivals go on, step by step at their own rate, until the loss of the rows
to forget is as high as the method left it. Every batch holds all of those rows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from expunge.benchmarks import presets
from expunge.core.modality import ModelOutput
from expunge.core.plan import Plan
from expunge.core.rows import Sets
from expunge.engine import loop
from expunge.engine.run_state import evaluating
from expunge.evaluation.audited_models import Progress, examine
from expunge.io.models import cache_home
from expunge.workflows import build_plan
from studies.cases import people
from studies.cases.claims import Claim, Numbers
from studies.cases.updates import Forgotten

TOGETHER = {"batch_size": 36, "schedule": "constant", "warmup": 0}  # all rows to forget, and a rate that leaves every step its length
LONGEST = 200  # steps of a rival

FORGETS = Claim(
    "the probability of the answers to forget falls to at most half of the original's",
    lambda n, me: n[me]["forget_probability"] <= 0.5 * n["original"]["forget_probability"],
)
AS_FAR = Claim(
    "its rivals have forgotten as far, by the loss of the forget rows",
    lambda n, me: all(s["forget_loss"] >= n[me]["forget_loss"] - 0.05 for m, s in n.items() if m in RIVALS[me]),
)
KEEPS_MORE = Claim(
    "utility stays above that of gradient ascent and of npo without retain rows",
    lambda n, me: all(n[me]["model_utility"] > n[m]["model_utility"] for m in RIVALS[me]),
)
CLOSER = Claim(
    "what it says of the retain rows stays closer to the original, by KL, than with graddiff",
    lambda n, me: all(n[me]["retain_kl"] < n[m]["retain_kl"] for m in RIVALS[me]),
)
RIVALS: dict[
    str, dict[str, tuple[str, dict[str, Any]]]
] = {  # of each method, what they are called: which method, with which hyperparameters
    "pop": {"ga": ("ga", {}), "npo alone": ("npo", {"retain_weight": 0.0})},
    "kfade": {"graddiff": ("graddiff", {})},
    "dto": {"ga": ("ga", {}), "npo alone": ("npo", {"retain_weight": 0.0})},
}
# There are nine times as many rows to retain, which is the weight that the identity behind pop asks for.
SETTINGS: dict[str, dict[str, Any]] = {"pop": {"batch_size": 36, "epochs": 30, "lr": 1e-3, "retain_weight": 9.0}}
CLAIMS: dict[str, tuple[Claim, ...]] = {
    "pop": (FORGETS, AS_FAR, KEEPS_MORE),
    "dto": (FORGETS, AS_FAR, KEEPS_MORE),
    "kfade": (FORGETS, AS_FAR, CLOSER),
}


class Case:
    """The people, and the original model."""

    model = people.CASE.model

    def __init__(self, progress: Progress) -> None:
        self.base = people.Case(progress)
        self.suite, self.original, self.progress = self.base.suite, self.base.original, progress
        self.use({n: self.original.modality.rows(n, self.suite.train[n]) for n in ("forget", "retain")})

    def use(self, sets: Sets) -> None:
        """Take other rows to train on and to compare with the original on."""
        self.sets = sets
        self.before = {n: self._ask(self.original.model, n) for n in sets}

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Numbers of the original, of the method and of its rivals; and the method's hyperparameters."""
        hyperparameters = {**presets.hyperparameters(people.CASE.suite, self.model, name), **SETTINGS.get(name, {})}
        numbers = {"original": self.scores(self.original.model, "original")}
        numbers[name] = self.run(name, build_plan.plan(name, hyperparameters)[0])
        for rival, (method, more) in RIVALS[name].items():
            known = {k.name for k in build_plan.hyperparameters(method)}
            own = {
                **presets.hyperparameters(people.CASE.suite, self.model, method),
                **more,
                **{k: v for k, v in TOGETHER.items() if k in known},
            }
            plan = build_plan.plan(method, own)[0]
            train = replace(plan.train, epochs=0, steps=LONGEST)
            numbers[rival] = self.run(rival, replace(plan, stop_rules=(Forgotten(numbers[name]["forget_loss"]),), train=train))
        return numbers, hyperparameters

    def run(self, name: str, plan: Plan) -> Mapping[str, float]:
        model = copy.deepcopy(self.original.model)
        self.progress(0, 1, f"{name}: forgetting")
        done = loop.run((plan,), model, self.original.modality, self.sets)
        return {**self.scores(model, name), "steps": float(done.cost.steps)}

    def scores(self, model: torch.nn.Module, name: str) -> dict[str, float]:
        more = {"retrained": self.base.there.seen, "cache": cache_home() / "observations", "progress": self.progress}
        seen = examine(model, self.original.modality, self.suite.sets, name=name, **more)
        now = {n: self._ask(model, n) for n in self.sets}
        losses = {f"{n}_loss": float(-torch.cat([a.target_logp.mean() for a in answers]).mean()) for n, answers in now.items()}
        pairs = [(a.log_probs.values, b.log_probs.values) for a, b in zip(self.before["retain"], now["retain"], strict=True)]
        kl = torch.cat([(old.exp() * (old - new)).sum(-1) for old, new in pairs]).mean()
        return {
            **{n: float(seen.scores[n]["value"]) for n in ("model_utility", "forget_probability", "remnant_memorization_accuracy")},
            **losses,
            "retain_kl": float(kl),
        }

    @torch.no_grad()
    def _ask(self, model: torch.nn.Module, name: str) -> list[ModelOutput]:
        rows = self.sets[name]
        parts = [rows.select(range(i, min(i + 32, len(rows)))) for i in range(0, len(rows), 32)]
        with evaluating(model):
            return [a for part in parts for a in self.original.modality.forward(model, [part])]
