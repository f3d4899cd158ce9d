"""The case of equal forgetting: a method forgets the fictitious people, and its rivals train until their forget loss is as high.

The utility of a model depends on how much it forgot. Each rival therefore trains, with its own learning rate, until its loss on the rows to
forget is as high as the loss after the method. Every batch contains all rows to forget.
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

TOGETHER = {"batch_size": 36, "schedule": "constant", "warmup": 0}  # all rows to forget in each step, with a constant learning rate
LONGEST = 200  # the most steps of a rival

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
# By method the names of its rivals, each with its method and hyperparameters.
RIVALS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "pop": {"ga": ("ga", {}), "npo alone": ("npo", {"retain_weight": 0.0})},
    "kfade": {"graddiff": ("graddiff", {})},
    "dto": {"ga": ("ga", {}), "npo alone": ("npo", {"retain_weight": 0.0})},
}
# pop requires this weight, because there are nine times as many rows to retain as to forget.
SETTINGS: dict[str, dict[str, Any]] = {"pop": {"batch_size": 36, "epochs": 30, "lr": 1e-3, "retain_weight": 9.0}}
CLAIMS: dict[str, tuple[Claim, ...]] = {
    "pop": (FORGETS, AS_FAR, KEEPS_MORE),
    "dto": (FORGETS, AS_FAR, KEEPS_MORE),
    "kfade": (FORGETS, AS_FAR, CLOSER),
}


class Case:
    """The people and the original model."""

    model = people.CASE.model

    def __init__(self, progress: Progress) -> None:
        self.base = people.Case(progress)
        self.suite, self.original, self.progress = self.base.suite, self.base.original, progress
        self.use({n: self.original.modality.rows(n, self.suite.train[n]) for n in ("forget", "retain")})

    def use(self, sets: Sets) -> None:
        """Set the rows for training and for the comparison with the original."""
        self.sets = sets
        self.original_outputs = {n: self._forward(self.original.model, n) for n in sets}

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Return scores of the original, of the method and of its rivals; and the method's hyperparameters."""
        hyperparameters = {**presets.hyperparameters(people.CASE.suite, self.model, name), **SETTINGS.get(name, {})}
        numbers = {"original": self.scores(self.original.model, "original")}
        numbers[name] = self.run(name, build_plan.plan(name, hyperparameters)[0])
        for rival, (method, extra) in RIVALS[name].items():
            known = {k.name for k in build_plan.hyperparameters(method)}
            hyperparameters_of_rival = {
                **presets.hyperparameters(people.CASE.suite, self.model, method),
                **extra,
                **{k: v for k, v in TOGETHER.items() if k in known},
            }
            plan = build_plan.plan(method, hyperparameters_of_rival)[0]
            train = replace(plan.train, epochs=0, steps=LONGEST)
            numbers[rival] = self.run(rival, replace(plan, stop_rules=(Forgotten(numbers[name]["forget_loss"]),), train=train))
        return numbers, hyperparameters

    def run(self, name: str, plan: Plan) -> Mapping[str, float]:
        """Scores and number of steps of the original after a plan."""
        model = copy.deepcopy(self.original.model)
        self.progress(0, 1, f"{name}: forgetting")
        done = loop.run((plan,), model, self.original.modality, self.sets)
        return {**self.scores(model, name), "steps": float(done.cost.steps)}

    def scores(self, model: torch.nn.Module, name: str) -> dict[str, float]:
        """Scores of a model; `retain_kl` is the divergence from the original on the retain rows, in nats."""
        options = {"retrained": self.base.retrained_audit.observation, "cache": cache_home() / "observations", "progress": self.progress}
        audited = examine(model, self.original.modality, self.suite.sets, name=name, **options)
        outputs_now = {n: self._forward(model, n) for n in self.sets}
        losses = {f"{n}_loss": float(-torch.cat([o.target_logp.mean() for o in outputs]).mean()) for n, outputs in outputs_now.items()}
        both = zip(self.original_outputs["retain"], outputs_now["retain"], strict=True)
        pairs = [(old.log_probs.values, new.log_probs.values) for old, new in both]
        kl = torch.cat([(old.exp() * (old - new)).sum(-1) for old, new in pairs]).mean()
        return {
            **{n: float(audited.scores[n]["value"]) for n in ("model_utility", "forget_probability", "remnant_memorization_accuracy")},
            **losses,
            "retain_kl": float(kl),
        }

    @torch.no_grad()
    def _forward(self, model: torch.nn.Module, name: str) -> list[ModelOutput]:
        rows = self.sets[name]
        parts = [rows.select(range(i, min(i + 32, len(rows)))) for i in range(0, len(rows), 32)]
        with evaluating(model):
            return [output for part in parts for output in self.original.modality.forward(model, [part])]
