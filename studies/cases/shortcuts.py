"""The case of a shortcut: digits with a mark that nearly always goes with their class, and that a small network learns before the shapes.

Each of three classes is forgotten in turn. The question is whether the model forgets the class, or only its mark.
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

FORGOTTEN = (1, 3, 7)  # classes to be forgotten, each by a copy of the original
NAMED = ("neggrad", "salun", "bad_teacher")  # the comparisons in the paper of cupid
COMPARED = (*NAMED, "random_labels", "neggrad_plus", "ssd")

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
    """Digits with marks, and a network trained on them."""

    model = "resnet-nano"

    def __init__(self, progress: Progress, seed: int = 0) -> None:
        self.progress, self.seed = progress, seed
        self.suite = biased_digits.load(seed=seed)

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Return mean accuracies of each model over the forgotten classes, and the hyperparameters of the methods."""
        labels = tuple(self.suite.labels)
        original = train(self.suite.train["full"], self.model, labels=labels)
        hyperparameters = {m: presets.hyperparameters("biased_digits", self.model, m) for m in (*COMPARED, name)}
        runs: dict[str, list[Mapping[str, float]]] = {}
        for forgotten in FORGOTTEN:
            suite = biased_digits.load(split=f"class{forgotten}", seed=self.seed)
            sets = {n: original.modality.rows(n, r) for n, r in suite.sets.items()}
            sets["others"] = original.modality.rows("others", [r for r in suite.sets["holdout"] if r["label"] != forgotten])
            retrained = train(suite.train["retain"], self.model, labels=labels)
            models = {"original": original, "retrained": retrained}
            for method in hyperparameters:
                self.progress(0, 1, f"{method}: forgetting {forgotten}")
                opened = Opened(copy.deepcopy(original.model), original.modality, "original")
                models[method] = unlearn(
                    method, opened, suite.train["forget"], suite.train["retain"], allow_overlap=True, **hyperparameters[method]
                )
            for name_of_model, result in models.items():
                runs.setdefault(name_of_model, []).append(_accuracies(result, sets))
        return {name_of_model: pooled(scores) for name_of_model, scores in runs.items()}, hyperparameters


def _accuracies(result: Result, sets: Mapping[str, Rows]) -> Mapping[str, float]:
    """Accuracies on training and unseen images of the forgotten class, and on the other classes."""
    accuracies = {n: accuracy(result.model, result.modality, sets[n]) for n in ("forget", "aligned", "conflicting", "others")}
    aligned, conflicting = accuracies["aligned"], accuracies["conflicting"]
    return {**accuracies, "forget_unseen": (aligned + conflicting) / 2, "gap": abs(aligned - conflicting)}
