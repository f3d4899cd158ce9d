"""What the protocol needs of a world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate


class Unit(Protocol):
    """An original model and its retrained model, on one draw of the data."""

    original: Scores
    retrained: Scores
    random: Scores

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The original while an arm forgets, or after it; the last point is the final model. `cost` is the share of retraining's cost.

        Args:
            arm: what forgets.
            settings: its hyperparameters.
            scores: what the claims read; a world may leave out what costs and is not read.
        """


class World(Protocol):
    """A family of cases: any number of draws of the data, and of originals on each."""

    name: str
    model: str

    def unit(self, draw: int, seed: int) -> Unit: ...

    def gates(self, claim: Claim, units: Sequence[Unit], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The conditions of this world for a claim.

        Args:
            rivals: the rivals' values of the claim's score, one for each unit.
        """
