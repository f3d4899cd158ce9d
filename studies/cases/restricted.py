"""The case of restricted gradients: a perceptron learns digits with and without the penalty, and then forgets a tenth of them in one step.

Each is compared with perceptrons trained in the same way without these rows; numbers are means over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from expunge.benchmarks import digits
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.evaluation.audited_models import Progress
from expunge.modalities.image.modality import Image, classifier_modality
from expunge.workflows import build_plan
from studies.cases.accuracy import accuracy
from studies.cases.claims import Claim, Numbers, pooled

SEEDS = 3
WEIGHTS = {"plain": 0.0, "gradient_restriction": 0.005}
TRAINED = {"epochs": 20, "lr": 3e-3, "batch_size": 64}
STEP = {"lr": 1e-3}  # of the step of iau, as in the paper

SMALLER = Claim(
    "a row of the training data pulls less at the weights: its gradient is shorter (root mean square)",
    lambda n, me: n[me]["pull"] < n["plain"]["pull"],
)
NEARER = Claim(
    "after one step of iau, accuracies on forgotten, retained and unseen rows are nearer to those of a model retrained in the same way",
    lambda n, me: n[me]["gap"] < n["plain"]["gap"],
)
AS_GOOD = Claim(
    "before that, accuracy on unseen rows is at most 0.02 lower", lambda n, me: n[me]["test_before"] >= n["plain"]["test_before"] - 0.02
)

CLAIMS: dict[str, tuple[Claim, ...]] = {"gradient_restriction": (SMALLER, NEARER, AS_GOOD)}


class Case:
    """Digits with a tenth to be forgotten, and perceptrons that know them."""

    model = "perceptron of 64 units"

    def __init__(self, progress: Progress) -> None:
        self.suite, self.progress = digits.load(split="random10"), progress
        self.modality: Image = classifier_modality(self.suite.labels)
        records = {"full": self.suite.train["full"], **self.suite.sets}
        self.rows = {n: self.modality.rows(n, r) for n, r in records.items()}

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Return mean scores over seeds, and the settings."""
        runs: dict[str, list[Mapping[str, float]]] = {}
        for seed in range(SEEDS):
            for way, weight in WEIGHTS.items():
                self.progress(seed, SEEDS, f"{way}: training and forgetting")
                runs.setdefault(way, []).append(self._scores(weight, seed))
        return {way: pooled(scores) for way, scores in runs.items()}, {**TRAINED, **STEP, "weights": WEIGHTS}

    def _scores(self, weight: float, seed: int) -> Mapping[str, float]:
        original, retrained = (self._trained(self.rows[n], weight, seed) for n in ("full", "retain"))
        before = accuracy(original, self.modality, self.rows["holdout"])
        pull = self._pull(original)
        loop.run(build_plan.plan("iau", STEP), original, self.modality, {n: self.rows[n] for n in ("forget", "retain")}, seed=seed)
        accuracies = {n: [accuracy(m, self.modality, self.rows[n]) for m in (original, retrained)] for n in ("forget", "retain", "holdout")}
        gap = fmean(abs(after - target) for after, target in accuracies.values())
        return {"pull": pull, "test_before": before, "gap": gap, **{n: after for n, (after, _) in accuracies.items()}}

    def _trained(self, rows: Rows, weight: float, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        loop.run(
            build_plan.plan("gradient_restriction", {**TRAINED, "weight": weight}),
            model,
            self.modality,
            {"retain": rows.rename("retain")},
            seed=seed,
        )
        return model

    def _pull(self, model: nn.Module) -> float:
        """The root mean square, over training rows, of the norm of the gradient of a row's loss."""
        sets = {"retain": self.rows["full"]}
        view = RunView(loop.new_state(model, self.modality, Accelerator(), sets=sets), sets)
        return math.sqrt(sum(float(f.sum()) for f in view.fisher(self.rows["full"], draws=None)))
