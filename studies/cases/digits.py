"""The image case: real handwritten digits with a small residual network; one class is forgotten, or a tenth of all images.

Costs are counts, not times: rows in forward passes plus twice the rows in backward passes, as a share of the cost of retraining.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from expunge.benchmarks import presets
from expunge.evaluation.audited_models import AuditedModel, Progress, examine, random_init
from expunge.io.models import Opened, cache_home
from expunge.workflows.sweep import Sweep
from expunge.workflows.train import train
from expunge.workflows.unlearn import unlearn
from studies.cases.claims import Claim, Numbers

CASE = Sweep("digits", (), model="resnet-nano")
SPLITS = {"class": "class3", "random": "random10"}
SHOWN = (
    "forget_accuracy",
    "test_forget_accuracy",
    "retain_accuracy",
    "test_accuracy",
    "average_gap",
    "h_lr",
    "cka_retrained",
    "mia_loss",
    "mia_efficacy",
)

FORGETS = Claim(
    "accuracy on the forgotten digits comes within 0.1 of the retrained model's",
    lambda n, me: abs(n[me]["forget_accuracy"] - n["retrained"]["forget_accuracy"]) <= 0.1,
)
UNSEEN = Claim(
    "unseen digits of the forgotten class are forgotten, too: accuracy within 0.1 of the retrained model's",
    lambda n, me: abs(n[me]["test_forget_accuracy"] - n["retrained"]["test_forget_accuracy"]) <= 0.1,
)
KEEPS = Claim(
    "accuracy on unseen digits of the other classes stays within 0.05 of the retrained model's",
    lambda n, me: n[me]["test_accuracy"] >= n["retrained"]["test_accuracy"] - 0.05,
)
CHEAP = Claim("it costs less than a quarter of retraining", lambda n, me: n[me]["cost"] <= 0.25)
FRACTION = Claim("it costs less than a tenth of retraining", lambda n, me: n[me]["cost"] <= 0.1)
DEFAULT = (FORGETS, UNSEEN, KEEPS)

CLAIMS: dict[str, tuple[Claim, ...]] = {
    **dict.fromkeys(["gda", "l1_sparse", "neggrad_plus", "random_labels", "salun", "scrub"], DEFAULT),
    **dict.fromkeys(["bad_teacher", "boundary", "influence", "neggrad", "unsir"], (*DEFAULT, CHEAP)),
    **dict.fromkeys(["iau", "ssd"], (*DEFAULT, FRACTION)),
    "fisher": DEFAULT,
}
SPLIT: dict[str, str] = {}  # the split that a method's claims are about; default: class
SETTINGS: dict[str, dict[str, Any]] = {}  # hyperparameters that the claims are about, if they differ from the preset


class Case:
    """One split of the digits, and the original and the retrained model with their audits."""

    model = CASE.model

    def __init__(self, progress: Progress, split: str = "class") -> None:
        self.progress = progress
        self._open(split)

    def _open(self, split: str) -> None:
        self.split = split
        self.suite = Sweep("digits", (), model=CASE.model, split=SPLITS[split]).load_suite()
        results = [train(self.suite.train[rows], CASE.model, labels=tuple(self.suite.labels)) for rows in ("full", "retain")]
        self.original, self.retrained = (Opened(result.model, result.modality, str(result.folder)) for result in results)
        self.full_cost = _spent(results[1].receipt)
        self.cache = cache_home() / "observations"
        self.references: dict[str, Any] = {"random_init": random_init(self.original, self.suite.sets, self.cache)}
        self.retrained_audit = self.audit(self.retrained, "retrained", role="retrained")
        self.references["retrained"] = self.retrained_audit.observation
        self.original_audit = self.audit(self.original, "original", role="original")
        self.references["original"] = self.original_audit.observation

    def audit(self, opened: Opened, name: str, **options: Any) -> AuditedModel:
        """Audit a model against the models that are known already."""
        options = {**self.references, **options, "cache": self.cache, "progress": self.progress}
        return examine(opened.model, opened.modality, self.suite.sets, name=name, **options)

    def forget(self, name: str, hyperparameters: Mapping[str, Any]) -> tuple[Opened, float]:
        """The original after a method, and the cost as a share of retraining."""
        opened = Opened(copy.deepcopy(self.original.model), self.original.modality, self.original.source)
        self.progress(0, 1, f"{name}: forgetting")
        result = unlearn(name, opened, self.suite.train["forget"], self.suite.train["retain"], allow_overlap=True, **hyperparameters)
        return Opened(result.model, result.modality, name), _spent(result.receipt) / self.full_cost

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Return scores of the two models and of the method, and the hyperparameters of the method."""
        if (split := SPLIT.get(name, "class")) != self.split:
            self._open(split)
        hyperparameters = {**presets.hyperparameters("digits", CASE.model, name), **SETTINGS.get(name, {})}
        unlearned, cost = self.forget(name, hyperparameters)
        numbers = {"original": shown(self.original_audit), "retrained": shown(self.retrained_audit)}
        return {**numbers, name: {**shown(self.audit(unlearned, name)), "cost": cost}}, hyperparameters


def shown(audited: AuditedModel) -> dict[str, float]:
    """The scores to compare."""
    return {n: float(audited.scores[n]["value"]) for n in SHOWN if n in audited.scores}


def _spent(receipt: Mapping[str, Any]) -> float:
    cost = receipt["cost"]
    return float(cost["tokens"] + 2 * cost["backward_tokens"])
