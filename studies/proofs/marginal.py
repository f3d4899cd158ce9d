"""The world of copies: half of the rows to forget have wrong labels, and the others have copies among the rows to retain.

Copies are noisy versions of one image, so that forgetting the image itself changes nothing. A perceptron that learned all rows has longer
gradients at wrong labels, and a selector by that length should leave out the copied images. What it leaves is compared with retraining
without the whole request.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn

from expunge.benchmarks import digits
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.modalities.image.modality import Image, classifier_modality
from expunge.workflows import build_plan
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

UNITS, OTHERS = 256, 600  # of the hidden layer; rows to retain besides copies
WRONG, COPIED, COPIES, NOISE = 20, 20, 4, 0.05  # rows to forget with wrong labels and with copies; copies of each; deviation of a pixel
TRAINED = {"lr": 5e-3, "batch_size": 64, "epochs": 60}
METHOD, WHOLE, CHANCE = "low_influence", "the whole request", "a half by chance"
GAP, COST = "gap", "cost"
SETS = ("wrong", "copied", "retain", "holdout")


class MarginalUnit:
    """One original and one retrained perceptron on one draw of the digits."""

    def __init__(self, draw: int, seed: int) -> None:
        suite, self.seed = digits.load(split="random10", seed=draw), seed
        rng = np.random.default_rng(1000 * draw + seed)
        self.modality: Image = classifier_modality(suite.labels)
        full = [suite.train["full"][i] for i in rng.permutation(len(suite.train["full"]))]
        copied, others = full[WRONG : WRONG + COPIED], full[-OTHERS:]
        wrong = [{**r, "label": int((r["label"] + rng.integers(1, 10)) % 10)} for r in full[:WRONG]]

        def noisy(record: Mapping[str, Any]) -> dict[str, Any]:
            image = record["image"] + NOISE * rng.standard_normal(record["image"].shape).astype(np.float32)
            return {**record, "image": image.clip(0, 1).astype(np.float32)}

        copies = [noisy(r) for r in copied for _ in range(COPIES)]
        records = {"wrong": wrong, "copied": copied, "retain": [*others, *copies], "holdout": suite.sets["holdout"]}
        self.rows: dict[str, Rows] = {n: self.modality.rows(n, r) for n, r in records.items()}
        self.rows["forget"] = self.rows["wrong"].concat(self.rows["copied"]).rename("forget")
        self.models = [self.trained(self.rows["forget"].concat(self.rows["retain"])), self.trained(self.rows["retain"])]
        self.target = self.known(self.models[1])

    def trained(self, rows: Rows, **settings: Any) -> nn.Module:
        """A perceptron of these rows."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, UNITS), nn.ReLU(), nn.Linear(UNITS, 10))
        plan = build_plan.plan("retrain", {**TRAINED, "warmup": 0, **settings})
        loop.run(plan[1:], model, self.modality, {"retain": rows.rename("retain")}, seed=self.seed)
        return model

    @torch.no_grad()
    def known(self, model: nn.Module) -> dict[str, float]:
        """The mean probability of the label in each set."""
        return {n: float(self.modality.forward(model.eval(), [self.rows[n]])[0].target_logp.values.exp().mean()) for n in SETS}

    def measure(self, model: nn.Module) -> dict[str, float]:
        """The mean distance of the probabilities from those of the retrained perceptron."""
        known = self.known(model)
        return {GAP: fmean(abs(known[n] - self.target[n]) for n in SETS)}

    @cached_property
    def original(self) -> Scores:
        return {**self.measure(self.models[0]), COST: 0.0}

    @property
    def retrained(self) -> Scores:
        return {GAP: 0.0, COST: 1.0}

    @cached_property
    def random(self) -> Scores:
        return self.measure(self.trained(self.rows["retain"], lr=0.0, epochs=1))

    def lead(self, name: str) -> float:
        """By how much more probable the labels of a set are to the original than to the retrained perceptron."""
        return self.known(self.models[0])[name] - self.target[name]

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores at the end, and the cost as a share of training."""
        model, sets = copy.deepcopy(self.models[0]), {n: self.rows[n] for n in ("forget", "retain")}
        result = loop.run(build_plan.plan(METHOD, settings), model, self.modality, sets, seed=self.seed)
        rows = len(self.rows["forget"]) + len(self.rows["retain"])
        passes = result.cost.forward_tokens + 2 * result.cost.backward_tokens
        return [{**self.measure(model), COST: passes / (3 * TRAINED["epochs"] * rows)}]


@dataclass(frozen=True)
class Marginal:
    """Draws of the digits."""

    name: str = "digits and copies"
    model: str = f"perceptron of {UNITS} units"

    def unit(self, draw: int, seed: int) -> MarginalUnit:
        return MarginalUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """Forgetting wrong labels must change something, and forgetting copied images hardly; the whole request must come nearer."""
        lead, copied = (fmean(u.lead(name) for u in units) for name in ("wrong", "copied"))
        start, random = (fmean(getattr(u, n)[GAP] for u in units) for n in ("original", "random"))
        gates = [
            Gate("wrong labels are likelier than after retraining, by 0.3", lead, lead >= 0.3),
            Gate("labels of copied images are not, but for a twentieth", copied, copied <= 0.05),
            Gate("random weights are farther from the retrained model than the original", random, random > start),
        ]
        if claim.score == GAP and WHOLE in claim.rivals:
            whole = fmean(rivals[WHOLE])
            gates.append(Gate("the whole request comes nearer to retraining than the original", whole, whole < start))
        return gates


FIXED = {"batch_size": 8, "schedule": "constant", "warmup": 0, "epochs": 10}
GRID = {"lr": (1e-4, 2e-4, 3e-4, 5e-4)}
ARMS: dict[str, Arm] = {
    a.name: a
    for a in (
        Arm(METHOD, METHOD, {**FIXED, "drop": 0.5}, GRID),
        Arm(WHOLE, METHOD, {**FIXED, "drop": 0.0}, GRID),
        Arm(CHANCE, METHOD, {**FIXED, "drop": 0.5, "score": "random"}, GRID),
    )
}
SOURCE = "Kleiman et al. 2025: accuracy and membership unchanged while time falls by up to a half"
CLAIMS: dict[str, tuple[Marginal, tuple[Claim, ...]]] = {
    METHOD: (
        Marginal(),
        (
            Claim(
                "without the half of least influence a request ends as near to retraining as the whole, but for a fiftieth",
                SOURCE,
                GAP,
                (WHOLE,),
                "lower",
                0.0,
                margin=0.02,
            ),
            Claim(
                "it ends nearer than without a half by chance", f"{SOURCE}; random dropping as the control", GAP, (CHANCE,), "lower", 0.005
            ),
        ),
    ),
}
