"""One figure of all attacks: each model's score before and after, beside the retrained model's under the same attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from expunge.report.charts import SHAPES
from expunge.report.figures import Figure, plain
from expunge.report.frame import Axis, Frame, shorten, svg, text
from expunge.report.grouping import Group
from expunge.report.report_data import After, Attacked
from expunge.report.words import DASH, finite, number, span

SLACK = 0.02  # a score beyond the retrained model's by less counts as equal to it
_LETTER = 6.6  # width of an average letter
_HIGH = 22.0  # of a row
_HEAD, _FOOT, _GAP = 40.0, 26.0, 28.0  # of a plot: over it, under it, beside it


@dataclass(frozen=True)
class Way:
    """An attack in one of its ways: a plot of the figure, a column of the table."""

    attack: str
    way: str
    score: str

    @property
    def name(self) -> str:
        return ", ".join(filter(None, [plain(self.attack), self.way]))


@dataclass(frozen=True)
class Moved:
    """A row's score before and after an attack, seeds averaged."""

    before: float
    after: float
    low: float
    high: float
    mean: float
    cases: int
    hover: str
    back: bool = False  # whether the attack brought the score beyond the retrained model's


@dataclass(frozen=True)
class Robustness:
    """The figure, the same in numbers, when forgotten data came back, and the attacks that could not be carried out."""

    figure: Figure
    scores: list[str]
    heads: list[str]
    table: list[tuple[Group, list[tuple[str, str, str]]]]  # before → after, interval, css
    held: list[str]  # heads of the table of steps: way, rows held
    recovered: list[tuple[Group, list[str]]]
    missing: list[str]
    chosen: bool  # whether some attack has several cases


def robustness(rows: Sequence[Group]) -> Robustness | None:
    """The outcome of all attacks; None where no model was attacked."""
    attacks = [attacked for group in rows for entry in group.entries for attacked in entry.attacks]
    ways = list(dict.fromkeys(Way(a.attack, a.way, a.score) for a in attacks if a.score in a.scores))
    missing = list(dict.fromkeys(f"{Way(a.attack, a.way, '').name} ({a.missing})" for a in attacks if a.missing))
    if not ways:
        return None
    retrained = [group for group in rows if group.role == "retrained"]
    yardsticks = {way: _pooled(scores).value for way in ways if (scores := next((s for g in retrained if (s := _scores(g, way))), []))}
    pairs = [(group, way, scores) for group in rows for way in ways if (scores := _scores(group, way))]
    moved = {(id(group), way): _moved(group, way, scores, yardsticks.get(way)) for group, way, scores in pairs}
    shown = [group for group in rows if any((id(group), way) in moved for way in ways)]
    draw = _Draw(shown, ways, moved, {way: value for way, value in yardsticks.items() if value is not None})
    table = [(group, [_cell(moved.get((id(group), way))) for way in ways]) for group in shown]
    held = list(dict.fromkeys((way, k) for group in shown for way in ways for a in _attacked(group, way) for k, _ in a.recovered))
    relearned = [group for group in shown if any(a.recovered for way in ways for a in _attacked(group, way))]
    return Robustness(
        figure=Figure("", draw.picture(360, 2, "narrow"), draw.picture(900, 4, "wide")),
        scores=list(dict.fromkeys(plain(way.score) for way in ways)),
        heads=[way.name for way in ways],
        table=table,
        held=[f"{way.name}, {k} held" for way, k in held],
        recovered=[(group, [_steps(group, way, k) for way, k in held]) for group in relearned],
        missing=missing,
        chosen=any(m.cases > 1 for m in moved.values()),
    )


def _attacked(group: Group, way: Way) -> list[Attacked]:
    """The outcomes of an attack in one way, of all seeds."""
    attacks = [attacked for entry in group.entries for attacked in entry.attacks]
    return [a for a in attacks if (a.attack, a.way) == (way.attack, way.way) and way.score in a.scores]


def _scores(group: Group, way: Way) -> list[After]:
    """The scores that an attack is judged by, of the seeds that have one."""
    return [a.scores[way.score] for a in _attacked(group, way) if finite(a.scores[way.score].value) is not None]


def _pooled(scores: Sequence[After]) -> After:
    """The mean of several seeds, with the lowest and the highest as interval; a single seed as it is."""
    if len(scores) == 1:
        return scores[0]
    values = [score.value or 0.0 for score in scores]
    before, mean = (sum(getattr(score, name) or 0.0 for score in scores) / len(scores) for name in ("before", "mean"))
    return After(before, sum(values) / len(values), (min(values), max(values)), scores[0].n, mean, scores[0].case)


def _moved(group: Group, way: Way, scores: Sequence[After], yardstick: float | None) -> Moved:
    pooled = _pooled(scores)
    before, after = pooled.before or 0.0, pooled.value or 0.0
    low, high = (finite(x) for x in pooled.interval or (None, None))
    low, high = after if low is None else low, after if high is None else high
    cases = max(a.cases for a in _attacked(group, way))
    back = group.role in ("method", "filter") and yardstick is not None and low > yardstick + SLACK and after > before + SLACK
    ends = f" ({interval})" if (interval := span(low, high)) else ""
    case = f", {pooled.case}" if pooled.case else ""
    hover = f"{group.label}, {way.name}: {number(before)} before, {number(after)}{ends} after{case}"
    return Moved(before, after, low, high, pooled.mean if pooled.mean is not None else after, cases, hover, back)


