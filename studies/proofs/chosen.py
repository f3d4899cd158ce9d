"""The world of chosen forget sets: a tenth of some digits, drawn at random or chosen as the hardest to forget.

Whether a set is hard to forget shows in models that are trained again without it: what they still know of it was never its own. The loss of
random sets is the mean over several.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from expunge.benchmarks import digits
from expunge.core.request import content
from expunge.engine import ensemble as asking
from expunge.engine.ensemble import Ensemble, joined
from expunge.io.models import Opened
from expunge.parallel import ensembles
from expunge.workflows import build_plan
from expunge.workflows.train import start
from expunge.workflows.unlearn import unlearn
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZE = "resnet-nano"
EACH, UNSEEN, DRAWN = 25, 500, 2  # images of each digit; unseen ones; random sets
TRAINED = {"epochs": 15, "lr": 3e-3, "batch_size": 25, "warmup": 0, "weight_decay": 0.0}
FINETUNED = {"lr": 3e-3, "batch_size": 25, "epochs": 10, "warmup": 0}
LOSS, UNLEARNED, ACCURACY = "forget_loss", "unlearned_loss", "unseen_accuracy"
RANDOM = "random sets"


class ChosenUnit:
    """Equally many images of every digit, and a network that knows them."""

    def __init__(self, draw: int, seed: int) -> None:
        suite, self.seed = digits.load(seed=draw), seed
        records = [*suite.train["forget"], *suite.train["retain"]]
        self.generator = torch.Generator().manual_seed(1000 * draw + seed)
        order = torch.randperm(len(records), generator=self.generator).tolist()
        by_digit = [[records[i] for i in order if records[i]["label"] == y][:EACH] for y in range(len(suite.labels))]
        self.records = [r for one_of_each in zip(*by_digit, strict=True) for r in one_of_each]
        self.size = len(self.records) // 10
        opened = start(SIZE, self.records, labels=tuple(suite.labels), seed=seed)
        self.model, self.modality = opened.model, opened.modality
        self.rows = self.modality.rows("retain", self.records)
        self.unseen = self.modality.rows("holdout", suite.sets["holdout"][:UNSEEN])
        self.plan = build_plan.plan("retrain", TRAINED)
        self.random_sets = [torch.randperm(len(self.rows), generator=self.generator)[: self.size] for _ in range(DRAWN)]
        self.known = self.trained(torch.ones(1, len(self.rows), dtype=torch.bool), seed)

    def trained(self, masks: Tensor, seed: int) -> Ensemble:
        """Models of the images that each mask (models, images) has."""
        return ensembles.train(self.plan, self.model, self.modality, self.rows, masks, seed=seed)

    def losses(self, models: Ensemble) -> Tensor:
        """Loss of each model on each image, (models, images), in nats."""
        return asking.ask(models, self.modality, self.rows, lambda output: -output.target_logp.values)

    def accuracy(self, models: Ensemble) -> float:
        """Share of unseen images that the models name rightly."""
        return float(
            asking.ask(models, self.modality, self.unseen, lambda output: (output.logits.values.argmax(-1) == output.labels).float()).mean()
        )

    @cached_property
    def original(self) -> Scores:
        """The loss of what the model was trained on."""
        return {LOSS: float(self.losses(self.known).mean()), ACCURACY: self.accuracy(self.known)}

    @property
    def retrained(self) -> Scores:
        return self.measured(self.masks(RANDOM, {}))

    @property
    def random(self) -> Scores:
        return {LOSS: float(torch.tensor(10.0).log()), ACCURACY: 0.1}

    def masks(self, name: str, settings: Mapping[str, Any]) -> Tensor:
        """The images to forget, (sets, images) of bool: the chosen set, or random ones."""
        if name == RANDOM:
            chosen = self.random_sets
        else:
            opened = Opened(copy.deepcopy(self.model), self.modality, name)
            opened.model.load_state_dict(self.known[0])
            result = unlearn(
                "worst_case", opened, self.records[: self.size], self.records[self.size :], steps=1, seed=self.seed, **settings
            )
            place = {content(i): k for k, i in enumerate(self.rows.ids)}
            chosen = [torch.tensor([place[content(i)] for i in result.selected["forget"].ids])]
        masks = torch.zeros(len(chosen), len(self.rows), dtype=torch.bool)
        for mask, places in zip(masks, chosen, strict=True):
            mask[places] = True
        return masks

    def measured(self, masks: Tensor) -> dict[str, float]:
        """The loss of sets for models trained without them, and for models that unlearned them by fine-tuning; means over sets."""
        again = self.trained(~masks, self.seed + 1)
        plan = build_plan.plan("finetune", FINETUNED)
        unlearned = ensembles.unlearn(plan, joined([self.known] * len(masks)), self.modality, self.rows, masks, seed=self.seed)
        return {
            LOSS: float(self.losses(again)[masks].mean()),
            UNLEARNED: float(self.losses(unlearned)[masks].mean()),
            ACCURACY: self.accuracy(again),
        }

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores of the sets of the arm."""
        return [self.measured(self.masks(arm.name, settings))]


@dataclass(frozen=True)
class Chosen:
    """Draws of the digits."""

    name: str = "chosen sets of digits"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> ChosenUnit:
        return ChosenUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The original must know its images, and training without some of them must leave them less known."""
        known, useful = (fmean(u.original[n] for u in units) for n in (LOSS, ACCURACY))
        gates = [
            Gate("the original knows its images: a loss of at most 0.1 nats", known, known <= 0.1),
            Gate("the original is useful", useful, useful >= 0.8),
        ]
        if claim.score in (LOSS, UNLEARNED):
            lost = fmean(v for values in rivals.values() for v in values)
            gates.append(Gate("random sets are less known without training on them", lost, lost >= known + 2 * claim.matters))
        return gates


ARMS: dict[str, Arm] = {"worst_case": Arm("worst_case", "worst_case"), RANDOM: Arm(RANDOM, "finetune")}
WORLD = Chosen()
SOURCE = "Fan et al. 2024, the tables of random and worst-case forget sets"
CLAIMS: dict[str, tuple[Chosen, tuple[Claim, ...]]] = {
    "worst_case": (
        WORLD,
        (
            Claim(
                "models trained again without the chosen images know them better than models trained without random ones know those",
                SOURCE,
                LOSS,
                (RANDOM,),
                "lower",
                0.05,
            ),
            Claim("so do models that unlearned them by fine-tuning", SOURCE, UNLEARNED, (RANDOM,), "lower", 0.02),
            Claim(
                "models trained again without them are as right on unseen images, but for two in a hundred",
                SOURCE,
                ACCURACY,
                (RANDOM,),
                "higher",
                0.0,
                margin=0.02,
            ),
        ),
    ),
}
