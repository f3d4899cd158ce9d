"""Which data go into which chart."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from expunge.report.charts import Guide, Line, Mark, lines, scatter
from expunge.report.frame import Axis, Frame
from expunge.report.grouping import SAME, Group, direction, front
from expunge.report.report_data import Point, ReportData
from expunge.report.words import finite, number, span

_LOWEST = -15.0  # p-values below 10 to this power share the floor of the axis, else the part that matters shrinks to a strip
_POINTS = 120  # as many as a panel can show


@dataclass(frozen=True)
class Panel:
    """A chart with its heading; `wide` is for desktops where there are two drawings of it."""

    name: str
    narrow: Markup
    wide: Markup | None = None
    note: str = ""


def plain(name: str) -> str:
    """A score's name for reading."""
    return name.replace("_", " ")


def tradeoff(report_data: ReportData, rows: Sequence[Group]) -> Panel | None:
    """Forgetting against utility; None where fewer than two models have both."""
    both = [
        (g, x, y)
        for g in rows
        if (x := g.get(report_data.utility)) and (y := g.get(report_data.quality)) and None not in (x.value, y.value)
    ]
    if len(both) < 2:
        return None
    p = any(y.p for _, _, y in both)
    toward_x, toward_y = direction(rows, report_data.utility), direction(rows, report_data.quality)

    def up(v: float) -> float:
        return max(math.log10(max(v, 1e-300)), _LOWEST) if p else v

    rated = [
        (g, (x.value or 0.0) * (-1 if toward_x == "lower" else 1), (y.value or 0.0) * (-1 if toward_y == "lower" else 1))
        for g, x, y in both
    ]
    rated = [r for r in rated if r[0].role == "method"] if toward_x != "retrained" and toward_y != "retrained" else []
    best = [rated[i][0] for i in front([(x, y) for _, x, y in rated])]
    marks = []
    for g, x, y in both:
        css = "best" if g in best else "" if g.role == "method" else "control"
        x_bar, y_bar = x.ends if x.low is not None else None, (up(y.ends[0]), up(y.ends[1])) if y.low is not None else None
        marks.append(Mark(x.value or 0.0, up(y.value or 0.0), g.role, g.label, _told(report_data, g), css, x_bar, y_bar))
    joined = sorted((m.x, m.y) for m in marks if m.css == "best")
    marks.sort(key=lambda m: m.css == "")  # labels of controls and of the best find their place first
    x_axis = _fit(f"{plain(report_data.utility)} →", [v for m in marks for v in (m.x, *(m.x_bar or ()))], toward_x == "lower")
    ys, title = (
        [v for m in marks for v in (m.y, *(m.y_bar or ()))],
        f"{'≈' if toward_y == 'retrained' and not p else '↑'} {plain(report_data.quality)}",
    )
    guides: list[Guide | None] = [None, None]
    if p:
        lowest = min([*ys, math.log10(SAME) - 1])
        floor = _LOWEST if lowest <= _LOWEST else None
        y_axis = Axis(lowest - 0.02 * abs(lowest), 0.25, f"{title}, p-value (logarithmic)", log=True, floor=floor)
        guides = [Guide(math.log10(SAME), w) for w in ("p = 0.05", "p = 0.05: above, not told apart from the retrained model")]
    else:
        y_axis = _fit(title, ys, toward_y == "lower")
    label = f"{plain(report_data.quality)} against {plain(report_data.utility)}: " + "; ".join(_told(report_data, g) for g, _, _ in both)
    narrow, wide = (Frame(w, h, x_axis, y_axis, left=58, right=20) for w, h in ((360, 400), (900, 480)))
    left_out = [g.label for g in rows if all(g is not q for q, _, _ in both)]
    note = f"Not drawn, for want of one of the two scores: {', '.join(left_out)}." if left_out else ""
    drawn = scatter(narrow, marks, label, "narrow", guides[0], joined), scatter(wide, marks, label, "wide", guides[1], joined)
    return Panel("", *drawn, note)


def _fit(label: str, values: Sequence[float], flipped: bool) -> Axis:
    return Axis.around(values, label + (" (axis reversed: lower is better)" if flipped else ""), flipped=flipped)


def _told(report_data: ReportData, g: Group) -> str:
    parts = []
    for name in (report_data.utility, report_data.quality):
        if s := g.get(name):
            ends = span(s.low, s.high)
            parts.append(f"{plain(name)} {number(s.value)}" + (f" ({ends})" if ends else ""))
    return f"{g.label}: {', '.join(parts)}" + (f", {len(g.entries)} seeds" if len(g.entries) > 1 else "")


