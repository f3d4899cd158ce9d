"""Entries as rows: seeds pooled, roles in order, and what a score says next to the retrained and the original model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from expunge.report.report_data import Direction, Entry, Role, Score
from expunge.report.words import finite

ROLES: tuple[Role, ...] = ("original", "retrained", "random", "filter", "method")
SAME = 0.05  # from this p-value up, a test does not tell two models apart
_FLOOR = 1e-300  # stands for a p-value of 0 where its logarithm is taken


@dataclass(frozen=True)
class Pooled:
    """A score of a row: of one model as measured, of several seeds the mean and a t-interval (for a p-value, those of its logarithm)."""

    value: float | None
    low: float | None
    high: float | None
    of: Score
    seeds: tuple[float, ...] = ()
    total: int = 1
    p: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, or the value twice."""
        value = self.value if self.value is not None else math.nan
        return (value if self.low is None else self.low, value if self.high is None else self.high)


@dataclass(frozen=True)
class Group:
    """One row: the seeds of one method, or one control."""

    label: str
    role: Role
    method: str
    entries: tuple[Entry, ...]

    @cached_property
    def pooled(self) -> dict[str, Pooled]:
        """Every score that any of the entries has."""
        return {name: self._pool(name) for name in names(self.entries)}

    def get(self, name: str) -> Pooled | None:
        """A score by its name; None where no entry has it."""
        return self.pooled.get(name)

    def value(self, name: str) -> float | None:
        """The value of a score; None where it is missing."""
        score = self.get(name)
        return score.value if score else None

    def _pool(self, name: str) -> Pooled:
        scores = [entry.scores[name] for entry in self.entries if name in entry.scores]
        p = any(score.scale == "p" for score in scores)
        known = [score for score in scores if finite(score.value) is not None]
        values = tuple(float(score.value) for score in known if score.value is not None)
        of = known[0] if known else scores[0]
        total = len(self.entries)
        if not values:
            return Pooled(None, None, None, of, total=total, p=p)
        if len(values) == 1:
            low, high = of.interval or (None, None)
            return Pooled(values[0], finite(low), finite(high), of, values, total, p)
        low, mid, high = _t_interval([math.log10(max(v, _FLOOR)) for v in values] if p else values)
        if p:
            low, mid, high = (10 ** max(-300.0, min(0.0, x)) for x in (low, mid, high))
        return Pooled(mid, low, high, of, values, total, p)


def _t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    from scipy.stats import t

    n = len(values)
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    half = float(t.ppf((1 + level) / 2, n - 1)) * error
    return mean - half, mean, mean + half


def groups(entries: Sequence[Entry]) -> list[Group]:
    """Rows in the order of the roles, then of the entries.

    Entries of one label with the same seed twice are different settings, not seeds: each is a row of its own.
    """
    by_label: dict[tuple[Role, str], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: ROLES.index(entry.role)):
        by_label.setdefault((entry.role, entry.label or entry.method or entry.name), []).append(entry)
    rows = []
    for (role, label), members in by_label.items():
        if len({entry.seed for entry in members}) == len(members):
            rows.append(Group(label, role, members[0].method, tuple(members)))
        else:
            rows.extend(Group(entry.name, role, entry.method, (entry,)) for entry in members)
    return rows


def names(entries: Sequence[Entry]) -> list[str]:
    """Every score's name, in the order of appearance."""
    return list(dict.fromkeys(name for entry in entries for name in entry.scores))


def control(rows: Sequence[Group], role: Role, name: str) -> Pooled | None:
    """A control's score, of the first row of that role that has a value."""
    return next((score for group in rows if group.role == role and (score := group.get(name)) and score.value is not None), None)


def ideal(rows: Sequence[Group], name: str) -> tuple[float, float, float] | None:
    """The score of a perfect removal: the ideal where one is set, else the retrained model's value.

    Returns:
        (low, value, high); None where neither is known.
    """
    scores = [score.of for group in rows if (score := group.get(name))]
    fixed = next((value for score in scores if (value := finite(score.ideal)) is not None), None)
    if fixed is not None:
        return fixed, fixed, fixed
    if (model := control(rows, "retrained", name)) and model.value is not None:
        return model.ends[0], model.value, model.ends[1]
    noted = next((value for score in scores if (value := finite(score.retrained)) is not None), None)
    return None if noted is None else (noted, noted, noted)


def direction(rows: Sequence[Group], name: str) -> Direction:
    """What good forgetting looks like in a score, as the first row that has it says."""
    return next((score.of.direction for group in rows if (score := group.get(name))), "retrained")


def judge(rows: Sequence[Group], group: Group, name: str) -> str:
    """What a method's score means beside the controls.

    Returns:
        reached: at the ideal, or near it and not told apart from it.
        missed: no better than the original; or, where the original is at the ideal (an ability to keep), nearer to random weights than
        to the ideal.
        '': in between, or unknown.
    """
    score, best = group.get(name), ideal(rows, name)
    if score is None or score.value is None or group.role != "method":
        return ""
    original, low, high = control(rows, "original", name), *score.ends
    if score.p:
        unmoved = original is not None and original.value is not None and original.value < SAME and score.value <= original.value
        return "reached" if score.value >= SAME else "missed" if unmoved else ""
    if best is None:
        return ""
    toward = direction(rows, name)

    def reaches(a: float, b: float) -> bool:
        return (toward != "lower" and b >= best[0] and (toward == "higher" or a <= best[2])) or (toward == "lower" and a <= best[2])

    random = control(rows, "random", name)
    gap = abs(score.value - best[1])
    far = max((abs(c.value - best[1]) for c in (original, random) if c and c.value is not None), default=math.inf)
    # a wide interval alone is no success: the value itself has to be near
    if reaches(score.value, score.value) or (reaches(low, high) and gap <= far / 10):
        return "reached"
    if original is None or original.value is None:
        return ""
    if not reaches(*original.ends):
        return "missed" if gap >= abs(original.value - best[1]) or (low <= original.ends[1] and high >= original.ends[0]) else ""
    return "missed" if random and random.value is not None and abs(score.value - random.value) < gap else ""


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point beats in both values, larger being better, by growing x."""
    order, best, kept = sorted(range(len(points)), key=lambda i: points[i], reverse=True), -math.inf, []
    for i in order:
        if points[i][1] > best:
            kept.append(i)
            best = points[i][1]
    return kept[::-1]
