"""Which data go into which chart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from expunge.report.charts import Guide, Line, Mark, lines, scatter
from expunge.report.frame import Axis, Frame
from expunge.report.grouping import SAME, Group, direction, front
from expunge.report.report_data import Point, ReportData
from expunge.report.words import finite, number, span

_LOWEST = -15.0  # p-values below 10 to this power share the floor of the axis, else the part that matters shrinks to a strip
_POINTS = 120  # as many as a chart can show


@dataclass(frozen=True)
class Figure:
    """A chart with its heading; `wide` is a second drawing of it for wide screens."""

    name: str
    narrow: Markup
    wide: Markup | None = None
    note: str = ""


def plain(name: str) -> str:
    """A score's name for reading."""
    return name.replace("_", " ")


def tradeoff(report_data: ReportData, rows: Sequence[Group]) -> Figure | None:
    """Forgetting against utility; None where fewer than two models have both scores."""
    complete = [
        (group, x, y)
        for group in rows
        if (x := group.get(report_data.utility)) and (y := group.get(report_data.quality)) and None not in (x.value, y.value)
    ]
    if len(complete) < 2:
        return None
    p = any(y.p for _, _, y in complete)
    toward_x, toward_y = direction(rows, report_data.utility), direction(rows, report_data.quality)

    def height(value: float) -> float:
        return max(math.log10(max(value, 1e-300)), _LOWEST) if p else value

    heights = {group.role: y.value or 0.0 for group, _, y in complete if group.role in ("original", "retrained")}
    target = heights.get("retrained")
    rated = [
        (group, (x.value or 0.0) * (-1 if toward_x == "lower" else 1), _goodness(y.value or 0.0, toward_y, target))
        for group, x, y in complete
        if group.role == "method" and toward_x != "retrained" and (toward_y != "retrained" or target is not None)
    ]
    best = [rated[i][0] for i in front([(x, y) for _, x, y in rated])]
    marks = []
    for group, x, y in complete:
        css = "best" if group in best else "" if group.role == "method" else "control"
        x_bar, y_bar = x.ends if x.low is not None else None, (height(y.ends[0]), height(y.ends[1])) if y.low is not None else None
        hover = _axis_scores(report_data, group)
        marks.append(Mark(x.value or 0.0, height(y.value or 0.0), group.role, group.label, hover, css, x_bar, y_bar))
    joined = sorted((m.x, m.y) for m in marks if m.css == "best")
    marks.sort(key=lambda m: m.css == "")  # labels of controls and of the best methods find their place first
    x_axis = _fit(f"{plain(report_data.utility)} →", [v for m in marks for v in (m.x, *(m.x_bar or ()))], toward_x == "lower")
    ys = [v for m in marks for v in (m.y, *(m.y_bar or ()))]
    title = f"{'≈' if toward_y == 'retrained' and not p else '↑'} {plain(report_data.quality)}"
    guides: list[Guide | None] = [None, None]
    if p:
        lowest = min([*ys, math.log10(SAME) - 1])
        floor = _LOWEST if lowest <= _LOWEST else None
        y_axis = Axis(lowest - 0.02 * abs(lowest), 0.25, f"{title}, p-value (logarithmic)", log=True, floor=floor)
        guides = [Guide(math.log10(SAME), w) for w in ("p = 0.05", "p = 0.05: above, not told apart from the retrained model")]
    elif toward_y == "retrained" and len(heights) == 2 and heights["retrained"] < heights["original"]:
        y_axis = Axis.around(ys, f"{title} (axis reversed: best near the retrained model)", flipped=True)
    else:
        y_axis = _fit(title, ys, toward_y == "lower")
    hovers = "; ".join(_axis_scores(report_data, group) for group, _, _ in complete)
    label = f"{plain(report_data.quality)} against {plain(report_data.utility)}: {hovers}"
    narrow, wide = (Frame(w, h, x_axis, y_axis, left=58, right=20) for w, h in ((360, 400), (900, 480)))
    left_out = [group.label for group in rows if all(group is not other for other, _, _ in complete)]
    note = f"Not drawn, for want of one of the two scores: {', '.join(left_out)}." if left_out else ""
    charts = scatter(narrow, marks, label, "narrow", guides[0], joined), scatter(wide, marks, label, "wide", guides[1], joined)
    return Figure("", *charts, note)


def _goodness(value: float, toward: str, target: float | None) -> float:
    """A score as a number that is larger where it is better. target: the retrained model's, for scores that are best near it."""
    if toward == "retrained":
        return -abs(value - (target or 0.0))
    return -value if toward == "lower" else value


def _fit(label: str, values: Sequence[float], flipped: bool) -> Axis:
    return Axis.around(values, label + (" (axis reversed: lower is better)" if flipped else ""), flipped=flipped)


def _axis_scores(report_data: ReportData, group: Group) -> str:
    """A row's scores on both axes, in words."""
    parts = []
    for name in (report_data.utility, report_data.quality):
        if score := group.get(name):
            ends = span(score.low, score.high)
            parts.append(f"{plain(name)} {number(score.value)}" + (f" ({ends})" if ends else ""))
    return f"{group.label}: {', '.join(parts)}" + (f", {len(group.entries)} seeds" if len(group.entries) > 1 else "")


