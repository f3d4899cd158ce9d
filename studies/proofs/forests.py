"""The world of forests: rows leave a random forest one after the other, at a share of the cost of growing it anew.

The cost of a deletion is how many rows the nodes read that it looks at or grows, as a share of those that a new forest reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from expunge.engine.run_state import RunState
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate
from studies.proofs.table_draws import CLASSES, Maker, accuracy, classified, leaving, without

ROWS, UNSEEN, GONE = 1000, 500, 5
METHOD = "dare"


class ForestUnit:
    """Rows of a draw, and the choices of a forest."""

    def __init__(self, draw: int, seed: int) -> None:
        self.records, self.unseen = classified(draw, ROWS, UNSEEN)
        self.gone = leaving(GONE, ROWS, 5 * draw + seed)
        self.maker = Maker("forest", self.records, seed)

    def accurate(self, run: RunState) -> float:
        return accuracy(run, self.maker.rows("unseen", self.unseen))

    @cached_property
    def forests(self) -> tuple[RunState, RunState]:
        """The forest of all rows, and that of the rows that are left."""
        rest = without(self.records, self.gone)
        whole, left = (self.maker.fitted(METHOD, ARMS[METHOD].fixed, records) for records in (self.records, rest))
        return whole, left

    @cached_property
    def original(self) -> Scores:
        return {"accuracy": self.accurate(self.forests[0]), "cost": 0.0}

    @cached_property
    def retrained(self) -> Scores:
        return {"accuracy": self.accurate(self.forests[1]), "cost": 1.0}

    @property
    def random(self) -> Scores:
        return {"accuracy": 1 / CLASSES}

    @cached_property
    def published(self) -> float:
        """Accuracy of the forest of scikit-learn with as many trees, as deep."""
        import numpy as np
        from sklearn.ensemble import RandomForestClassifier

        fixed = ARMS[METHOD].fixed
        forest = RandomForestClassifier(fixed["trees"], max_depth=fixed["depth"], bootstrap=False, random_state=self.maker.seed)
        x, labels = (
            [np.array([[v for k, v in r.items() if k != "label"] for r in records]) for records in (self.records, self.unseen)],
            [[r["label"] for r in records] for records in (self.records, self.unseen)],
        )
        return float(forest.fit(x[0], labels[0]).score(x[1], labels[1]))

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """Accuracy after all deletions, and the mean cost of one."""
        run, reads = self.forests[0], list[float]()
        for place in self.gone:
            run = self.maker.forgotten(arm.method, settings, run, [self.records[place]])
            reads.append(float(run.shown["trees"][0]["rows_read"]))
        return [{"accuracy": self.accurate(run), "cost": fmean(reads) / float(self.forests[1].shown["trees"][0]["rows_read"])}]


@dataclass(frozen=True)
class Forests:
    """Tables of three classes."""

    name: str = "tables with a forest"
    model: str = "forest"

    def unit(self, draw: int, seed: int) -> ForestUnit:
        return ForestUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The forests must have learned, about as well as a published one."""
        learned, published = fmean(u.original["accuracy"] for u in units), fmean(u.published for u in units)
        return [
            Gate("the original is far more accurate than chance", learned, learned >= 1 / CLASSES + 0.3),
            Gate("a forest of scikit-learn is at most 0.02 more accurate", published, published <= learned + 0.02),
        ]


ARMS: dict[str, Arm] = {METHOD: Arm(METHOD, METHOD, {"trees": 10, "depth": 10})}
PAPER = "Brophy and Lowd 2021, the tables of deletions in the time of retraining once"
CLAIMS: dict[str, tuple[Forests, tuple[Claim, ...]]] = {
    METHOD: (
        Forests(),
        (
            Claim("a row leaves at less than half of the cost of growing the forest anew", PAPER, "cost", ("retrained",), "lower", 0.5),
            Claim(
                "after five deletions it is at most one hundredth less accurate than a forest that is grown anew",
                "Brophy and Lowd 2021, where deletions are exact",
                "accuracy",
                ("retrained",),
                "higher",
                0.0,
                margin=0.01,
            ),
        ),
    )
}
