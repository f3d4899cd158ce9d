"""The world of suspects: a small classifier was trained on half of some images, and attacks tell that half from the other one.

Shadow models are few, as for an attacker with little time; LiRA, which fits each image, has sixteen. The score of an attack is
the area under its curve, of the images that the model was trained on against as many others; an attack that needs no shadow model has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import torch

from expunge.benchmarks import digits
from expunge.engine import loop
from expunge.evaluation.attacks import lira, rmia
from expunge.evaluation.measure import Evidence
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.observe import observe
from expunge.evaluation.scoring import audit_scores
from expunge.workflows import build_plan
from expunge.workflows.train import start
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZE = "resnet-nano"
EACH, SHADOWS, MANY = 200, 4, 16  # images of each kind; shadow models, half of which saw an image
TRAINED = {"epochs": 15, "lr": 3e-3, "batch_size": 32, "warmup": 0, "weight_decay": 0.0}
AUC = "auc"
LOSS, LIRA = "loss, without shadow models", "lira with as many shadow models"


class SuspectsUnit:
    """Images of a draw, half of which a model of a seed was trained on."""

    def __init__(self, draw: int, seed: int) -> None:
        suite = digits.load(seed=draw)
        records = [*suite.train["forget"], *suite.train["retain"]]
        generator = torch.Generator().manual_seed(1000 * draw + seed)
        order = torch.randperm(len(records), generator=generator).tolist()[: 2 * EACH]
        rows = [records[i] for i in order]
        opened = start(SIZE, records, labels=tuple(suite.labels), seed=seed)
        self.modality, self.seed = opened.modality, seed
        self.records = {"forget": rows[:EACH], "holdout": rows[EACH:]}
        self.sets = {name: self.modality.rows(name, of) for name, of in self.records.items()}
        self.plan = build_plan.plan("retrain", {**TRAINED, "seed": seed})
        self.model = loop.run(self.plan, opened.model, self.modality, {"retain": self.sets["forget"].rename("retain")}).model

    @cached_property
    def told(self) -> Scores:
        """The areas of the attacks that read one model."""
        observed = observe(self.model, self.modality, self.records, wants=ObservationSpec(gradient_norms=False))
        records, _ = audit_scores(Evidence(observed), resamples=20)
        return {name: float(r["value"]) for name, r in records.items() if r["kind"] == "membership"}

    @property
    def original(self) -> Scores:
        return {AUC: self.told["mia_loss"]}

    @property
    def retrained(self) -> Scores:
        return {AUC: 0.5}

    @property
    def random(self) -> Scores:
        return {AUC: 0.5}

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The area of the attack of the arm."""
        if arm.name in ("qmia", LOSS):
            return [{AUC: self.told["qmia" if arm.name == "qmia" else "mia_loss"]}]
        attack = rmia.attack if arm.name == "rmia" else lira.attack
        outcome = attack(self.model, self.modality, self.sets, self.plan, seed=self.seed + 1, **settings)
        return [{AUC: outcome[AUC]}]


@dataclass(frozen=True)
class Suspects:
    """Draws of the digits."""

    name: str = "suspects among digits"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> SuspectsUnit:
        return SuspectsUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """Losses must tell something, and leave something to be told."""
        known = fmean(u.told["mia_loss"] for u in units)
        return [
            Gate("losses tell members better than chance", known, known >= 0.52),
            Gate("losses do not tell all members", known, known <= 0.95),
        ]


ARMS: dict[str, Arm] = {
    "rmia": Arm("rmia", "rmia", {"shadows": SHADOWS}),
    LIRA: Arm(LIRA, "lira", {"shadows": SHADOWS}),
    "lira": Arm("lira", "lira", {"shadows": MANY}),
    "qmia": Arm("qmia", "qmia"),
    LOSS: Arm(LOSS, "mia_classifier"),
}
WORLD = Suspects()
CLAIMS: dict[str, tuple[Suspects, tuple[Claim, ...]]] = {
    "rmia": (
        WORLD,
        (
            Claim(
                "with four shadow models, two without each image, it tells members better than the loss and than LiRA with as many",
                "Zarifzadeh et al. 2024, the table of attacks with one and two reference models",
                AUC,
                (LOSS, LIRA),
                "higher",
                0.02,
            ),
        ),
    ),
    "lira": (
        WORLD,
        (
            Claim(
                "with sixteen shadow models, eight without each image, it tells members better than the loss does",
                "Carlini et al. 2022, the table beside attacks with one threshold for all",
                AUC,
                (LOSS,),
                "higher",
                0.02,
            ),
        ),
    ),
    "qmia": (
        WORLD,
        (
            Claim(
                "without any shadow model it tells members better than the loss does",
                "Bertran et al. 2023, the tables beside the marginal baseline, one threshold for all",
                AUC,
                (LOSS,),
                "higher",
                0.02,
            ),
        ),
    ),
}