def training(rows: Sequence[Group]) -> tuple[list[Figure], list[tuple[str, str]]]:
    """Loss and its terms along the steps, one chart a row; and the legend, as (style, words)."""
    trained = [group for group in rows if any(entry.curves for entry in group.entries)]
    terms = list(dict.fromkeys(term for group in trained for entry in group.entries for point in entry.curves for term in point.terms))
    styles = {term: f"s{i % 8} d{(i + 1) % 3}" for i, term in enumerate(terms)}  # the loss itself is the solid line
    figures = []
    for group in trained:
        curves = []
        for entry in group.entries:
            points, seed = _thin(entry.curves), f", seed {entry.seed}" if entry.seed is not None and len(group.entries) > 1 else ""
            steps = [finite(point.step) for point in points]
            curves += [
                Line(steps, [finite(point.terms.get(term)) for point in points], styles[term], f"{term}{seed}")
                for term in terms
                if any(term in point.terms for point in points)
            ]
            curves.append(Line(steps, [finite(point.loss) for point in points], "loss", f"loss{seed}"))
        known = [line for line in curves if any(None not in point for point in zip(line.xs, line.ys, strict=True))]
        if known:
            y = Axis.around([value for line in known for value in line.ys if value is not None])
            frame, css = Frame(340, 220, _steps_axis(known), y, left=46, top=12), "thin" if len(group.entries) > 1 else ""
            figures.append(Figure(group.label, lines(frame, known, f"Training of {group.label}: loss and its terms by step", css)))
    legend = [("loss", "loss")] + [(styles[term], plain(term)) for term in terms]
    return figures, legend if figures else []


def progress(rows: Sequence[Group]) -> list[Figure]:
    """Scores that were measured during training."""
    points = {id(entry): [(p.step, p.scores) for p in entry.curves if p.scores] for group in rows for entry in group.entries}
    return _by_score(rows, points, "training step →")


def relearning(rows: Sequence[Group]) -> list[Figure]:
    """Scores against steps of relearning."""
    points = {id(entry): [(r.step, r.scores) for r in entry.relearn] for group in rows for entry in group.entries}
    return _by_score(rows, points, "steps of relearning →")


def shown(rows: Sequence[Group]) -> list[Figure]:
    """What methods recorded on the way, as receipts keep it: a chart a table, its numbers over the first one of each record (a block)."""
    figures = []
    for group in rows:
        for name, records in next((e.receipt["shown"] for e in group.entries if e.receipt.get("shown")), {}).items():
            over, *columns = records[0]
            positions, title = [float(i) for i in range(len(records))], f"{group.label}: {name}"
            curves = [Line(positions, [finite(r.get(n)) for r in records], style(i), n, n) for i, n in enumerate(columns)]
            values = [value for line in curves for value in line.ys if value is not None]
            x = Axis(0, max(1, len(records) - 1), f"{over} →", named=tuple(f"{r[over]:g}" for r in records))
            frame = Frame(340, 220, x, Axis.around(values), left=46, right=26 + 7 * min(14, max(map(len, columns))), top=12)
            figures.append(Figure(title, lines(frame, curves, f"{title}; {', '.join(columns)} by {over}", most=14)))
    return figures


_Points = Mapping[int, Sequence[tuple[float | None, Mapping[str, float | None]]]]  # id of an entry -> (step, scores)


def _by_score(rows: Sequence[Group], points: _Points, x_label: str) -> list[Figure]:
    """A chart a score: its mean over seeds by step, a line a row."""
    names = list(dict.fromkeys(name for entry_points in points.values() for _, scores in entry_points for name in scores))
    methods = [group for group in rows if group.role == "method"]
    figures = []
    for name in names:
        curves = []
        for group in sorted(rows, key=lambda group: group.role == "retrained"):  # the retrained model's line lies on top
            by_step: dict[float, list[float]] = {}
            for entry in group.entries:
                for step, scores in points[id(entry)]:
                    if (at := finite(step)) is not None and (value := finite(scores.get(name))) is not None:
                        by_step.setdefault(at, []).append(value)
            steps = sorted(by_step)
            if steps:
                means = [math.fsum(by_step[step]) / len(by_step[step]) for step in steps]
                css = style(methods.index(group)) if group.role == "method" else group.role
                seeds = f", mean of {len(group.entries)} seeds" if len(group.entries) > 1 else ""
                hover = f"{group.label}{seeds}: {number(means[0])} at step {steps[0]:g}, {number(means[-1])} at step {steps[-1]:g}"
                curves.append(Line(list(steps), list(means), css, hover, group.label))
        if not curves:
            continue
        x, y = _steps_axis(curves, x_label), Axis.around([value for line in curves for value in line.ys if value is not None])
        longest = max(len(line.end) for line in curves)
        label = f"{plain(name)} by {x_label.removesuffix(' →')}: " + "; ".join(line.hover for line in curves)
        wide = Frame(900, max(340, 60 + 15 * len(curves)), x, y, left=46, right=34 + 7.2 * min(longest, 24), top=12)
        narrow = Frame(360, max(300, 60 + 15 * len(curves)), x, y, left=40, right=26 + 7 * min(longest, 14), top=12)
        figures.append(Figure(plain(name), lines(narrow, curves, label, "narrow", most=14), lines(wide, curves, label, "wide", most=24)))
    return figures


def _steps_axis(curves: Iterable[Line], label: str = "step →") -> Axis:
    xs = [x for line in curves for x in line.xs if x is not None]
    return Axis(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, label)


def _thin(points: Sequence[Point]) -> list[Point]:
    """At most `_POINTS` of the points, the first and the last among them."""
    n = len(points)
    return list(points) if n <= _POINTS else [points[round(i * (n - 1) / (_POINTS - 1))] for i in range(_POINTS)]


def style(i: int) -> str:
    """Color and dash of the i-th series: eight colors, then the same ones dashed, so that no two look alike."""
    return f"s{i % 8} d{i // 8 % 3}"
