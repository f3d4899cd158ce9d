"""The world of images that were unlearned or never seen: an attack trains and unlearns models itself, and tells the two kinds apart.

Models are few and small: each was trained on half of some digits, and forgot the half of the candidates that it had seen. The score of an
attack is the area under its curve, over all candidates and models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import torch

from expunge.benchmarks import digits
from expunge.evaluation.attacks import u_lira
from expunge.workflows import build_plan
from expunge.workflows.train import start
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZE = "resnet-nano"
IMAGES, CANDIDATES, SHADOWS = 160, 60, 32
FEWER = 16  # models of the gate, which asks whether retraining is told from never having seen
TRAINED = {"epochs": 15, "lr": 3e-3, "batch_size": 32, "warmup": 0, "weight_decay": 0.0}
ASCENT = {"lr": 1e-3, "batch_size": 32, "epochs": 5}
AUC = "auc"
POPULATION = "one threshold for all images"


class UnseenUnit:
    """Images of a draw, of which a seed takes some, and halves of them."""

    def __init__(self, draw: int, seed: int) -> None:
        suite = digits.load(seed=draw)
        records = [*suite.train["forget"], *suite.train["retain"]]
        order = torch.randperm(len(records), generator=torch.Generator().manual_seed(1000 * draw + seed)).tolist()
        opened = start(SIZE, records, labels=tuple(suite.labels), seed=seed)
        self.model, self.modality, self.seed = opened.model, opened.modality, seed
        self.rows = self.modality.rows("images", [records[i] for i in order[:IMAGES]])

    def attacked(self, method: str, shadows: int, **settings: Any) -> dict[str, float]:
        """The scores of the attack on a method."""
        training, unlearning = build_plan.plan("retrain", TRAINED), build_plan.plan(method, settings)
        sizes = {"candidates": CANDIDATES, "shadows": shadows}
        return u_lira.attack(self.model, self.modality, self.rows, training, unlearning, seed=self.seed, **sizes)

    @cached_property
    def told(self) -> Scores:
        """The scores of the attack on ascent, with a fit of each image and without."""
        return self.attacked("neggrad", SHADOWS, **ASCENT)

    @property
    def original(self) -> Scores:
        """The area with one threshold for all images."""
        return {AUC: self.told["population_auc"]}

    @cached_property
    def retrained(self) -> Scores:
        """The area of the attack where forgetting is training again without the images."""
        return {AUC: self.attacked("retrain", FEWER, **TRAINED)[AUC]}

    @property
    def random(self) -> Scores:
        return {AUC: 0.5}

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The area of the attack of the arm."""
        return [{AUC: self.told["population_auc" if arm.name == POPULATION else AUC]}]


@dataclass(frozen=True)
class Unseen:
    """Draws of the digits."""

    name: str = "digits unlearned or never seen"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> UnseenUnit:
        return UnseenUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """Retraining must not be told from never having seen, ascent must be, and not always."""
        exact, simple = (fmean(getattr(u, n)[AUC] for u in units) for n in ("retrained", "original"))
        return [
            Gate("retraining is not told from never having seen: an area of 0.45 to 0.55", exact, 0.45 <= exact <= 0.55),
            Gate("one threshold tells unlearned images better than chance", simple, simple >= 0.52),
            Gate("one threshold does not tell all of them", simple, simple <= 0.97),
        ]


ARMS: dict[str, Arm] = {"u_lira": Arm("u_lira", "neggrad", ASCENT), POPULATION: Arm(POPULATION, "neggrad", ASCENT)}
WORLD = Unseen()
CLAIMS: dict[str, tuple[Unseen, tuple[Claim, ...]]] = {
    "u_lira": (
        WORLD,
        (
            Claim(
                "a fit of each image tells unlearned images from never-seen ones better than one threshold for all of them does",
                "Hayes et al. 2024, attacks on each item against attacks on the population, which overestimate privacy",
                AUC,
                (POPULATION,),
                "higher",
                0.02,
            ),
        ),
    ),
}
