"""The world of linear heads: rows leave a linear model one after the other, or a hundredth of them at once.

Costs are rows for which losses or their derivatives are computed (for DeltaGrad, rows in forward passes plus twice those in backward
passes), as a share of those of fitting the rows that are left anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any
from unittest import mock

from torch import Tensor

from expunge.engine.run_state import RunState
from expunge.functional import linear_models
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate
from studies.proofs.table_draws import CLASSES, Maker, accuracy, classified, leaving, passed, weights_of, without

ROWS, UNSEEN, GONE = 1000, 500, 10
PATH = "deltagrad"  # keeps a path of training, along which a hundredth of the rows leaves at once


@contextmanager
def counting() -> Iterator[list[int]]:
    """Counts the rows whose losses or derivatives linear models compute."""
    counts, derivatives = list[int](), linear_models.derivatives

    def counted(scores: Tensor, targets: Tensor, loss: linear_models.Loss) -> tuple[Tensor, Tensor, Tensor]:
        counts.append(scores.numel())
        return derivatives(scores, targets, loss)

    with mock.patch.object(linear_models, "derivatives", counted):
        yield counts


class HeadUnit:
    """Rows of a draw, and the noise or the order of a training."""

    def __init__(self, draw: int, seed: int, weight_decay: float) -> None:
        self.weight_decay = weight_decay
        self.records, self.unseen = classified(draw, ROWS, UNSEEN)
        self.gone = leaving(GONE, ROWS, 5 * draw + seed)
        self.rest = without(self.records, self.gone)
        self.maker = Maker("linear", self.records, seed)

    def accurate(self, run: RunState) -> float:
        return accuracy(run, self.maker.rows("unseen", self.unseen))

    @cached_property
    def original(self) -> Scores:
        """The head of all rows, without noise; its distance from the retrained one is the unit of distances."""
        return {"accuracy": self.exact(self.records), "distance": 1.0, "cost": 0.0}

    @cached_property
    def retrained(self) -> Scores:
        """The head of the rows that are left, without noise."""
        return {"accuracy": self.exact(self.rest), "distance": 0.0, "cost": 1.0}

    @property
    def random(self) -> Scores:
        return {"accuracy": 1 / CLASSES}

    def exact(self, records: Sequence[Mapping[str, Any]]) -> float:
        settings = {"secret": False, "sigma": 1e-9, "weight_decay": self.weight_decay}
        return self.accurate(self.maker.fitted("certified_removal", settings, records))

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores after all deletions, and the mean cost of one."""
        if arm.method == PATH:
            return [self._along_the_path(settings)]
        run, costs, anew = self.maker.fitted(arm.method, settings, self.records), list[int](), 0.0
        for place in self.gone:
            with counting() as counts:
                run = self.maker.forgotten(arm.method, settings, run, [self.records[place]])
            costs.append(sum(counts))
            anew += sum(float(r["fitted_anew"]) for r in run.shown.get("certificate", ()))
        with counting() as whole:
            self.maker.fitted(arm.method, settings, self.rest)
        return [{"accuracy": self.accurate(run), "cost": fmean(costs) / sum(whole), "fitted_anew": anew / len(self.gone)}]

    def _along_the_path(self, settings: Mapping[str, Any]) -> Scores:
        """Scores of DeltaGrad; with a period of 1 it is retraining on the same batches."""
        before = self.maker.fitted(PATH, settings, self.records)
        gone = [self.records[i] for i in self.gone]
        after, target = (self.maker.forgotten(PATH, {**settings, **s}, before, gone) for s in ({}, {"period": 1}))
        moved, left = ((weights_of(run) - weights_of(target)).norm() for run in (before, after))
        whole = passed(before) * len(self.rest) / len(self.records)  # each row is passed as often
        return {"accuracy": self.accurate(after), "distance": float(left / moved), "cost": passed(after) / whole}


@dataclass(frozen=True)
class Heads:
    """Tables of three classes.

    Args:
        weight_decay: of the heads without noise.
    """

    weight_decay: float = 0.01
    model: str = "linear"

    @property
    def name(self) -> str:
        return f"tables with a linear model, weight decay {self.weight_decay:g}"

    def unit(self, draw: int, seed: int) -> HeadUnit:
        return HeadUnit(draw, seed, self.weight_decay)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The heads must have learned."""
        learned = fmean(u.original["accuracy"] for u in units)
        return [Gate("a head without noise is far more accurate than chance", learned, learned >= 1 / CLASSES + 0.2)]


ARMS: dict[str, Arm] = {
    "certified_removal": Arm("certified_removal", "certified_removal", {"secret": False}),
    "descent_to_delete": Arm("descent_to_delete", "descent_to_delete", {"secret": False}),
    PATH: Arm(PATH, PATH),
}


def cheaper(text: str, source: str, matters: float) -> Claim:
    return Claim(text, source, "cost", ("retrained",), "lower", matters)


def accurate(text: str, source: str, margin: float) -> Claim:
    return Claim(text, source, "accuracy", ("retrained",), "higher", 0.0, margin=margin)


CLAIMS: dict[str, tuple[Heads, tuple[Claim, ...]]] = {
    "certified_removal": (
        Heads(),
        (
            cheaper(
                "a row leaves at less than half of the cost of fitting anew, fits after the budget is spent included",
                "Guo et al. 2020, the times of removal and of retraining",
                0.5,
            ),
            accurate(
                "with noise for epsilon 1 and delta 0.0001 it is at most 0.02 less accurate than without",
                "Guo et al. 2020, accuracy against the deviation of the noise",
                0.02,
            ),
        ),
    ),
    "descent_to_delete": (
        Heads(0.05),
        (
            cheaper(
                "a row leaves at less than three quarters of the cost of descending as near to the optimum from 0",
                "Neel et al. 2020, the comparison with retraining from scratch",
                0.25,
            ),
            accurate(
                "with noise for epsilon 1 and delta 0.0001 it is at most 0.02 less accurate than the optimum",
                "Neel et al. 2020, the bounds of accuracy",
                0.02,
            ),
        ),
    ),
    PATH: (
        Heads(),
        (
            Claim(
                "after a hundredth of the rows left, the weights are ten times nearer to those of retraining than before",
                "Wu et al. 2020, the figures of distances: an order of magnitude at least",
                "distance",
                ("original",),
                "lower",
                0.9,
            ),
            cheaper("it costs less than half of retraining", "Wu et al. 2020, the figures of run times: 2 to 6 times as fast", 0.5),
        ),
    ),
}
