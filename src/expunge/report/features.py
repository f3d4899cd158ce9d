"""Which data of a model's features go into which chart: items in a plane, similarity by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from expunge.report.charts import Line, lines
from expunge.report.figures import Figure
from expunge.report.frame import Axis, Frame
from expunge.report.grids import Heading, PlanePoint, plane
from expunge.report.grouping import Group
from expunge.report.words import finite, number

CONTROLS = ("original", "retrained")


@dataclass(frozen=True)
class Place:
    """An item in the plane, x and y from -1 to 1."""

    x: float
    y: float
    label: int
    forgotten: bool


@dataclass(frozen=True)
class LayerMeans:
    """A row's mean similarity of features by layer, in order, to the original and to the retrained model."""

    group: Group
    order: Sequence[str]
    similarity: Mapping[str, Mapping[str, float]]  # control -> layer -> similarity, 0 to 1


def planes(placed: Sequence[tuple[Group, Sequence[Place]]], headings: Mapping[int, Heading], neighbors: str = "") -> list[Figure]:
    """Items by the input of the head, a chart a model, each turned to look like the first one.

    Args:
        placed: rows with the places of their items; rows without places are left out.
        headings: the names of the labels to write beside their items.
        neighbors: the score that says what the nearest neighbors of unseen items still name; '' where the charts should not say it.
    """
    figures: list[Figure] = []
    first: Sequence[Place] = []
    for group, places in placed:
        if not places:
            continue
        spots = turned(places, first)
        first = first or places
        labels = []
        for label in sorted({spot.label for spot in spots} & headings.keys()):
            labeled = [spot for spot in spots if spot.label == label]
            top = sorted(spot.y for spot in labeled)[round(0.9 * (len(labeled) - 1))]
            labels.append((median(spot.x for spot in labeled), top, headings[label]))
        score = group.value(neighbors) if neighbors else None
        note = f"neighbors {number(score)}" if score is not None else ""
        points = [PlanePoint(s.x, s.y, "gone" if s.forgotten else "kept") for s in sorted(spots, key=lambda s: s.forgotten)]
        chart = plane(points, labels, f"Features of {group.label} in a plane: {len(spots)} items. {note}".strip())
        figures.append(Figure(group.label, chart, note=note))
    return figures


def by_layer(rows: Sequence[LayerMeans]) -> list[Figure]:
    """CKA by layer, a chart a method. How alike the original and the retrained model are is known from either of the two."""
    opposite = dict(zip(CONTROLS, reversed(CONTROLS), strict=True))
    between = next((means for row in rows if row.group.role in opposite and (means := row.similarity[opposite[row.group.role]])), {})
    figures = []
    for row in rows:
        known, label = {control: means for control in CONTROLS if (means := row.similarity[control])}, row.group.label
        if row.group.role != "method" or not known or len(row.order) < 2:
            continue
        short = tuple(name if name == "head" else str(i + 1) for i, name in enumerate(row.order))
        frame = Frame(340, 230, Axis(-0.2, len(row.order) - 0.8, "layer →", named=short), Axis(0, 1, "similarity (CKA)"), left=34)
        curves = [_line(row.order, between, "between", "original and retrained")] if between else []
        curves += [_line(row.order, means, f"with-{control}", f"{label} and the {control} model") for control, means in known.items()]
        figures.append(Figure(label, lines(frame, curves, "Similarity by layer; " + "; ".join(line.hover for line in curves))))
    return figures


def turned(places: Sequence[Place], like: Sequence[Place]) -> list[Place]:
    """Places turned, and mirrored where that helps, to lie as near as possible to the same items of another picture.

    t-SNE has no up or down. Places of other items are returned as they are.
    """
    if [p.label for p in places] != [p.label for p in like]:
        return list(places)
    best, fit = list(places), -math.inf
    for sign in (1, -1):
        along = sum(p.x * q.x + sign * p.y * q.y for p, q in zip(places, like, strict=True))
        across = sum(p.x * q.y - sign * p.y * q.x for p, q in zip(places, like, strict=True))
        if (length := math.hypot(along, across)) > fit:
            cos, sin, fit = along / (length or 1), across / (length or 1), length
            best = [Place(cos * p.x - sin * sign * p.y, sin * p.x + cos * sign * p.y, p.label, p.forgotten) for p in places]
    farthest = max((max(abs(p.x), abs(p.y)) for p in best), default=1.0)
    return [Place(p.x / farthest, p.y / farthest, p.label, p.forgotten) for p in best] if farthest > 1 else best


def mean_by_layer(similarities: Sequence[tuple[str, float | None]]) -> dict[str, float]:
    """The mean of several seeds at each layer, of (layer, similarity) pairs; values that are no finite number are left out."""
    values: dict[str, list[float]] = {}
    for layer, similarity in similarities:
        if (value := finite(similarity)) is not None:
            values.setdefault(layer, []).append(value)
    return {layer: sum(known) / len(known) for layer, known in values.items()}


def _line(order: Sequence[str], means: Mapping[str, float], css: str, words: str) -> Line:
    hover = ", ".join(f"{name} {number(means[name], 2)}" for name in order if name in means)
    return Line(list(range(len(order))), [means.get(name) for name in order], css, f"{words}: {hover}")
