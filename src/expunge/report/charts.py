"""Charts as inline SVG: lines, and marked points. Colors are the page's style: charts only name CSS classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from expunge.report.frame import Frame, shorten, svg, text

FONT = 12.0
_TEXT_WIDTH = 0.55  # width of an average letter of a sans-serif face, as a share of the font size


@dataclass(frozen=True)
class Line:
    """A line with the words that hovering shows; `end` is the label at its last point."""

    xs: Sequence[float | None]
    ys: Sequence[float | None]
    css: str
    hover: str = ""
    end: str = ""


@dataclass(frozen=True)
class Mark:
    """A point with its error bars (from, to), its shape (a role) and its label."""

    x: float
    y: float
    shape: str
    label: str
    hover: str
    css: str = ""
    x_bar: tuple[float, float] | None = None
    y_bar: tuple[float, float] | None = None


@dataclass(frozen=True)
class Guide:
    """A horizontal line across the frame with its words; the area above it is tinted."""

    y: float
    words: str


def lines(frame: Frame, curves: Sequence[Line], label: str, css: str = "", extra: str = "", most: int = 22) -> Markup:
    """Lines in a frame, later ones over earlier ones, with labels of their ends beside the frame that do not overlap.

    Args:
        frame: the axes.
        curves: the lines.
        label: what a screen reader says in place of the chart.
        css: classes of the chart.
        extra: SVG to draw under the lines.
        most: letters of an end label.
    """
    body = [frame.axes(), extra]
    ends: list[tuple[float, float, Line]] = []
    for line in curves:
        d = frame.path(line.xs, line.ys)
        if not d:
            continue
        dot = "" if "L" in d else _dots(frame, line)
        hover = f"<title>{escape(line.hover)}</title>" if line.hover else ""
        hit = f'<path class="hit" d="{d}"/>' if line.end else ""  # a broad invisible line to hover over, since lines are many and thin
        body.append(f'<g class="line {line.css}">{hover}{hit}<path class="ink" d="{d}"/>{dot}</g>')
        if line.end:
            x, y = [(a, b) for a, b in zip(line.xs, line.ys, strict=True) if a is not None and b is not None][-1]
            ends.append((frame.px(x), frame.py(y), line))
    for (x, y, line), at in zip(sorted(ends, key=lambda e: e[1]), _apart(sorted(e[1] for e in ends), 14, frame), strict=True):
        edge = frame.width - frame.right
        leader = f'<path class="leader" d="M{x + 3:.1f},{y:.1f}L{edge + 4:g},{y:.1f}L{edge + 16:g},{at:.1f}"/>'
        body.append(f'<g class="endlabel {line.css}">{leader}' + text(edge + 19, at + 4, shorten(line.end, most), "end-label") + "</g>")
    return svg(frame.width, frame.height, "".join(body), label, css)


def _dots(frame: Frame, line: Line) -> str:
    points = ((a, b) for a, b in zip(line.xs, line.ys, strict=True) if a is not None and b is not None)
    return "".join(f'<circle class="dot" cx="{frame.px(a):.1f}" cy="{frame.py(b):.1f}" r="3"/>' for a, b in points)


def _apart(ys: Sequence[float], gap: float, frame: Frame) -> list[float]:
    """Sorted heights moved apart to `gap` (less, where there is no room), as little as possible and within the drawing."""
    top, bottom = 8.0, frame.height - frame.bottom + 8
    gap = min(gap, (bottom - top) / max(1, len(ys) - 1))
    blocks: list[list[float]] = []  # [sum of wanted first heights, members]: neighbors that touch move as one, centered on their wishes
    for y in ys:
        blocks.append([y, 1])
        while len(blocks) > 1 and _start(blocks[-2]) + blocks[-2][1] * gap > _start(blocks[-1]):
            total, members = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total - members * blocks[-1][1] * gap, blocks[-1][1] + members]
    heights: list[float] = []
    for block in blocks:
        heights.extend(_start(block) + i * gap for i in range(int(block[1])))
    for i in range(len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap if i else top)
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], heights[i + 1] - gap if i + 1 < len(heights) else bottom)
    return heights


def _start(block: Sequence[float]) -> float:
    return block[0] / block[1]


SHAPES = {
    "original": "M-5,-5H5V5H-5Z",
    "retrained": "M0,-7.5L7.5,0L0,7.5L-7.5,0Z",
    "random": "M-5,-5L5,5M-5,5L5,-5",
    "filter": "M0,-6.5L6.5,5H-6.5Z",
    "method": "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0Z",
}


def glyph(shape: str, css: str = "") -> Markup:
    """A single mark, for legends."""
    return Markup(
        f'<svg class="chart glyph" viewBox="-9 -9 18 18" aria-hidden="true"><path class="mark {shape} {css}" d="{SHAPES[shape]}"/></svg>'
    )


@dataclass
class _Labels:
    """Places words beside points so that they cover one another as little as possible."""

    frame: Frame
    points: list[tuple[float, float]] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)  # boxes: left, top, right, bottom

    def place(self, x: float, y: float, words: str) -> str:
        """The words at the cheapest place around a point, with a line to it where they stand far away."""
        w, h = len(words) * FONT * _TEXT_WIDTH, FONT
        best: tuple[float, float, float, float, bool] | None = None
        for distance in (12, 20, 28, 38, 50, 64):
            for dx, dy in ((1, 0), (-1, 0), (0, -1), (0, 1), (0.7, -0.8), (-0.7, -0.8), (0.7, 0.8), (-0.7, 0.8)):
                left = x + dx * distance - (w if dx < 0 else w / 2 if dx == 0 else 0)
                top = y + dy * distance * 0.9 - h / 2
                cost = 2 * sum(_overlap((left, top, left + w, top + h), box) for box in self.taken) + distance
                right, bottom = self.frame.width - 2, self.frame.height - self.frame.bottom
                outside = max(0.0, 2 - left, left + w - right, self.frame.top - top, top + h - bottom)
                cost += outside * 15
                own = _distance((x, y), left, top, w, h)  # a reader takes words nearer to another point for that point's
                unclear = sum(60 for q in self.points if q != (x, y) and _distance(q, left, top, w, h) < own + 3)
                cost += unclear
                if best is None or cost < best[0]:
                    best = (cost, left, top, dx, distance > 20 or unclear > 0)
        assert best is not None
        _, left, top, dx, lead = best
        self.taken.append((left, top, left + w, top + h))
        near = min(max(x, left), left + w)
        leader = f'<path class="leader" d="M{x:.1f},{y:.1f}L{near:.1f},{top + h / 2:.1f}"/>' if lead else ""
        at, anchor = (left, "") if dx > 0 else (left + w, " end") if dx < 0 else (left + w / 2, " mid")
        return leader + text(at, top + h - 2, words, f"label{anchor}")


def _distance(point: tuple[float, float], left: float, top: float, w: float, h: float) -> float:
    """The distance of a point from a box."""
    return math.hypot(max(left - point[0], 0, point[0] - left - w), max(top - point[1], 0, point[1] - top - h))


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """The area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def scatter(
    frame: Frame, marks: Sequence[Mark], label: str, css: str = "", guide: Guide | None = None, front: Sequence[tuple[float, float]] = ()
) -> Markup:
    """Marked points with error bars over a guide line and the line of the best compromises.

    Args:
        frame: the axes.
        marks: the points; labels of the first ones find their place first.
        label: what a screen reader says in place of the chart.
        css: classes of the chart.
        guide: a line to compare with.
        front: the points of the best compromises, by growing x.
    """
    body, left, right = [], frame.left, frame.width - frame.right
    if guide:
        y = frame.py(guide.y)
        body.append(f'<rect class="tint" x="{left:g}" y="{frame.top:g}" width="{right - left:g}" height="{max(0, y - frame.top):.1f}"/>')
        body.append(
            f'<line class="guide" x1="{left:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
            + text(left + 4, y + 14, guide.words, "guide-words")
        )
    body.insert(0, frame.axes())
    if len(front) > 1:
        body.append(f'<path class="front" d="{frame.path([p[0] for p in front], [p[1] for p in front])}"/>')
    labels = _Labels(frame, [(frame.px(m.x), frame.py(m.y)) for m in marks])
    if guide:
        labels.taken.append((left, y + 2, left + len(guide.words) * 6, y + 17))
    points = []
    for m in marks:
        x, y = frame.px(m.x), frame.py(m.y)
        labels.taken.append((x - 7, y - 7, x + 7, y + 7))
        if m.x_bar:
            body.append(_bar(frame.px(m.x_bar[0]), frame.px(m.x_bar[1]), y, y, m.css))
        if m.y_bar:
            body.append(_bar(x, x, frame.py(m.y_bar[0]), frame.py(m.y_bar[1]), m.css))
        shape = f'<path class="mark {m.shape} {m.css}" transform="translate({x:.1f},{y:.1f})" d="{SHAPES[m.shape]}"/>'
        points.append(f'<g class="point"><title>{escape(m.hover)}</title>{shape}</g>')
    body.extend(points)
    body.extend(labels.place(frame.px(m.x), frame.py(m.y), shorten(m.label, 20)) for m in marks if m.label)
    return svg(frame.width, frame.height, "".join(body), label, css)


def _bar(x1: float, x2: float, y1: float, y2: float, css: str) -> str:
    return f'<line class="bar {css}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'
