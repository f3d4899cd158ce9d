"""Recommenders that know what is to be forgotten, and those that never had it; shared by the proofs and by the study on MovieLens."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from expunge.benchmarks.suite import Suite
from expunge.core.parts import ByDesign
from expunge.engine.weights import put
from expunge.evaluation.audited_models import examine
from expunge.evaluation.observation import Observation
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.io.models import Opened
from expunge.workflows import build_plan
from expunge.workflows.train import train
from expunge.workflows.unlearn import Result, unlearn
from studies.proofs.claim import Scores, spent

WANTS = ObservationSpec(generations=False, moments=False, gradient_norms=False, features=False)
GAPS = ("forget_gap", "retain_gap", "test_gap", "recommendation_gap")
RANKED = tuple(f"{name}_{metric}" for name in ("forget", "retain", "test") for metric in ("recall", "ndcg"))
FEATURES = ("exposure", "exposure_alike", "label_auc", "label_auc_or", "label_auc_and")


class Recommenders:
    """The original and the retrained recommender of a suite, and what methods make of the original.

    Args:
        suite: the benchmark's.
        size: a built-in recommender.
        seed: of training.
        settings: of training, instead of the size's own.
        features: whether vectors are observed, too, for scores that need them.
    """

    def __init__(self, suite: Suite, size: str, seed: int, settings: Mapping[str, Any] | None = None, features: bool = False) -> None:
        self.suite, self.size, self.seed, self.settings = suite, size, seed, dict(settings or {})
        self.wants = ObservationSpec(generations=False, moments=False, gradient_norms=False, features=features)
        self.results = {rows: self.trained(rows) for rows in ("full", "retain")}
        self.retraining = spent(self.results["retain"].receipt)

    def trained(self, rows: str, size: str = "", method: str = "finetune", out: str = "", **settings: Any) -> Result:
        """A model that is trained on the suite's rows of a name. out: the folder of a by-design store."""
        options: dict[str, Any] = {"out": out, "cache": Path(out).parent} if out else {}
        vocabulary = [*self.suite.train["full"], *(r for n in self.suite.sets for r in self.suite.sets[n])]
        return train(
            self.suite.train[rows],
            size or self.size,
            vocabulary=vocabulary,
            seed=self.seed,
            method=method,
            **options,
            **{**self.settings, **settings},
        )

    def opened(self, rows: str = "full") -> Opened:
        """A copy of the original (full), or of the retrained model (retain), that may be changed."""
        result = self.results[rows]
        return Opened(copy.deepcopy(result.model), copy.deepcopy(result.modality), str(result.folder))

    @cached_property
    def target(self) -> Observation:
        """What is observed in the retrained model."""
        specs = {n: self.suite.spec(n) for n in self.suite.sets}
        opened = self.opened("retain")
        return examine(
            opened.model, opened.modality, self.suite.sets, name="retrained", role="retrained", specs=specs, wants=self.wants
        ).observation

    def scores(self, opened: Opened) -> dict[str, float]:
        """Recalls and NDCG of the sets, their distances from the retrained model's, and, with features, exposure and label AUC."""
        specs = {n: self.suite.spec(n) for n in self.suite.sets}
        audited = examine(
            opened.model, opened.modality, self.suite.sets, name="model", specs=specs, wants=self.wants, retrained=self.target
        )
        known = {n: audited.scores[n] for n in (*GAPS, *RANKED, *FEATURES) if n in audited.scores}
        return {n: float(score["value"]) for n, score in known.items() if score["value"] is not None}

    def random(self) -> Scores:
        """Scores of random weights."""
        opened = self.opened()
        put(opened.model, opened.modality.fresh(opened.model, 0))
        return self.scores(opened)

    def after(self, method: str, settings: Mapping[str, Any]) -> Scores:
        """Scores of the original after a method, or of a by-design store after the rows were taken out of it.

        `cost` is the share of retraining's cost, in pairs that are scored in forward passes, and twice those in backward passes.
        """
        if isinstance(build_plan.plan(method, dict(settings))[0].action, ByDesign):
            with tempfile.TemporaryDirectory() as folder:
                store = str(Path(folder) / "store")
                self.trained("full", method=method, out=store, **settings)
                result = unlearn(method, store, self.suite.train["forget"], seed=self.seed)
        else:
            given = {"seed": self.seed, **settings}
            result = unlearn(method, self.opened(), self.suite.train["forget"], self.suite.train["retain"], allow_overlap=True, **given)
        return {**self.scores(Opened(result.model, result.modality, method)), "cost": spent(result.receipt) / self.retraining}
