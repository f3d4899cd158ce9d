"""The case of many models: a small residual network, trained many times on some hundred handwritten digits.

The outputs of one model can then be compared with the outputs of models that never saw a row.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from expunge.benchmarks import digits, presets
from expunge.core.modality import Weights
from expunge.core.plan import Plans
from expunge.core.rows import Rows
from expunge.engine.ensemble import Ensemble, subsets
from expunge.evaluation.attacks import mia_nn, u_lira
from expunge.evaluation.audited_models import Progress
from expunge.evaluation.metrics.klom import klom, summary
from expunge.parallel import ensembles
from expunge.workflows import build_plan
from expunge.workflows.train import start
from studies.cases.claims import Claim, Numbers

TRAINED = {"epochs": 15, "lr": 3e-3, "batch_size": 32, "warmup": 0, "weight_decay": 0.0}
ROWS = 300  # training images
SHADOWS = 16  # of the attack on an unlearning method
ORACLES = 16  # retrained models, and as many unlearned models, to compare margins
FORGOTTEN = "3"  # the class to be forgotten
RETRAINED, ORIGINALS = 4, 3  # models that never saw the class, and models that are to forget it; a single model is too noisy
CANDIDATES = 60  # rows of an attack
SMALL, FEW = 120, 12  # rows, and rows to forget, to compare margins; few, because a datamodel needs more models than rows
MODELS = 240  # for the datamodel

# Settings at which each method forgets here; attack and comparison judge the result.
SETTINGS: dict[str, dict[str, Any]] = {
    "retrain": TRAINED,
    "neggrad": {"lr": 1e-3, "batch_size": 32, "epochs": 5},
    "neggrad_plus": {"lr": 1e-2, "batch_size": 32, "epochs": 3, "momentum": 0.9},
    "random_labels": {"form": "amnesiac", "lr": 3e-3, "batch_size": 32, "epochs": 6},
    "scrub": {"lr": 2e-3, "weight_decay": 0.0},
    "dmm": {"match.lr": 1e-3, "match.batch_size": 32, "match.epochs": 20, "retain_multiplier": 5.0, "ridge": 10.0},
}

VISIBLE = Claim(
    "neggrad and random labels are told from never-seen rows more often than retraining, by 0.1 or more",
    lambda n, me: min(n["neggrad"]["accuracy"], n["random_labels"]["accuracy"]) >= n["retrain"]["accuracy"] + 0.1,
)
CHANCE = Claim("retraining is told from it hardly more often than chance: at most 0.6", lambda n, me: n["retrain"]["accuracy"] <= 0.6)
SIMILAR = Claim(
    "forgotten digits look like the nearest class as they do to retrained models, more than after neggrad and random labels, on average",
    lambda n, me: n["trw"]["gap"] < min(n["neggrad"]["gap"], n["random_labels"]["gap"]),
)
NEAREST = Claim(
    "margins on forgotten rows are nearer to the retrained models' than those of neggrad, neggrad_plus and scrub, by KLoM",
    lambda n, me: n["dmm"]["klom_forget"] < min(n[m]["klom_forget"] for m in ("neggrad", "neggrad_plus", "scrub")),
)
UNHARMED = Claim(
    "margins on unseen rows are no farther from the retrained models' than those of the original, but for 0.5",
    lambda n, me: n["dmm"]["klom_test"] <= n["original"]["klom_test"] + 0.5,
)

CLAIMS: dict[str, tuple[Claim, ...]] = {"u_lira": (VISIBLE, CHANCE), "trw": (SIMILAR,), "dmm": (NEAREST, UNHARMED)}
COMPARED = {
    "u_lira": ("retrain", "neggrad", "random_labels"),
    "trw": ("neggrad", "random_labels", "trw"),
    "dmm": ("neggrad", "neggrad_plus", "scrub", "dmm"),
}


class Case:
    """Digits, an untrained network, and its training plan."""

    model = "resnet-nano"

    def __init__(self, progress: Progress) -> None:
        self.suite, self.progress = digits.load(), progress
        records = [*self.suite.train["forget"], *self.suite.train["retain"]]
        drawn = torch.randperm(len(records), generator=torch.Generator().manual_seed(0))[:ROWS].tolist()
        random_init = start(self.model, records, labels=tuple(self.suite.labels))
        self.random_init, self.modality = random_init.model, random_init.modality
        self.all = self.modality.rows("retain", records)
        self.rows = self.all.select(drawn)
        self.unseen = self.modality.rows("holdout", self.suite.sets["holdout"])
        self.plan = build_plan.plan("retrain", TRAINED)
        self.hyperparameters = SETTINGS

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Return scores of the methods that a claim is about, and their hyperparameters."""
        if name == "trw":  # a class, as in the presets; with all rows, because models of few rows differ too much
            self.rows, self.hyperparameters = self.all, {m: presets.hyperparameters("digits", self.model, m) for m in COMPARED[name]}
        if name == "dmm":
            self.rows = self.rows.select(range(SMALL))
        numbers = {"u_lira": self._attacked, "trw": self._nearest, "dmm": self._margins}[name](COMPARED[name])
        return numbers, {m: self.hyperparameters[m] for m in COMPARED[name]}

    def _plans(self, method: str) -> Plans:
        return build_plan.plan(method, self.hyperparameters[method])

    def _attacked(self, methods: Sequence[str]) -> Numbers:
        numbers = {}
        for method in methods:
            self.progress(0, 1, f"{method}: shadow models")
            scores = u_lira.attack(
                self.random_init, self.modality, self.rows, self.plan, self._plans(method), candidates=CANDIDATES, shadows=SHADOWS
            )
            numbers[method] = {n: scores[n] for n in ("accuracy", "auc")}
        return numbers

    def _pool(self, rows: Rows, models: int, seed: int) -> Ensemble:
        """Models trained on all of these rows, each with its own seed."""
        return ensembles.train(
            self.plan, self.random_init, self.modality, rows.rename("retain"), torch.ones(models, len(rows), dtype=torch.bool), seed=seed
        )

    def _nearest(self, methods: Sequence[str]) -> Numbers:
        forget = [i for i, y in enumerate(self.modality.answer_texts(self.rows)) if y == FORGOTTEN]
        kept = [i for i in range(len(self.rows)) if i not in set(forget)]
        self.progress(0, 1, "retrained models")
        retrained = self._pool(self.rows.select(kept), RETRAINED, seed=1)
        originals = self._pool(self.rows, ORIGINALS, seed=2)
        labels = self.modality.answer_texts(self.unseen)
        forgotten, others = ([i for i, y in enumerate(labels) if (y == FORGOTTEN) == in_class] for in_class in (True, False))
        numbers = {}
        for method in ("original", *methods):
            pool = originals if method == "original" else self._unlearned(self._plans(method), originals, forget)
            attacks = [
                self._attack(pool[k], retrained, self.unseen.select(others), self.unseen.select(forgotten)) for k in range(len(pool))
            ]
            numbers[method] = {n: fmean(getattr(a, n) for a in attacks) for n in ("gap", "total_variation", "spread")}
        return numbers

    def _attack(self, weights: Weights, retrained: Ensemble, others: Rows, forgotten: Rows) -> mia_nn.Found:
        model = copy.deepcopy(self.random_init)
        model.load_state_dict(weights)
        return mia_nn.attack(model, retrained, self.modality, others, forgotten)

    def _unlearned(self, plans: Plans, pool: Ensemble, forget: Sequence[int]) -> Ensemble:
        self.progress(0, 1, "forgetting")
        masks = torch.zeros(len(pool), len(self.rows), dtype=torch.bool)
        masks[:, list(forget)] = True
        return ensembles.unlearn(plans, pool, self.modality, self.rows, masks)

    def _margins(self, methods: Sequence[str]) -> Numbers:
        forget, kept = list(range(FEW)), list(range(FEW, len(self.rows)))
        self.progress(0, 1, "the datamodel's models")
        rows = self.rows.rename("retain")
        halves = ensembles.train(self.plan, self.random_init, self.modality, rows, subsets(len(rows), MODELS), seed=3)
        self.progress(0, 1, "retrained models")
        oracles = self._pool(self.rows.select(kept), ORACLES, seed=1)
        originals = self._pool(self.rows, ORACLES, seed=2)
        groups = {"forget": self.rows.select(forget), "retain": self.rows.select(kept[:60]), "test": self.unseen.select(range(150))}
        target = {n: ensembles.margins(oracles, self.modality, r).double().numpy() for n, r in groups.items()}
        numbers = {}
        with tempfile.TemporaryDirectory() as folder:
            ensembles.attribute(halves, self.modality, rows, rows, Path(folder), self.hyperparameters["dmm"]["ridge"])
            plans = {m: self._plans(m) for m in methods} | {
                "dmm": build_plan.plan("dmm", {**self.hyperparameters["dmm"], "attributions": folder})
            }
            after = {m: self._unlearned(plans[m], originals, forget) for m in methods}
        for method, pool in {"original": originals, **after}.items():
            margins = {n: ensembles.margins(pool, self.modality, r).double().numpy() for n, r in groups.items()}
            numbers[method] = {f"klom_{n}": summary(klom(margins[n], target[n])).mean for n in groups}
        return numbers
