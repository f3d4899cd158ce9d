"""The world of restricted training: perceptrons learn digits with and without the penalty, and one step takes a tenth of them out again.

The step is that of IAU, as long as it takes to make the loss of the forgotten digits that of a perceptron trained again in the same way
without them. What the step does to the other digits is the harm; each way of training has a retrained model of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

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
from studies.proofs.vectors import crossing

UNITS = 64  # of the hidden layer
TRAINED = {"epochs": 20, "batch_size": 64}
STEP = 1e-3  # learning rate of a step of length 1, as in the paper
METHOD, PLAIN = "gradient_restriction", "without restriction"
LEAD, HARM, UNSEEN = "lead", "harm", "unseen_before"
KEPT = ("retain", "holdout")


class RestrictedUnit:
    """One draw of the digits, and initial weights."""

    def __init__(self, draw: int, seed: int) -> None:
        suite, self.seed = digits.load(split="random10", seed=draw), seed
        self.modality: Image = classifier_modality(suite.labels)
        records = {**{n: suite.train[n] for n in ("full", "forget", "retain")}, "holdout": suite.sets["holdout"]}
        self.rows = {n: self.modality.rows(n, r) for n, r in records.items()}

    def trained(self, rows: Rows, settings: Mapping[str, Any]) -> nn.Module:
        """A perceptron trained with the penalty of the settings."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, UNITS), nn.ReLU(), nn.Linear(UNITS, 10))
        loop.run(build_plan.plan(METHOD, settings), model, self.modality, {"retain": rows.rename("retain")}, seed=self.seed)
        return model

    @torch.no_grad()
    def losses(self, model: nn.Module) -> dict[str, float]:
        """Mean loss of each set, in nats, and the accuracy on unseen digits."""
        shown = dict[str, float]()
        for name in ("forget", *KEPT):
            (output,) = self.modality.forward(model.eval(), [self.rows[name]])
            shown[name] = -float(output.target_logp.values.mean())
        shown["accuracy"] = float((output.logits.values.argmax(-1) == output.labels).float().mean())
        return shown

    @cached_property
    def plain(self) -> dict[str, dict[str, float]]:
        """Losses of the original, the retrained and an untrained model, without the penalty."""
        settings = {**TRAINED, "lr": 3e-3, "weight": 0.0}
        models = {n: self.trained(self.rows[rows], settings) for n, rows in (("original", "full"), ("retrained", "retain"))}
        models["random"] = self.trained(self.rows["retain"], {**settings, "lr": 0.0, "epochs": 1})
        return {n: self.losses(m) for n, m in models.items()}

    def told(self, name: str) -> Scores:
        """The scores of one of these models."""
        losses = self.plain[name]
        return {LEAD: self.plain["retrained"]["forget"] - losses["forget"], HARM: 0.0, UNSEEN: losses["accuracy"]}

    @property
    def original(self) -> Scores:
        return self.told("original")

    @property
    def retrained(self) -> Scores:
        return self.told("retrained")

    @property
    def random(self) -> Scores:
        return self.told("random")

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """By how much the forgotten digits are better known than after retraining, and how much the loss of others rose: step by step."""
        original = self.trained(self.rows["full"], settings)
        target = self.losses(self.trained(self.rows["retain"], settings))["forget"]
        start = self.losses(original)
        sets = {n: self.rows[n] for n in ("forget", "retain")}

        def after(length: float) -> dict[str, float]:
            model = copy.deepcopy(original)
            loop.run(build_plan.plan("iau", {"lr": STEP * length}), model, self.modality, sets, seed=self.seed)
            return self.losses(model)

        points = [start, *map(after, crossing(lambda length: after(length)["forget"] >= target))]
        return [{LEAD: target - at["forget"], HARM: fmean(at[n] - start[n] for n in KEPT), UNSEEN: start["accuracy"]} for at in points]


@dataclass(frozen=True)
class Restricted:
    """Draws of the digits."""

    name: str = "digits with restricted gradients"
    model: str = f"perceptron of {UNITS} units"

    def unit(self, draw: int, seed: int) -> RestrictedUnit:
        return RestrictedUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The original must know its digits better than the retrained model does, and a rival's step must do harm."""
        lead, useful, lost = (
            fmean(getattr(u, n)[score] for u in units) for n, score in (("original", LEAD), ("original", UNSEEN), ("random", UNSEEN))
        )
        gates = [
            Gate("the original knows the digits to forget better than the retrained model, by 0.03 nats", lead, lead >= 0.03),
            Gate("the original is useful", useful, useful >= 0.8),
            Gate("untrained weights are not", lost, lost <= 0.4),
        ]
        if claim.score == HARM:
            least = min(fmean(values) for values in rivals.values())
            gates.append(Gate("a step without restriction does harm, by twice what matters", least, least >= 2 * claim.matters))
        return gates


ARMS: dict[str, Arm] = {
    a.name: a
    for a in (
        Arm(METHOD, METHOD, TRAINED, {"weight": (0.1, 0.3), "lr": (2e-3, 3e-3)}),
        Arm(PLAIN, METHOD, {**TRAINED, "weight": 0.0}, {"lr": (2e-3, 3e-3, 5e-3, 1e-2)}),
    )
}
CLAIMS: dict[str, tuple[Restricted, tuple[Claim, ...]]] = {
    METHOD: (
        Restricted(),
        (
            Claim(
                "where one step of IAU has forgotten as far as retraining in the same way, the loss of other digits has risen less than"
                " without restriction",
                "arXiv 2507.23257, the comparison of IAU with and without gradient restriction",
                HARM,
                (PLAIN,),
                "lower",
                0.005,
                LEAD,
            ),
            Claim(
                "before that, unseen digits are named as rightly, but for two in a hundred",
                "arXiv 2507.23257, the test accuracy beside it",
                UNSEEN,
                (PLAIN,),
                "higher",
                0.0,
                margin=0.02,
            ),
        ),
    ),
}
