"""The world of a stream: digits arrive two classes at a time, and a small network remembers only the last two, unless it is repaired.

The cost is rows in forward passes plus twice the rows in backward passes, in excess of plain training, as a share of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from expunge.evaluation.audited_models import silent
from expunge.methods.updates.k_fpf import FPF
from studies.cases.accuracy import accuracy
from studies.cases.stream import TASKS, Case
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

PLAIN, REPLAY, OURS = "plain training", "replay of kept rows", "k_fpf"


class StreamUnit:
    """One draw of the digits, and one network that learns them in order."""

    def __init__(self, draw: int, seed: int) -> None:
        self.case, self.seed = Case(silent, draw), seed

    @cached_property
    def original(self) -> Scores:
        """Plain training."""
        return self.learned(PLAIN, None)

    @property
    def retrained(self) -> Scores:
        return self.original

    @cached_property
    def random(self) -> Scores:
        return {"accuracy": accuracy(self.case.random_init, self.case.modality, self.case.unseen)}

    def learned(self, way: str, repair: FPF | None) -> dict[str, float]:
        """Accuracy on unseen digits of all classes after the last task, and the cost in rows."""
        scores = dict(self.case.learned(way, self.seed, way == REPLAY, repair, repair))
        return {"accuracy": scores["accuracy"], "rows": scores["cost"]}

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """Accuracy and cost at the end of the stream."""
        repair = FPF(k=1, repair=replace(FPF().repair, train=replace(FPF().repair.train, **settings))) if arm.name == OURS else None
        end = self.learned(arm.name, repair)
        return [{"accuracy": end["accuracy"], "cost": (end["rows"] - self.original["rows"]) / self.original["rows"]}]


@dataclass(frozen=True)
class Stream:
    """Draws of the digits in five tasks."""

    name: str = "digits in five tasks"
    model: str = "resnet-nano"

    def unit(self, draw: int, seed: int) -> StreamUnit:
        return StreamUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """Plain training must know little more than the last of the five tasks, and more than random weights."""
        plain, random = (fmean(getattr(u, n)["accuracy"] for u in units) for n in ("original", "random"))
        return [
            Gate("plain training forgets the earlier tasks", plain, plain <= 2.5 / TASKS),
            Gate("plain training knows more than random weights", plain, plain > random),
        ]


ARMS: dict[str, Arm] = {
    OURS: Arm(OURS, "k_fpf", {"steps": 60, "lr": 0.1}),
    PLAIN: Arm(PLAIN, "finetune"),
    REPLAY: Arm(REPLAY, "finetune"),
}
CLAIMS: dict[str, tuple[Stream, tuple[Claim, ...]]] = {
    "k_fpf": (
        Stream(),
        (
            Claim(
                "at the end of the stream accuracy on all classes is far above that of plain training",
                "Zhao et al. 2023, the tables of class-incremental learning",
                "accuracy",
                (PLAIN,),
                "higher",
                0.1,
            ),
            Claim(
                "it costs less than replay of kept rows in every step",
                "Zhao et al. 2023, accuracy beside the cost of training",
                "cost",
                (REPLAY,),
                "lower",
                0.1,
            ),
        ),
    )
}
