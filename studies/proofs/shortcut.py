"""The world of a shortcut: digits with a mark that nearly always goes with their class, and that a small network learns before the shapes.

A class is forgotten, another one on each draw. The question is whether the model forgets the class, or only its mark: unseen images of the
class with its mark and with another mark must be answered as a model answers them that was trained without the class.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean
from typing import Any

import torch

from expunge.benchmarks import biased_digits
from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine.ensemble import alone, logits
from expunge.engine.weights import put
from expunge.io.models import Opened
from expunge.workflows.train import train
from expunge.workflows.unlearn import unlearn
from studies.cases.accuracy import accuracy
from studies.proofs.claim import Arm, Claim, Scores, spent
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZE = "resnet-nano"
FORGOTTEN = (3, 1, 7)  # the class to forget, by draw
IMAGES = ("forget", "aligned", "conflicting")  # images of the forgotten class: trained, unseen with its mark, unseen with another mark
NAMED = ("neggrad", "salun", "bad_teacher")  # the comparisons in the paper of CUPID


class ShortcutUnit:
    """One original and one retrained model on one draw of the marked digits."""

    def __init__(self, draw: int, seed: int) -> None:
        forgotten = FORGOTTEN[draw % len(FORGOTTEN)]
        suite = biased_digits.load(split=f"class{forgotten}", seed=draw)
        self.train = suite.train
        results = [train(suite.train[rows], SIZE, labels=tuple(suite.labels), seed=seed) for rows in ("full", "retain")]
        self.models = [Opened(result.model, result.modality, str(result.folder)) for result in results]
        self.retraining = spent(results[1].receipt)
        self.modality = results[0].modality
        self.sets = {name: self.modality.rows(name, suite.sets[name]) for name in IMAGES}
        self.others = self.modality.rows("others", [r for r in suite.sets["holdout"] if r["label"] != forgotten])

    def measure(self, opened: Opened) -> dict[str, float]:
        """Mean probabilities of the forgotten class, the accuracy on the other classes, and the mean distance from the retrained model."""
        scores = {name: self._probability(opened, rows) for name, rows in self.sets.items()}
        scores["others"] = accuracy(opened.model, self.modality, self.others)
        target = self.target if opened is not self.models[1] else scores
        return {**scores, "gap": fmean(abs(scores[name] - target[name]) for name in scores)}

    def _probability(self, opened: Opened, rows: Rows) -> float:
        labels = torch.tensor([label for (label,) in rows["answer"]])
        return float(logits(alone(opened.model), self.modality, rows)[0].softmax(-1).gather(-1, labels[:, None]).mean())

    @cached_property
    def target(self) -> Scores:
        return self.measure(self.models[1])

    @cached_property
    def original(self) -> Scores:
        return {**self.measure(self.models[0]), "cost": 0.0}

    @property
    def retrained(self) -> Scores:
        return {**self.target, "cost": 1.0}

    @cached_property
    def random(self) -> Scores:
        model = copy.deepcopy(self.models[0].model)
        put(model, self.modality.fresh(model, 0))
        return self.measure(Opened(model, self.modality, ""))

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores at the end, and the cost as a share of retraining."""
        opened = Opened(copy.deepcopy(self.models[0].model), self.modality, "original")
        try:
            result = unlearn(arm.method, opened, self.train["forget"], self.train["retain"], allow_overlap=True, **settings)
        except UserError:  # these settings leave the weights as they are, which a run refuses to call unlearning
            return [self.original]
        return [{**self.measure(Opened(result.model, self.modality, arm.name)), "cost": spent(result.receipt) / self.retraining}]


@dataclass(frozen=True)
class Shortcut:
    """Draws of the marked digits."""

    name: str = "digits with marks"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> ShortcutUnit:
        return ShortcutUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The original must know the class rather by its mark, and be far from the retrained model; no rival may be as near as it gets."""
        pairs = [(a, b) for a, b in combinations(units, 2) if _alike(a, b)]
        floor = fmean(fmean(abs(a.target[n] - b.target[n]) for n in (*IMAGES, "others")) for a, b in pairs) if pairs else 0.0
        original, random = (fmean(getattr(u, n)["gap"] for u in units) for n in ("original", "random"))
        lean = fmean(u.original["aligned"] - u.original["conflicting"] for u in units)
        nearest = min(fmean(values) for values in rivals.values())
        return [
            Gate("the original knows the class better where its mark is", lean, lean >= 0.1),
            Gate(
                "the original is at least three times as far from the retrained model as another retrained model is",
                original,
                original >= 3 * floor,
            ),
            Gate("random weights are far from the retrained model", random, random >= 3 * floor),
            Gate(
                "no rival is as near to the retrained model as another retrained model is",
                nearest,
                claim.score != "gap" or nearest >= floor + claim.matters,
            ),
        ]


def _alike(a: ShortcutUnit, b: ShortcutUnit) -> bool:
    """Whether two units forget the same images: they have the same draw."""
    return list(a.sets["forget"].ids) == list(b.sets["forget"].ids)


# Values of the hyperparameters, eight settings each.
ARMS: dict[str, Arm] = {
    "cupid": Arm("cupid", "cupid", {"batch_size": 32}, {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "epochs": (5, 20)}),
    "neggrad": Arm("neggrad", "neggrad", grid={"lr": (3e-4, 1e-3, 3e-3, 1e-2), "epochs": (5, 20)}),
    "salun": Arm("salun", "salun", {"batch_size": 32}, {"lr": (3e-3, 1e-2, 3e-2, 1e-1), "epochs": (6, 12)}),
    "bad_teacher": Arm("bad_teacher", "bad_teacher", {"batch_size": 32}, {"lr": (3e-4, 1e-3, 3e-3, 1e-2), "epochs": (1, 3)}),
}
CLAIMS: dict[str, tuple[Shortcut, tuple[Claim, ...]]] = {
    "cupid": (
        Shortcut(),
        (
            Claim(
                "images of the forgotten class, with its mark and without, are answered more as after retraining than with neggrad, salun"
                " and bad_teacher",
                "the paper's tables of bias-aligned and bias-conflicting images, each beside retraining",
                "gap",
                NAMED,
                "lower",
                0.01,
            ),
            Claim(
                "unseen images of the class without its mark are taken for it less often than after those",
                "the paper's tables, accuracy on bias-conflicting images",
                "conflicting",
                NAMED,
                "lower",
                0.01,
            ),
        ),
    )
}