def ecdfs(rows: Sequence[Group]) -> list[Panel]:
    """The truth ratios of each row over those of the retrained model, as empirical distribution functions."""
    ratios = {id(e): sorted(v for x in e.truth_ratios if (v := finite(x)) is not None) for g in rows for e in g.entries}
    base = next((r for g in rows if g.role == "retrained" for e in g.entries if (r := ratios[id(e)])), [])
    pooled = sorted(v for r in ratios.values() for v in r)
    others = [g for g in rows if g.role != "retrained" and any(ratios[id(e)] for e in g.entries)]
    if not base or not others:
        return []
    low, high = pooled[int(0.005 * len(pooled))], pooled[min(len(pooled) - 1, int(0.995 * len(pooled)))]
    log = low > 0 and high / low > 20
    to: Callable[[float], float] = (lambda v: math.log10(max(v, 1e-300))) if log else (lambda v: v)
    a, b = to(low), to(high)
    frame = Frame(340, 236, Axis(a, b if b > a else a + 1, "truth ratio →", log), Axis(0, 1, "share of items"), left=34)
    panels = []
    for g in others:
        samples = [r for e in g.entries if (r := ratios[id(e)])]
        gap, where = max(_gap(r, base) for r in samples)
        worst = max(samples, key=lambda r: _gap(r, base))
        top, bottom = (bisect.bisect_right(r, where) / len(r) for r in (worst, base))
        x = frame.px(to(where))
        stick = f'<line class="gap" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.py(top):.1f}" y2="{frame.py(bottom):.1f}"/>'
        drawn = [
            _steps(base, to, frame.x, "retrained", "retrained model"),
            *(_steps(r, to, frame.x, f"{g.role} own", g.label) for r in samples),
        ]
        words = f"largest gap {number(gap, 2)}" + (f" (of {len(samples)} seeds)" if len(samples) > 1 else "")
        panels.append(
            Panel(g.label, lines(frame, drawn, f"Truth ratios of {g.label} and of the retrained model: {words}", extra=stick), note=words)
        )
    return panels


def _steps(values: Sequence[float], to: Callable[[float], float], x: Axis, css: str, hover: str) -> Line:
    n = len(values)
    keep = sorted({min(n - 1, round(i * (n - 1) / _POINTS)) for i in range(_POINTS + 1)})
    xs: list[float | None] = [x.low]
    ys: list[float | None] = [bisect.bisect_right(values, x.low, key=to) / n]
    for i in keep:
        if x.low < to(values[i]) <= x.high:  # the few values beyond the axis are not heaped upon its ends
            xs += [to(values[i])] * 2
            ys += [ys[-1], (i + 1) / n]
    return Line([*xs, x.high], [*ys, bisect.bisect_right(values, x.high, key=to) / n], css, f"{hover}: {n} items")


