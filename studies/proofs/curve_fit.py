"""The world of a poisoned curve: perceptrons that go through points of a sine and through wrong ones, which are to be forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from studies.cases.curve import after, farthest, poisoned
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SCORE = "farthest"  # the largest distance from the sine


class SineUnit:
    """One perceptron with its points."""

    def __init__(self, draw: int, seed: int) -> None:
        self.seed = 5 * draw + seed
        self.start, self.sets = poisoned(self.seed)

    @cached_property
    def original(self) -> Scores:
        return {SCORE: farthest(self.start)}

    @cached_property
    def retrained(self) -> Scores:
        """The smallest perceptron that goes through the points of the sine alone."""
        return {SCORE: farthest(poisoned(self.seed, wrong=0)[0])}

    @cached_property
    def random(self) -> Scores:
        return {SCORE: farthest(poisoned(self.seed, fitted=False)[0])}

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The distance at the end."""
        return [{SCORE: farthest(after(arm.method, settings, self.start, self.sets, self.seed))}]


@dataclass(frozen=True)
class Sine:
    """Perceptrons with points of their own; a draw is five of them."""

    name: str = "poisoned sine"
    model: str = "perceptron of 300 units"

    def unit(self, draw: int, seed: int) -> SineUnit:
        return SineUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The wrong points must pull the curve away, the points of the sine alone must not, and random weights must be far."""
        original, retrained, random = (fmean(getattr(u, n)[SCORE] for u in units) for n in ("original", "retrained", "random"))
        nearest = min(fmean(values) for values in rivals.values())
        return [
            Gate(
                "the original is at least three times as far from the sine as one without wrong points", original, original >= 3 * retrained
            ),
            Gate("random weights are farther than the original", random, random > original),
            Gate("no rival is as near as one without wrong points", nearest, nearest >= retrained + claim.matters),
        ]


ARMS: dict[str, Arm] = {
    a.name: a
    for a in (
        Arm("minnorm_og", "minnorm_og", {"descent": 50, "gamma": 0.9}, {"lr": (1e-3, 1e-2), "every": (2, 10), "strength": (0.1, 1.0)}),
        Arm("finetune", "finetune", grid={"lr": (1e-4, 1e-3, 1e-2, 3e-2), "weight_decay": (0.0, 0.1)}),
        Arm("ga", "ga", grid={"lr": (1e-6, 1e-5, 1e-4, 1e-3), "epochs": (5, 10)}),
        Arm("neggrad_plus", "neggrad_plus", {"momentum": 0.9}, {"lr": (1e-4, 1e-3, 1e-2), "alpha": (0.8, 0.95, 0.99)}),
        Arm("l1_sparse", "l1_sparse", {"l1_epochs": 50}, {"lr": (1e-3, 1e-2), "alpha": (1e-4, 1e-3, 1e-2, 1e-1)}),
    )
}
CLAIMS: dict[str, tuple[Sine, tuple[Claim, ...]]] = {
    "minnorm_og": (
        Sine(),
        (
            Claim(
                "the curve ends nearer to the sine than after fine-tuning, ascent, both at once, and l1-sparsity",
                "Block, Mokhtari and Shakkottai 2025, data poisoning of a sine",
                SCORE,
                ("finetune", "ga", "neggrad_plus", "l1_sparse"),
                "lower",
                0.1,
            ),
        ),
    )
}
