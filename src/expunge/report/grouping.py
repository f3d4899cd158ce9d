"""Entries as rows: seeds pooled, roles in order, and what a score says next to the retrained and the original model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from expunge.report.report_data import Direction, Entry, Role, Score
from expunge.report.words import finite

ROLES: tuple[Role, ...] = ("original", "retrained", "random", "filter", "method")
P_VALUES = {"forget_quality"}  # p-values by name, so that a score that does not say so is still drawn on a logarithmic axis
SAME = 0.05  # from here up, a test does not tell two models apart
_FLOOR = 1e-300  # stands for a p-value of 0 where its logarithm is taken


@dataclass(frozen=True)
class Pooled:
    """A score of a row: of one model as measured, of several seeds the mean and a t-interval (of a p-value, of its logarithm)."""

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
        return self.pooled.get(name)

    def value(self, name: str) -> float | None:
        found = self.get(name)
        return found.value if found else None

    def _pool(self, name: str) -> Pooled:
        scores = [e.scores[name] for e in self.entries if name in e.scores]
        p = name in P_VALUES or any(s.scale == "p" for s in scores)
        told = [s for s in scores if finite(s.value) is not None]
        values = tuple(float(s.value) for s in told if s.value is not None)
        of = told[0] if told else scores[0]
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
    """Rows in the order of the roles, then as given. Entries of one label with one seed twice are different settings, not seeds: each
    stays a row of its own."""
    found: dict[tuple[Role, str], list[Entry]] = {}
    for e in sorted(entries, key=lambda e: ROLES.index(e.role)):
        found.setdefault((e.role, e.label or e.method or e.name), []).append(e)
    rows = []
    for (role, label), es in found.items():
        if len({e.seed for e in es}) == len(es):
            rows.append(Group(label, role, es[0].method, tuple(es)))
        else:
            rows.extend(Group(e.name, role, e.method, (e,)) for e in es)
    return rows


def names(entries: Sequence[Entry]) -> list[str]:
    """Every score's name, in the order met."""
    return list(dict.fromkeys(name for e in entries for name in e.scores))


def control(rows: Sequence[Group], role: Role, name: str) -> Pooled | None:
    """A control's score, of the first such row that has a value."""
    return next((s for g in rows if g.role == role and (s := g.get(name)) and s.value is not None), None)


def ideal(rows: Sequence[Group], name: str) -> tuple[float, float, float] | None:
    """(low, value, high) of what a perfect removal would score: the ideal where one is set, else the retrained model's value."""
    scores = [s.of for g in rows if (s := g.get(name))]
    fixed = next((x for s in scores if (x := finite(s.ideal)) is not None), None)
    if fixed is not None:
        return fixed, fixed, fixed
    if (model := control(rows, "retrained", name)) and model.value is not None:
        return model.ends[0], model.value, model.ends[1]
    told = next((x for s in scores if (x := finite(s.retrained)) is not None), None)
    return None if told is None else (told, told, told)


def direction(rows: Sequence[Group], name: str) -> Direction:
    return next((s.of.direction for g in rows if (s := g.get(name))), "retrained")


def judge(rows: Sequence[Group], group: Group, name: str) -> str:
    """`reached`: at the ideal, or near and not told apart from it. `missed`: no better than the original; or, where the original is as it
    should be (an ability to keep), nearer to random weights than to the ideal. Else nothing: in between, or not to be told."""
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
    # a wide interval alone must not pass for success: the value itself has to be near
    if reaches(score.value, score.value) or (reaches(low, high) and gap <= far / 10):
        return "reached"
    if original is None or original.value is None:
        return ""
    if not reaches(*original.ends):
        return "missed" if gap >= abs(original.value - best[1]) or (low <= original.ends[1] and high >= original.ends[0]) else ""
    return "missed" if random and random.value is not None and abs(score.value - random.value) < gap else ""


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats in both, larger being better, by growing x."""
    order, best, kept = sorted(range(len(points)), key=lambda i: points[i], reverse=True), -math.inf, []
    for i in order:
        if points[i][1] > best:
            kept.append(i)
            best = points[i][1]
    return kept[::-1]
