"""Which data of a classifier's features go into which chart: items in a plane, likeness by layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from expunge.report.charts import Line, lines
from expunge.report.figures import Panel
from expunge.report.frame import Axis, Frame
from expunge.report.grids import Heading, PlanePoint, plane
from expunge.report.grouping import Group
from expunge.report.report_data import Classes, LayerSimilarity
from expunge.report.words import finite, number

CONTROLS = ("original", "retrained")


@dataclass(frozen=True)
class Seen:
    """A row with what its models made of the classes."""

    group: Group
    classes: Sequence[Classes]

    @property
    def label(self) -> str:
        return self.group.label

    @property
    def role(self) -> str:
        return self.group.role

    def called(self, of: str) -> Counter[tuple[int, int]]:
        """(class, what it is called) of a set, over all seeds."""
        found: Counter[tuple[int, int]] = Counter()
        for c in self.classes:
            for true, said, n in c.called.get(of, ()):
                found[true, said] += max(0, n)
        return +found

    def bins(self, what: str, of: str) -> list[float]:
        """Shares of the items of a set by bin, over all seeds."""
        every = [b for c in self.classes if (b := getattr(c, what).get(of))]
        many = [sum(max(0, b[i]) for b in every if i < len(b)) for i in range(max(map(len, every), default=0))]
        return [n / sum(many) for n in many] if sum(many) else []


def planes(seen: Sequence[Seen], heads: Mapping[int, Heading], near: bool) -> list[Panel]:
    """Items by what the head reads, a panel a model (its first seed), each turned to look like the first one. heads: of the classes to
    name; near: whether to say what neighbours name.
    """
    panels, first = [], list[Place]()
    for s in seen:
        placed = next((p for c in s.classes if (p := places(c))), None)
        if not placed:
            continue
        spots = turned(placed, first)
        first = first or placed
        labels = []
        for i in sorted({p.label for p in spots} & heads.keys()):
            mine = [p for p in spots if p.label == i]
            top = sorted(p.y for p in mine)[round(0.9 * (len(mine) - 1))]
            labels.append((median(p.x for p in mine), top, heads[i]))
        named = s.group.value("knn_forget") if near else None
        words = f"neighbours {number(named)}" if named is not None else ""
        told = f"Features of {s.label} in a plane: {len(spots)} items. {words}".strip()
        drawn = plane(
            [PlanePoint(p.x, p.y, "gone" if p.forgotten else "kept") for p in sorted(spots, key=lambda p: p.forgotten)], labels, told
        )
        panels.append(Panel(s.label, drawn, note=words))
    return panels


def by_layer(seen: Sequence[Seen]) -> list[Panel]:
    """CKA by layer, a panel a method; how alike the original and the retrained model are is known from either of the two."""
    layers = {id(s): [layer for c in s.classes for layer in c.layers] for s in seen}
    other = dict(zip(CONTROLS, reversed(CONTROLS), strict=True))
    between = next((m for s in seen if s.role in other and (m := _means(layers[id(s)], other[s.role]))), {})
    panels = []
    for s in seen:
        both = {k: m for k in CONTROLS if (m := _means(layers[id(s)], k))}
        order = list(dict.fromkeys(layer.name for layer in layers[id(s)]))
        if s.role != "method" or not both or len(order) < 2:
            continue
        short = tuple(n if n == "head" else str(i + 1) for i, n in enumerate(order))
        frame = Frame(340, 230, Axis(-0.2, len(order) - 0.8, "layer →", named=short), Axis(0, 1, "similarity (CKA)"), left=34)
        drawn = [_line(order, between, "between", "original and retrained")] if between else []
        drawn += [_line(order, m, f"with-{k}", f"{s.label} and the {k} model") for k, m in both.items()]
        panels.append(Panel(s.label, lines(frame, drawn, "Similarity by layer; " + "; ".join(line.hover for line in drawn))))
    return panels


@dataclass(frozen=True)
class Place:
    """An item in the plane, x and y from -1 to 1."""

    x: float
    y: float
    label: int
    forgotten: bool


def places(c: Classes) -> list[Place]:
    """The items of a model whose places are known."""
    found = [(finite(x), finite(y), label, gone) for x, y, label, gone in c.places]
    return [Place(max(-1.0, min(1.0, x)), max(-1.0, min(1.0, y)), i, g) for x, y, i, g in found if x is not None and y is not None]


def turned(places: Sequence[Place], like: Sequence[Place]) -> list[Place]:
    """Turned, and mirrored where that helps, to lie as near as can be to the same items of the first picture: t-SNE has no up or down."""
    if [p.label for p in places] != [p.label for p in like]:
        return list(places)
    best, fit = list(places), -math.inf
    for sign in (1, -1):
        along = sum(p.x * q.x + sign * p.y * q.y for p, q in zip(places, like, strict=True))
        across = sum(p.x * q.y - sign * p.y * q.x for p, q in zip(places, like, strict=True))
        if (reached := math.hypot(along, across)) > fit:
            c, s, fit = along / (reached or 1), across / (reached or 1), reached
            best = [Place(c * p.x - s * sign * p.y, s * p.x + c * sign * p.y, p.label, p.forgotten) for p in places]
    far = max((max(abs(p.x), abs(p.y)) for p in best), default=1.0)
    return [Place(p.x / far, p.y / far, p.label, p.forgotten) for p in best] if far > 1 else best


def _means(layers: Sequence[LayerSimilarity], beside: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for layer in layers:
        if (v := finite(getattr(layer, beside))) is not None:
            found.setdefault(layer.name, []).append(v)
    return {n: sum(v) / len(v) for n, v in found.items()}


def _line(order: Sequence[str], values: dict[str, float], css: str, words: str) -> Line:
    told = ", ".join(f"{n} {number(values[n], 2)}" for n in order if n in values)
    return Line(list(range(len(order))), [values.get(n) for n in order], css, f"{words}: {told}")