def _cell(m: Moved | None) -> tuple[str, str, str]:
    return (DASH, "", "") if m is None else (f"{number(m.before)} → {number(m.after)}", span(m.low, m.high), "missed" if m.back else "")


def _steps(group: Group, way: Way, held: int) -> str:
    """The steps until the score came back, of all seeds, in words."""
    steps = [step for a in _attacked(group, way) for k, step in a.recovered if k == held]
    return " or ".join(sorted({f"{step:g}" if step is not None else "never" for step in steps})) or DASH


@dataclass(frozen=True)
class _Draw:
    rows: Sequence[Group]
    ways: Sequence[Way]
    moved: Mapping[tuple[int, Way], Moved]
    yardsticks: Mapping[Way, float]

    def picture(self, width: float, most: int, css: str) -> Markup:
        """Plots in bands of at most `most`, with the names of the models at the left of each band."""
        letters = 13 if css == "narrow" else 20
        left = 20 + max(len(shorten(group.label, letters)) for group in self.rows) * _LETTER
        bands = -(-len(self.ways) // most)
        across = -(-len(self.ways) // bands)  # so that bands have about the same length
        room = (width - left - 8 - _GAP * (across - 1)) / across
        tall = _HEAD + _HIGH * len(self.rows) + _FOOT
        body = []
        for i, way in enumerate(self.ways):
            band, place = divmod(i, across)
            top = band * (tall + 10)
            if not place:
                body += self._names(top + _HEAD, left, letters)
            x0 = left + place * (room + _GAP)
            frame = Frame(x0 + room, top + tall, Axis(0, 1), Axis(0, 1), left=x0, right=0, top=top + _HEAD, bottom=_FOOT)
            body.append(self._plot(way, frame, int(room / _LETTER)))
        label = "Scores before and after each attack. " + "; ".join(m.hover for m in self.moved.values())
        return svg(width, bands * (tall + 10) - 10, "".join(body), label, css)

    def _names(self, top: float, left: float, most: int) -> list[str]:
        names = []
        for i, group in enumerate(self.rows):
            y, css = top + (i + 0.5) * _HIGH, f"tick end{' strong' if group.role == 'retrained' else ''}"
            names.append(text(left - 14, y + 4, shorten(group.label, most), css))
        return names

    def _plot(self, way: Way, frame: Frame, most: int) -> str:
        top, bottom = frame.top, frame.height - frame.bottom
        body = [text(frame.left, top - 22, shorten(plain(way.attack), most), "plot-name")]
        body.append(text(frame.left, top - 8, shorten(way.way, most), "tick"))
        for value, tick in ((0.0, "0"), (0.5, "0.5"), (1.0, "1")):
            x = frame.px(value)
            body.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom + 3:.1f}"/>')
            body.append(text(x, bottom + 16, tick, "tick mid"))
        if way in self.yardsticks:
            x = frame.px(self.yardsticks[way])
            body.append(f'<line class="yard" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 2:.1f}" y2="{bottom + 3:.1f}"/>')
        for i, group in enumerate(self.rows):
            if m := self.moved.get((id(group), way)):
                body.append(self._row(group, m, frame, top + (i + 0.5) * _HIGH))
        return "".join(body)

    def _row(self, group: Group, m: Moved, frame: Frame, y: float) -> str:
        """A hollow dot at the score before, the model's mark at the score after, a tick at the mean over all cases."""
        before, after, low, high, mean = (frame.px(v) for v in (m.before, m.after, m.low, m.high, m.mean))
        css = "back" if m.back else "best" if group.role == "method" else "control"
        whisker = f'<line class="bar {css}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        line = f'<line class="shift {css}" x1="{before:.1f}" x2="{after:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        shift = line if abs(after - before) > 1 else ""
        tick = f'<line class="mean {css}" x1="{mean:.1f}" x2="{mean:.1f}" y1="{y - 6:.1f}" y2="{y + 6:.1f}"/>' if m.cases > 1 else ""
        dot = f'<circle class="was {css}" cx="{before:.1f}" cy="{y:.1f}" r="3.5"/>'
        place = f"translate({after:.1f},{y:.1f}) scale(.85)"
        mark = f'<path class="mark {group.role} {css}" transform="{place}" d="{SHAPES[group.role]}"/>'
        wide = frame.width - frame.left
        hit = f'<rect class="hit-row" x="{frame.left:.1f}" y="{y - _HIGH / 2:.1f}" width="{wide:.1f}" height="{_HIGH:g}"/>'
        return f'<g class="point"><title>{escape(m.hover)}</title>{hit}{shift}{whisker}{tick}{dot}{mark}</g>'
