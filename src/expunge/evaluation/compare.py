"""Each score that is a check, compared between models on the same items: plain numbers, from which any thresholds can judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from expunge.evaluation.equivalence import Difference, difference
from expunge.evaluation.measure import Measure, Missing, ScoreSpec
from expunge.evaluation.scoring import Measured
from expunge.functional.brief import brief


@brief()
@dataclass(frozen=True, eq=False)
class Compared:
    """One score of the audited model, beside the other models.

    Args:
        beyond: the model minus its yardstick: the retrained model, or random weights where these show more, since what an untrained model
            scores is no knowledge.
        by_chance: whether random weights are the yardstick.
        gained: the model minus the original.
        shown: the original minus the yardstick, or minus itself on unseen items where there is no yardstick: what the score can show.
        contrast: the original minus the yardstick on the same items, which tells whether `shown` may be chance.
        original: the original's value.
    """

    spec: ScoreSpec
    value: float
    n: int
    beyond: Difference | None = None
    by_chance: bool = False
    gained: Difference | None = None
    shown: float | None = None
    contrast: Difference | None = None
    original: float | None = None


def comparisons(measures: Mapping[str, Measured]) -> dict[str, Compared]:
    """The scores that have a margin, compared where the other models have them too, by the same definition."""
    by_score = {}
    for name, (own, spec, retrained, original, random, unseen) in measures.items():
        if spec.margin is None or not isinstance(own, Measure) or not isfinite(value := own.value()):
            continue
        by_chance = spec.kind == "knowledge" and _above(random, retrained)
        yardstick = random if by_chance else retrained
        before = original.value() if isinstance(original, Measure) else None
        other = yardstick if yardstick is not None else unseen
        shown = before - other.value() if before is not None and isinstance(other, Measure) else None
        beyond, gained = _difference(own, yardstick), _difference(own, original)
        contrast = _difference(original, yardstick) if original is not None and beyond is not None else None
        by_score[name] = Compared(spec, value, len(own.items[0]), beyond, by_chance, gained, shown, contrast, before)
    return by_score


def _above(random: Measure | Missing | None, retrained: Measure | Missing | None) -> bool:
    return isinstance(random, Measure) and isinstance(retrained, Measure) and random.value() > retrained.value()


def _difference(own: Measure | Missing, other: Measure | Missing | None) -> Difference | None:
    if not isinstance(own, Measure) or not isinstance(other, Measure) or own.variant != other.variant:
        return None
    gap = difference(own, other)
    return gap if isfinite(gap.effect) else None
