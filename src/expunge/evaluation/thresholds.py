"""The limits of a verdict. All of them can be chosen anew, also for an audit that was made before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.functional.brief import brief

LEAST = 0.001  # chance that the draws of a test can still tell from 0


@brief()
@dataclass(frozen=True)
class Thresholds:
    """Limits of a verdict.

    Args:
        alpha: the chance that a verdict "removed" or "not removed" is wrong where the truth lies at a margin.
        margins: of scores by name, in their own units; others have the margin of their `ScoreSpec`.
        kept: share of the utility of the retrained (else the original) model below which the model is damaged.
        knows: the least value of a score from 0 to 1 at which the original counts as knowing the rows.
        moved: the least change of a score that counts as one under an attack.
        guessed: share of answers that a model without knowledge may guess, where no retrained model shows it.
    """

    alpha: float = 0.05
    margins: Mapping[str, float] = field(default_factory=dict)
    kept: float = 0.8
    knows: float = 0.25
    moved: float = 0.05
    guessed: float = 0.2

    def check(self, scores: Iterable[str]) -> None:
        """Raises: UserError for a limit out of its range, or a margin of a score that no audit has."""
        known = list(scores)
        if not LEAST <= self.alpha < 0.5:
            raise UserError(f"alpha is a chance from {LEAST:g} to 0.5, usually 0.05; this is {self.alpha:g}")
        for name, margin in self.margins.items():
            if name not in known:
                raise UserError(f"there is no margin of {name!r}: no check compares such a score{did_you_mean(name, known)}")
            if not margin > 0:
                raise UserError(f"the margin of {name} must be above 0; this is {margin:g}")

    def margin(self, name: str, default: float) -> float:
        """The margin of a score."""
        return float(self.margins.get(name, default))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"margins": dict(self.margins)}
