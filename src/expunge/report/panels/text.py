"""Truth ratios of language models, as empirical distribution functions beside the retrained model's."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import field

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from expunge.report.charts import Line, lines
from expunge.report.figures import Figure
from expunge.report.frame import Axis, Frame
from expunge.report.grouping import Group
from expunge.report.report_data import Entry, ReportData
from expunge.report.templates import render
from expunge.report.words import finite, number

NAME = "text"
STYLE = """.gap { stroke: var(--fail); stroke-width: 2; }
.swatch.gap { width: 3px; height: .9rem; background: var(--fail); }
"""
_POINTS = 120  # as many as a chart can show


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TruthRatios:
    """The panel's data on one model."""

    truth_ratios: list[float | None] = field(default_factory=list)  # one for each forget item


def html(report_data: ReportData, rows: Sequence[Group]) -> str:
    """The section of truth ratios; '' without a retrained model or without others to lay beside it."""
    figures = ecdfs(rows)
    return render("panels/text.html.j2", figures=figures) if figures else ""


def ecdfs(rows: Sequence[Group]) -> list[Figure]:
    """The truth ratios of each row over those of the retrained model, as empirical distribution functions."""
    ratios = {id(entry): _ratios(entry) for group in rows for entry in group.entries}
    base = next((r for group in rows if group.role == "retrained" for entry in group.entries if (r := ratios[id(entry)])), [])
    pooled = sorted(value for sample in ratios.values() for value in sample)
    compared = [group for group in rows if group.role != "retrained" and any(ratios[id(entry)] for entry in group.entries)]
    if not base or not compared:
        return []
    low, high = pooled[int(0.005 * len(pooled))], pooled[min(len(pooled) - 1, int(0.995 * len(pooled)))]
    log = low > 0 and high / low > 20
    scale: Callable[[float], float] = (lambda value: math.log10(max(value, 1e-300))) if log else (lambda value: value)
    start, end = scale(low), scale(high)
    frame = Frame(340, 236, Axis(start, end if end > start else start + 1, "truth ratio →", log), Axis(0, 1, "share of items"), left=34)
    figures = []
    for group in compared:
        samples = [sample for entry in group.entries if (sample := ratios[id(entry)])]
        gap, location = max(_gap(sample, base) for sample in samples)
        worst = max(samples, key=lambda sample: _gap(sample, base))
        top, bottom = (bisect.bisect_right(sample, location) / len(sample) for sample in (worst, base))
        x = frame.px(scale(location))
        stick = f'<line class="gap" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.py(top):.1f}" y2="{frame.py(bottom):.1f}"/>'
        curves = [
            _steps(base, scale, frame.x, "retrained", "retrained model"),
            *(_steps(sample, scale, frame.x, f"{group.role} own", group.label) for sample in samples),
        ]
        note = f"largest gap {number(gap, 2)}" + (f" (of {len(samples)} seeds)" if len(samples) > 1 else "")
        label = f"Truth ratios of {group.label} and of the retrained model: {note}"
        figures.append(Figure(group.label, lines(frame, curves, label, extra=stick), note=note))
    return figures


def _ratios(entry: Entry) -> list[float]:
    """The finite truth ratios of a model, sorted."""
    if NAME not in entry.panels:
        return []
    panel = TypeAdapter(TruthRatios).validate_python(entry.panels[NAME])
    return sorted(value for ratio in panel.truth_ratios if (value := finite(ratio)) is not None)


def _steps(values: Sequence[float], scale: Callable[[float], float], x: Axis, css: str, hover: str) -> Line:
    """The empirical distribution function of sorted values."""
    n = len(values)
    keep = sorted({min(n - 1, round(i * (n - 1) / _POINTS)) for i in range(_POINTS + 1)})
    xs: list[float | None] = [x.low]
    ys: list[float | None] = [bisect.bisect_right(values, x.low, key=scale) / n]
    for i in keep:
        if x.low < scale(values[i]) <= x.high:  # the few values beyond the axis are not heaped upon its ends
            xs += [scale(values[i])] * 2
            ys += [ys[-1], (i + 1) / n]
    return Line([*xs, x.high], [*ys, bisect.bisect_right(values, x.high, key=scale) / n], css, f"{hover}: {n} items")


def _gap(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """The Kolmogorov-Smirnov statistic of two sorted samples, and where it is attained."""
    gaps = {v: abs(bisect.bisect_right(one, v) / len(one) - bisect.bisect_right(other, v) / len(other)) for v in {*one, *other}}
    location = max(gaps, key=lambda v: (gaps[v], v))
    return gaps[location], location