def _gap(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """The Kolmogorov-Smirnov statistic of two sorted samples, and where it is attained."""
    at = {v: abs(bisect.bisect_right(one, v) / len(one) - bisect.bisect_right(other, v) / len(other)) for v in {*one, *other}}
    where = max(at, key=lambda v: (at[v], v))
    return at[where], where


def training(rows: Sequence[Group]) -> tuple[list[Panel], list[tuple[str, str]]]:
    """Loss and its terms along the steps, one panel a row; and the legend, as (style, words)."""
    shown = [g for g in rows if any(e.curves for e in g.entries)]
    terms = list(dict.fromkeys(t for g in shown for e in g.entries for c in e.curves for t in c.terms))
    styles = {t: f"s{i % 8} d{(i + 1) % 3}" for i, t in enumerate(terms)}  # the loss itself is the solid line
    panels = []
    for g in shown:
        drawn = []
        for e in g.entries:
            points, seed = _thin(e.curves), f", seed {e.seed}" if e.seed is not None and len(g.entries) > 1 else ""
            steps = [finite(c.step) for c in points]
            drawn += [
                Line(steps, [finite(c.terms.get(t)) for c in points], styles[t], f"{t}{seed}")
                for t in terms
                if any(t in c.terms for c in points)
            ]
            drawn.append(Line(steps, [finite(c.loss) for c in points], "loss", f"loss{seed}"))
        known = [line for line in drawn if any(None not in point for point in zip(line.xs, line.ys, strict=True))]
        if known:
            frame = Frame(
                340, 220, _steps_axis(known), Axis.around([y for line in known for y in line.ys if y is not None]), left=46, top=12
            )
            panels.append(
                Panel(
                    g.label, lines(frame, known, f"Training of {g.label}: loss and its terms by step", "thin" if len(g.entries) > 1 else "")
                )
            )
    legend = [("loss", "loss")] + [(styles[t], plain(t)) for t in terms]
    return panels, [(css, words) for css, words in legend if panels]


def progress(rows: Sequence[Group]) -> list[Panel]:
    """Scores that were measured during training."""
    return _by_score(rows, {id(e): [(c.step, c.scores) for c in e.curves if c.scores] for g in rows for e in g.entries}, "training step →")


def relearning(rows: Sequence[Group]) -> list[Panel]:
    """Scores against steps of relearning."""
    return _by_score(rows, {id(e): [(r.step, r.scores) for r in e.relearn] for g in rows for e in g.entries}, "steps of relearning →")


def shown(rows: Sequence[Group]) -> list[Panel]:
    """What parts saw on the way, as receipts keep it: numbers by the first one of a record (a block), a panel a table."""
    panels = []
    for g in rows:
        for name, records in next((e.receipt["shown"] for e in g.entries if e.receipt.get("shown")), {}).items():
            over, *others = records[0]
            places, title = [float(i) for i in range(len(records))], f"{g.label}: {name}"
            drawn = [Line(places, [finite(r.get(n)) for r in records], style(i), n, n) for i, n in enumerate(others)]
            values = [v for line in drawn for v in line.ys if v is not None]
            x = Axis(0, max(1, len(records) - 1), f"{over} →", named=tuple(f"{r[over]:g}" for r in records))
            frame = Frame(340, 220, x, Axis.around(values), left=46, right=26 + 7 * min(14, max(map(len, others))), top=12)
            panels.append(Panel(title, lines(frame, drawn, f"{title}; {', '.join(others)} by {over}", most=14)))
    return panels


_Seen = Mapping[int, Sequence[tuple[float | None, Mapping[str, float | None]]]]


def _by_score(rows: Sequence[Group], seen: _Seen, x_label: str) -> list[Panel]:
    names = list(dict.fromkeys(n for points in seen.values() for _, scores in points for n in scores))
    order = [g for g in rows if g.role == "method"]
    panels = []
    for name in names:
        drawn = []
        for g in sorted(rows, key=lambda g: g.role == "retrained"):  # the retrained model's line lies on top
            by_step: dict[float, list[float]] = {}
            for e in g.entries:
                for step, scores in seen[id(e)]:
                    if (at := finite(step)) is not None and (v := finite(scores.get(name))) is not None:
                        by_step.setdefault(at, []).append(v)
            steps = sorted(by_step)
            if steps:
                means = [math.fsum(by_step[s]) / len(by_step[s]) for s in steps]
                css = style(order.index(g)) if g.role == "method" else g.role
                seeds = f", mean of {len(g.entries)} seeds" if len(g.entries) > 1 else ""
                hover = f"{g.label}{seeds}: {number(means[0])} at step {steps[0]:g}, {number(means[-1])} at step {steps[-1]:g}"
                drawn.append(Line(list(steps), list(means), css, hover, g.label))
        if not drawn:
            continue
        x, y = _steps_axis(drawn, x_label), Axis.around([v for line in drawn for v in line.ys if v is not None])
        longest = max(len(line.end) for line in drawn)
        label = f"{plain(name)} by {x_label.removesuffix(' →')}: " + "; ".join(line.hover for line in drawn)
        wide = Frame(900, max(340, 60 + 15 * len(drawn)), x, y, left=46, right=34 + 7.2 * min(longest, 24), top=12)
        narrow = Frame(360, max(300, 60 + 15 * len(drawn)), x, y, left=40, right=26 + 7 * min(longest, 14), top=12)
        panels.append(Panel(plain(name), lines(narrow, drawn, label, "narrow", most=14), lines(wide, drawn, label, "wide", most=24)))
    return panels


def _steps_axis(drawn: Iterable[Line], label: str = "step →") -> Axis:
    xs = [x for line in drawn for x in line.xs if x is not None]
    return Axis(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, label)


def _thin(points: Sequence[Point]) -> list[Point]:
    """At most `_POINTS` of the points, the first and the last among them."""
    n = len(points)
    return list(points) if n <= _POINTS else [points[round(i * (n - 1) / (_POINTS - 1))] for i in range(_POINTS)]


def style(i: int) -> str:
    """Colour and dash of the i-th series: eight colours, then the same ones dashed, so that no two look alike."""
    return f"s{i % 8} d{i // 8 % 3}"
