"""The world of a forgotten digit and its neighbors: retrained models take the digit for the digits that look like it.

The attack asks how often unseen images of the digit look like its nearest class to a model, and how often to retrained ones. Each draw of
the data forgets another digit; the retrained models of a unit are of other seeds than its original.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from torch import nn

from expunge.core.errors import UserError
from expunge.engine.ensemble import alone, joined
from expunge.evaluation.attacks import mia_nn
from expunge.io.models import Opened
from expunge.workflows.sweep import Sweep
from expunge.workflows.train import train
from expunge.workflows.unlearn import unlearn
from studies.cases.accuracy import accuracy
from studies.proofs.claim import Arm, Claim, Scores, spent
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZE = "resnet-nano"
DIGITS = (3, 5, 8)  # forgotten, by draw
POOL, SEEDS = 3, 5  # retrained models beside a unit, of so many seeds
GAP, VARIATION, TAKEN = "gap", "total_variation", "forget_accuracy"
NAMED = ("random_labels", "salun", "neggrad")


class NearestUnit:
    """One original on one draw of the digits, and retrained models."""

    def __init__(self, draw: int, seed: int) -> None:
        digit = DIGITS[draw % len(DIGITS)]
        self.suite, self.seed = Sweep("digits", (), model=SIZE, split=f"class{digit}", draw=draw).load_suite(), seed
        result = self.trained("full", seed)
        self.opened, self.training = Opened(result.model, result.modality, str(result.folder)), spent(result.receipt)
        self.pool = joined(alone(self.trained("retain", (seed + 1 + k) % SEEDS).model) for k in range(POOL))
        unseen = {kind: [r for r in self.suite.sets["holdout"] if (r["label"] == digit) == kind] for kind in (True, False)}
        self.forgotten, self.others = (self.opened.modality.rows("holdout", unseen[kind]) for kind in (True, False))

    def trained(self, rows: str, seed: int) -> Any:
        """A network that was trained on the rows of a set."""
        return train(self.suite.train[rows], SIZE, labels=tuple(self.suite.labels), seed=seed)

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Distances of a model from the retrained ones: of the share that looks like the nearest class, and of distributions."""
        outcome = mia_nn.attack(model, self.pool, self.opened.modality, self.others, self.forgotten, seed=self.seed)
        taken = accuracy(model, self.opened.modality, self.forgotten)
        return {GAP: outcome.gap, VARIATION: outcome.total_variation, TAKEN: taken}

    @cached_property
    def original(self) -> Scores:
        return self.measure(self.opened.model)

    @cached_property
    def retrained(self) -> Scores:
        """Those of one more retrained model: what is left by chance."""
        return self.measure(self.trained("retain", self.seed).model)

    @property
    def random(self) -> Scores:
        return self.original

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores at the end, and the cost as a share of training."""
        opened = Opened(copy.deepcopy(self.opened.model), self.opened.modality, "original")
        rows = self.suite.train
        try:
            result = unlearn(arm.method, opened, rows["forget"], rows["retain"], allow_overlap=True, **settings)
        except UserError as error:  # these settings leave the weights as they are, which a run refuses to call unlearning
            if "the weights" not in str(error):
                raise
            return [self.original]
        return [{**self.measure(result.model), "cost": spent(result.receipt) / self.training}]


@dataclass(frozen=True)
class Nearest:
    """Draws of the digits."""

    name: str = "digits beside their nearest ones"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> NearestUnit:
        return NearestUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The original must differ from the retrained models, another retrained model hardly, and every rival more than that."""
        floor, start = (fmean(getattr(u, n)[claim.score] for u in units) for n in ("retrained", "original"))
        nearest = min(fmean(values) for values in rivals.values())
        return [
            Gate("the original is at least twice as far from the retrained models as another one is", start, start >= 2 * floor),
            Gate("no rival is as near to the retrained models as another one is", nearest, nearest >= floor),
        ]


ARMS: dict[str, Arm] = {
    a.name: a
    for a in (
        Arm("trw", "trw", {"batch_size": 32}, {"lr": (3e-3, 1e-2), "beta": (1.0, 10.0)}),
        Arm("random_labels", "random_labels", {"batch_size": 32}, {"lr": (3e-3, 1e-2), "epochs": (3, 6)}),
        Arm("salun", "salun", {"batch_size": 32}, {"lr": (3e-3, 1e-2), "epochs": (3, 6)}),
        Arm("neggrad", "neggrad", grid={"lr": (1e-3, 3e-3), "epochs": (5, 20)}),
    )
}
WORLD = Nearest()
CLAIMS: dict[str, tuple[Nearest, tuple[Claim, ...]]] = {
    "trw": (
        WORLD,
        (
            Claim(
                "unseen images of the digit look like its nearest one as often as to retrained models, nearer than after random labels,"
                " salun and ascent",
                "Ebrahimpour-Boroojeny et al. 2025, the tables of MIA-NN",
                GAP,
                NAMED,
                "lower",
                0.05,
            ),
            Claim(
                "so are the distributions of the model's answers, by total variation",
                "the first version of the paper, its table of total variation",
                VARIATION,
                NAMED,
                "lower",
                0.05,
            ),
        ),
    ),
}
