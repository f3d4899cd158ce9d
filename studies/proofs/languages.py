"""The world of two languages: a model is trained from scratch on both, and only some rows of the one to forget are known as such.

A method of training time puts what it knows to be of that language where it can be taken out. The score is the calibrated loss of unseen
rows of either language: after a bias of the head was trained for both, so that tokens which are merely improbable count as known.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import torch
from torch import nn

from expunge.benchmarks.synthetic import bilingual
from expunge.core.hyperparameters import override
from expunge.evaluation.attacks.calibrated import calibrated_bias, labeled_logits, plan
from expunge.functional.head_bias import cross_entropy
from expunge.workflows.train import start, train
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZE = "nano"
STORIES, UNSEEN, EPOCHS = 60, 20, 8
STEPS = 100  # of the bias
RECALL = 0.8  # share of the steps on the language to forget that are known as such
FORGET, RETAIN = "calibrated_forget_loss", "calibrated_retain_loss"
METHOD, ROUTING, FILTER = "sgtm", "gradient routing", "filter of the known rows"
WEIGHTS = {"forget": 1.0, "retain": 100.0}


class BilingualUnit:
    """Stories of a draw in two languages, and initial weights."""

    def __init__(self, draw: int, seed: int) -> None:
        self.suite = bilingual.load(seed=draw, rows=STORIES, unseen=UNSEEN)
        self.texts = [r["text"] for r in self.suite.train["full"]]
        self.seed = seed

    def trained(self, records: Sequence[Mapping[str, Any]], **settings: Any) -> Scores:
        """The scores of a model that is trained on some rows."""
        result = train(records, SIZE, texts=self.texts, seed=self.seed, **{"epochs": EPOCHS, **settings})
        return self.measure(result.model, result.modality)

    @cached_property
    def original(self) -> Scores:
        return self.trained(self.suite.train["full"])

    @cached_property
    def retrained(self) -> Scores:
        return self.trained(self.suite.train["retain"], epochs=2 * EPOCHS)  # as many steps as the original

    @cached_property
    def random(self) -> Scores:
        untrained = start(SIZE, self.suite.train["full"], texts=self.texts, seed=self.seed)
        return self.measure(untrained.model, untrained.modality)

    @torch.no_grad()
    def measure(self, model: nn.Module, modality: Any) -> dict[str, float]:
        """Losses in nats a token of rows that no model was trained on; the bias is trained on those that models were trained on."""
        rows = {n: modality.rows(n, self.suite.train[n]) for n in WEIGHTS}
        bias = calibrated_bias(model, modality, rows, WEIGHTS, override(plan(), {"steps": STEPS}))
        unseen = {FORGET: self.suite.sets["holdout"], RETAIN: self.suite.sets["general"]}
        return {n: float(cross_entropy(*labeled_logits(model, modality, modality.rows(n, records)), bias)) for n, records in unseen.items()}

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores at the end. The filter leaves out the known rows of the language, and takes as many steps as all others."""
        rows = self.suite.train
        if arm.name != FILTER:
            return [self.trained(rows["retain"], forget=rows["forget"], method=arm.method, **settings)]
        undiscovered = [r for r in rows["forget"] if random.Random(f"{self.seed} {r['text']}").random() >= RECALL]
        kept = [*rows["retain"], *undiscovered]
        return [self.trained(kept, **{**settings, "epochs": round(EPOCHS * len(rows["full"]) / len(kept))})]


@dataclass(frozen=True)
class Bilingual:
    """Draws of stories in two languages without a word in common."""

    name: str = "two languages"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> BilingualUnit:
        return BilingualUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """A model of all rows must have learned both languages, and one that never read the language to forget must not know it."""
        known, unknown = (fmean(getattr(u, n)[FORGET] for u in units) for n in ("original", "retrained"))
        learned, lost = (fmean(getattr(u, n)[RETAIN] for u in units) for n in ("retrained", "random"))
        return [
            Gate("a model of all rows has half a nat less in the language to forget than one without it", known, known <= unknown - 0.5),
            Gate("the language to retain is learned: half a nat less than with random weights", learned, learned <= lost - 0.5),
        ]


FIXED = {"units": 32, "heads": 1, "epochs": EPOCHS, "recall": RECALL, "labeled": 0.25, "batch_size": 16}
RATES = {"lr": (2e-3, 5e-3)}
ARMS: dict[str, Arm] = {
    METHOD: Arm(METHOD, METHOD, FIXED, RATES),
    ROUTING: Arm(ROUTING, METHOD, {**FIXED, "strategy": "routing"}, RATES),
    FILTER: Arm(FILTER, "finetune", {"batch_size": 16}, RATES),
}
PAPER = "Beyond Data Filtering (arXiv 2512.05648), the trade-off of calibrated losses on two languages"
CLAIMS: dict[str, tuple[Bilingual, tuple[Claim, ...]]] = {
    METHOD: (
        Bilingual(),
        (
            Claim(
                "where a fifth of the rows to forget is not known as such, it knows the language less than a filter and gradient routing",
                PAPER,
                FORGET,
                (FILTER, ROUTING),
                "higher",
                0.1,
            ),
            Claim(
                "the language to retain costs at most a twentieth of a nat more than with the filter",
                PAPER,
                RETAIN,
                (FILTER,),
                "lower",
                0.0,
                margin=0.05,
            ),
        ),
    )
}
