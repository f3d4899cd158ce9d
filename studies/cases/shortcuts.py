"""The case of a shortcut: digits with a mark that nearly always goes with their class, which a small network learns before the shapes.

A class is forgotten, one of three after the other: is it the class that is gone, or only its mark?
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from expunge.benchmarks import biased_digits, presets
from expunge.core.rows import Rows
from expunge.evaluation.audited_models import Progress
from expunge.io.models import Opened
from expunge.workflows.train import train
from expunge.workflows.unlearn import Result, unlearn
from studies.cases.accuracy import accuracy
from studies.cases.claims import Claim, Numbers, pooled

GONE = (1, 3, 7)  # classes that are forgotten, each by a copy of the original
NAMED = ("neggrad", "salun", "bad_teacher")  # what the paper of cupid compares with
BESIDE = (*NAMED, "random_labels", "neggrad_plus", "ssd")

WHOLE = Claim(
    "unseen images of the forgotten class, half of them without its mark, are taken for it less often than after neggrad, salun and"
    " bad_teacher",
    lambda n, me: n[me]["forget_unseen"] < min(n[m]["forget_unseen"] for m in NAMED),
)
EVEN = Claim(
    "accuracy on them with the mark and without lies less far apart than after those",
    lambda n, me: n[me]["gap"] < min(n[m]["gap"] for m in NAMED),
)
KEEPS = Claim(
    "accuracy on unseen images of the other classes stays within 0.05 of the retrained model's",
    lambda n, me: n[me]["others"] >= n["retrained"]["others"] - 0.05,
)

CLAIMS: dict[str, tuple[Claim, ...]] = {"cupid": (WHOLE, EVEN, KEEPS)}


class Case:
    """Digits with marks, and a network that has learned them."""

    model = "resnet-nano"

    def __init__(self, progress: Progress, seed: int = 0) -> None:
        self.progress, self.seed = progress, seed
        self.suite = biased_digits.load(seed=seed)

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Means over the classes of what each model says, and the hyperparameters of the methods."""
        labels = tuple(self.suite.labels)
        made = train(self.suite.train["full"], self.model, labels=labels)
        hyperparameters = {m: presets.hyperparameters("biased_digits", self.model, m) for m in (*BESIDE, name)}
        found: dict[str, list[Mapping[str, float]]] = {}
        for gone in GONE:
            suite = biased_digits.load(split=f"class{gone}", seed=self.seed)
            sets = {n: made.modality.rows(n, r) for n, r in suite.sets.items()}
            sets["others"] = made.modality.rows("others", [r for r in suite.sets["holdout"] if r["label"] != gone])
            again = train(suite.train["retain"], self.model, labels=labels)
            models = {"original": made, "retrained": again}
            for method in hyperparameters:
                self.progress(0, 1, f"{method}: forgetting {gone}")
                opened = Opened(copy.deepcopy(made.model), made.modality, "original")
                models[method] = unlearn(
                    method, opened, suite.train["forget"], suite.train["retain"], allow_overlap=True, **hyperparameters[method]
                )
            for which, result in models.items():
                found.setdefault(which, []).append(_seen(result, sets))
        return {which: pooled(some) for which, some in found.items()}, hyperparameters


def _seen(result: Result, sets: Mapping[str, Rows]) -> Mapping[str, float]:
    """Accuracies with true labels: of the forgotten class, as trained on and unseen, and of the others."""
    found = {n: accuracy(result.model, result.modality, sets[n]) for n in ("forget", "aligned", "conflicting", "others")}
    own, other = found["aligned"], found["conflicting"]
    return {**found, "forget_unseen": (own + other) / 2, "gap": abs(own - other)}
