"""The world of networks for tables whose training keeps what forgetting needs: shards with checkpoints, or the change of each step.

SISA takes single rows out; amnesiac unlearning takes a few rows out that have a wrong label, which only a model that saw them knows. Costs
are rows in forward passes plus twice those in backward passes, as a share of those of training on the rows that are left.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from expunge.engine import loop
from expunge.engine.run_state import RunState
from expunge.workflows import build_plan
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate
from studies.proofs.table_draws import CLASSES, Maker, accuracy, classified, leaving, log_probabilities, passed, without

ROWS, UNSEEN, GONE = 200, 500, 2
SIZE = "mlp-micro"
SHARDED = "sisa"
TRAINING = {"epochs": 30, "lr": 3e-3, "batch_size": 8, "warmup": 0, "weight_decay": 0.0}


class CommitteeUnit:
    """Rows of a draw, of which two have a wrong label; and the start of a training."""

    def __init__(self, draw: int, seed: int) -> None:
        records, self.unseen = classified(draw, ROWS, UNSEEN)
        self.gone = leaving(GONE, ROWS, 5 * draw + seed)
        names = sorted({r["label"] for r in records})
        wrong = {i: names[(names.index(records[i]["label"]) + 1) % CLASSES] for i in self.gone}
        self.records = [{**r, "label": wrong.get(i, r["label"])} for i, r in enumerate(records)]
        self.planted, self.rest = [self.records[i] for i in self.gone], without(self.records, self.gone)
        self.maker = Maker(SIZE, self.records, seed)

    def measured(self, run: RunState, cost: float) -> Scores:
        """Accuracy on unseen rows, and the probability of the wrong labels."""
        rows = self.maker.rows("planted", self.planted)
        log_probs, labels = log_probabilities(run, rows)
        given = log_probs.exp().gather(-1, labels[:, None])
        unseen = self.maker.rows("unseen", self.unseen)
        return {"accuracy": accuracy(run, unseen), "wrong_label": float(given.mean()), "cost": cost}

    @cached_property
    def trained(self) -> tuple[RunState, RunState]:
        """Plain training on all rows, and on those that are left."""
        first, second = (self.maker.fitted("finetune", TRAINING, rows) for rows in (self.records, self.rest))
        return first, second

    @cached_property
    def original(self) -> Scores:
        return self.measured(self.trained[0], 0.0)

    @cached_property
    def retrained(self) -> Scores:
        return self.measured(self.trained[1], 1.0)

    @property
    def random(self) -> Scores:
        return {"accuracy": 1 / CLASSES, "wrong_label": 1 / CLASSES}

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores after the rows left, one by one from shards, and the cost of one request."""
        settings = {**TRAINING, **settings}
        whole = passed(self.trained[1])
        if arm.method == "finetune":
            sets = {"retain": self.maker.rows("retain", self.rest)}
            plans = build_plan.plan("finetune", {**settings, "seed": self.maker.seed})
            run = loop.run(plans, copy.deepcopy(self.trained[0].model), self.maker.modality, sets)
            return [self.measured(run, passed(run) / whole)]
        run, costs = self.maker.fitted(arm.method, settings, self.records), list[float]()
        for gone in [[r] for r in self.planted] if arm.method == SHARDED else [self.planted]:
            run = self.maker.forgotten(arm.method, settings, run, gone)
            costs.append(passed(run) / whole)
        return [self.measured(run, fmean(costs))]


@dataclass(frozen=True)
class Committees:
    """Tables of three classes, with two wrong labels."""

    name: str = "tables with wrong labels"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> CommitteeUnit:
        return CommitteeUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The original must be accurate and know the wrong labels, and the retrained model must not."""
        learned, known, unknown = (
            fmean(getattr(u, model)[score] for u in units)
            for model, score in (("original", "accuracy"), ("original", "wrong_label"), ("retrained", "wrong_label"))
        )
        return [
            Gate("the original is far more accurate than chance", learned, learned >= 1 / CLASSES + 0.2),
            Gate("the original knows the wrong labels", known, known >= 0.8),
            Gate("the retrained model does not", unknown, unknown <= 0.5),
        ]


ARMS: dict[str, Arm] = {
    SHARDED: Arm(SHARDED, SHARDED),
    "amnesiac": Arm("amnesiac", "amnesiac"),
    "finetune": Arm("finetune", "finetune", {"epochs": 1}),
}
CLAIMS: dict[str, tuple[Committees, tuple[Claim, ...]]] = {
    SHARDED: (
        Committees(),
        (
            Claim(
                "a row leaves at less than half of the cost of retraining",
                "Bourtoule et al. 2021, the figures of retraining time",
                "cost",
                ("retrained",),
                "lower",
                0.5,
            ),
            Claim(
                "it is at most 0.02 less accurate than a model of all rows",
                "Bourtoule et al. 2021, accuracy on simple tasks: less than two points are lost",
                "accuracy",
                ("retrained",),
                "higher",
                0.0,
                margin=0.02,
            ),
        ),
    ),
    "amnesiac": (
        Committees(),
        (
            Claim(
                "wrong labels are less probable than after as many epochs of fine-tuning on the other rows",
                "Graves et al. 2021, the forgotten data against retraining",
                "wrong_label",
                ("finetune",),
                "lower",
                0.1,
            ),
            Claim(
                "it is at most 0.02 less accurate than retraining",
                "Graves et al. 2021, accuracy on the data that is kept",
                "accuracy",
                ("retrained",),
                "higher",
                0.0,
                margin=0.02,
            ),
            Claim(
                "it costs less than half of retraining",
                "Graves et al. 2021, efficiency beside retraining",
                "cost",
                ("retrained",),
                "lower",
                0.5,
            ),
        ),
    ),
}
