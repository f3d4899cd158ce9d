"""The case of updates: the fictitious people, forgotten with an update, and without it until the forget loss is at least as high.

Two models with the same forget loss may differ: one of them may relearn sooner, or may have lost more of its other knowledge. A mask is
compared with a random mask of the same size, and an objective that ablates a feature with the same objective without ablation. Numbers are
means over seeds; the attacker has the same few rows each time.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from expunge.benchmarks import presets
from expunge.core.hyperparameters import hp, override, part
from expunge.core.parts import Stop
from expunge.core.plan import Plan
from expunge.core.rows import Sets
from expunge.core.view import View
from expunge.engine import loop
from expunge.evaluation.attacks import relearn
from expunge.evaluation.audited_models import Progress
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.observe import observe
from expunge.workflows import build_plan
from studies.cases import people
from studies.cases.claims import Claim, Numbers, pooled

SEEDS = 3
ATTACK = {"k": 9, "steps": 10, "batch_size": 9, "lr": 3e-4}
SPEC = ObservationSpec(generations=False, moments=False, gradient_norms=False)
WITHOUT = "without"  # the comparison: the same objective without the update, or with a random mask

AS_FAR = Claim(
    "what it is compared with has forgotten as far, by the loss of the forget rows",
    lambda n, me: n[WITHOUT]["forget_loss"] >= n[me]["forget_loss"] - 0.05,
)
SLOWER = Claim(
    "after ten steps of relearning on a quarter of the rows the forget loss stays higher than without it",
    lambda n, me: n[me]["relearned_loss"] > n[WITHOUT]["relearned_loss"],
)
SPARES = Claim("the retain loss stays lower than without the update", lambda n, me: n[me]["retain_loss"] < n[WITHOUT]["retain_loss"])
SPARES_MORE = Claim(
    "the retain loss stays lower than with a random mask of the same size", lambda n, me: n[me]["retain_loss"] < n[WITHOUT]["retain_loss"]
)
CLAIMS: dict[str, tuple[Claim, ...]] = {
    **dict.fromkeys(("sam", "random_smoothing", "gradient_penalty", "curvature", "weight_averaging"), (AS_FAR, SLOWER)),
    "eru": (AS_FAR, SLOWER),
    "gradient_projection": (AS_FAR, SPARES),
    "wagle": (AS_FAR, SPARES_MORE),
}
# Every batch contains all rows to forget, so that the comparison can stop after any step; a constant rate gives both runs one path.
SETTINGS = {"batch_size": 36, "schedule": "constant", "warmup": 0}
LONGEST = 3  # the most steps of the comparison, relative to the method


@part
class Forgotten(Stop):
    """Stop once the loss of the rows to forget is high enough."""

    loss: float = hp(1.0, "mean loss of a label at which enough is forgotten")
    reads = frozenset({"forget"})

    def stop(self, view: View) -> str | None:
        loss = -float(view.now(view.forget).target_logp.mean().mean())
        return f"a forget loss of {loss:.3g}" if loss >= self.loss else None


class Case:
    """The people and the original model."""

    model = people.CASE.model

    def __init__(self, progress: Progress) -> None:
        base = people.Case(progress)
        self.suite, self.original, self.progress = base.suite, base.original, progress
        rows = self.suite.train
        self.sets: Sets = {n: self.original.modality.rows(n, rows[n]) for n in ("forget", "retain")}

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Return losses with and without the update, before and after relearning; and the method's hyperparameters."""
        known = {k.name for k in build_plan.hyperparameters(name)}
        hyperparameters = {
            **presets.hyperparameters(people.CASE.suite, self.model, name),
            **{k: v for k, v in SETTINGS.items() if k in known},
        }
        runs: dict[str, list[Mapping[str, float]]] = {name: [], WITHOUT: []}
        for seed in range(SEEDS):
            self.progress(seed, SEEDS, f"{name}: forgetting and relearning")
            plan = build_plan.plan(name, {**hyperparameters, "seed": seed})[0]
            runs[name].append(self._run(plan))
            runs[WITHOUT].append(self._run(without(name, plan, runs[name][-1]["forget_loss"])))
        means = {m: pooled(scores) for m, scores in runs.items()}
        return {"original": self._losses(self.original.model), **means}, hyperparameters

    def _run(self, plan: Plan) -> dict[str, float]:
        model, modality = copy.deepcopy(self.original.model), self.original.modality
        result = loop.run((plan,), model, modality, self.sets)
        scores = {**self._losses(model), "steps": float(result.cost.steps)}
        loop.run((override(relearn.plan(), ATTACK).how,), model, modality, {"forget": self.sets["forget"]})
        return {**scores, "relearned_loss": self._losses(model)["forget_loss"]}

    def _losses(self, model: nn.Module) -> dict[str, float]:
        """Mean over rows of the mean loss of their labels, in nats."""
        observation = observe(model, self.original.modality, {n: self.suite.train[n] for n in ("forget", "retain")}, wants=SPEC)
        return {f"{n}_loss": float(-s.kinds["answer"].mean_logp().mean()) for n, s in observation.sets.items()}


def without(name: str, plan: Plan, loss: float) -> Plan:
    """The plan to compare with: the same plan without the update or the ablation, until the forget loss reaches `loss`."""
    if name == "eru":
        plan = override(plan, {"ablated": 0.0})
    updates: Any = ()
    if name == "wagle":
        updates = build_plan.plan("wagle", {"score": "random", "fraction": plan.updates[0].fraction})[0].updates  # type: ignore[attr-defined]
    steps = LONGEST * (plan.train.steps or plan.train.epochs)
    return replace(plan, updates=updates, stop_rules=(Forgotten(loss),), train=replace(plan.train, epochs=0, steps=steps))
