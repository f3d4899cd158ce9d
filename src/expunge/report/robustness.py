"""One picture of all attacks: each model's score before and after, beside the retrained model's under the same attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from expunge.report.charts import SHAPES
from expunge.report.figures import Panel, plain
from expunge.report.frame import Axis, Frame, shorten, svg, text
from expunge.report.grouping import Group
from expunge.report.report_data import After, Attacked
from expunge.report.words import DASH, finite, number, span

SLACK = 0.02  # beyond the retrained model by less is not drawn as such
_LETTER = 6.6  # width of an average letter
_HIGH = 22.0  # of a row
_HEAD, _FOOT, _GAP = 40.0, 26.0, 28.0  # of a plot: over it, under it, beside it


@dataclass(frozen=True)
class Way:
    """An attack in one of its ways: a plot of the picture, a column of the table."""

    attack: str
    way: str
    score: str

    @property
    def name(self) -> str:
        return ", ".join(filter(None, [plain(self.attack), self.way]))


@dataclass(frozen=True)
class Moved:
    """A row's score before and after, seeds averaged."""

    before: float
    after: float
    low: float
    high: float
    mean: float
    cases: int
    hover: str
    back: bool = False  # beyond the retrained model, and by the attack


@dataclass(frozen=True)
class Robustness:
    """The picture, the same in numbers, when things came back, and what could not be tried."""

    panel: Panel
    scores: list[str]
    heads: list[str]
    table: list[tuple[Group, list[tuple[str, str, str]]]]  # before → after, in which case, css
    held: list[str]  # heads of the other table: way, rows held
    recovered: list[tuple[Group, list[str]]]
    missing: list[str]
    chosen: bool  # whether some attack has several cases


def robustness(rows: Sequence[Group]) -> Robustness | None:
    """None where no model was attacked."""
    every = [(g, a) for g in rows for e in g.entries for a in e.attacks]
    ways = list(dict.fromkeys(Way(a.attack, a.way, a.score) for _, a in every if a.score in a.scores))
    missing = list(dict.fromkeys(f"{Way(a.attack, a.way, '').name} ({a.missing})" for _, a in every if a.missing))
    if not ways:
        return None
    yard = {w: _pooled(found).value for w in ways if (found := next((f for g in rows if g.role == "retrained" and (f := _of(g, w))), []))}
    moved = {(id(g), w): _moved(g, w, found, yard.get(w)) for g in rows for w in ways if (found := _of(g, w))}
    shown = [g for g in rows if any((id(g), w) in moved for w in ways)]
    draw = _Draw(shown, ways, moved, {w: v for w, v in yard.items() if v is not None})
    table = [(g, [_cell(moved.get((id(g), w))) for w in ways]) for g in shown]
    held = list(dict.fromkeys((w, k) for g in shown for w in ways for a in _attacked(g, w) for k, _ in a.recovered))
    recovered = [(g, [_steps(g, w, k) for w, k in held]) for g in shown if any(a.recovered for w in ways for a in _attacked(g, w))]
    return Robustness(
        Panel("", draw.picture(360, 2, "narrow"), draw.picture(900, 4, "wide")),
        list(dict.fromkeys(plain(w.score) for w in ways)),
        [w.name for w in ways],
        table,
        [f"{w.name}, {k} held" for w, k in held],
        recovered,
        missing,
        any(m.cases > 1 for m in moved.values()),
    )


def _attacked(g: Group, w: Way) -> list[Attacked]:
    return [a for e in g.entries for a in e.attacks if (a.attack, a.way) == (w.attack, w.way) and w.score in a.scores]


def _of(g: Group, w: Way) -> list[After]:
    return [a.scores[w.score] for a in _attacked(g, w) if finite(a.scores[w.score].value) is not None]


def _pooled(found: Sequence[After]) -> After:
    """The mean of several seeds, from the lowest to the highest; of one, itself."""
    if len(found) == 1:
        return found[0]
    values = [f.value or 0.0 for f in found]
    before, mean = (sum(getattr(f, n) or 0.0 for f in found) / len(found) for n in ("before", "mean"))
    return After(before, sum(values) / len(values), (min(values), max(values)), found[0].n, mean, found[0].case)


def _moved(g: Group, w: Way, found: Sequence[After], yard: float | None) -> Moved:
    of = _pooled(found)
    before, after = of.before or 0.0, of.value or 0.0
    low, high = (finite(x) for x in of.interval or (None, None))
    low, high = after if low is None else low, after if high is None else high
    cases = max(a.cases for a in _attacked(g, w))
    back = g.role in ("method", "filter") and yard is not None and low > yard + SLACK and after > before + SLACK
    ends = f" ({s})" if (s := span(low, high)) else ""
    hover = f"{g.label}, {w.name}: {number(before)} before, {number(after)}{ends} after" + (f", {of.case}" if of.case else "")
    return Moved(before, after, low, high, of.mean if of.mean is not None else after, cases, hover, back)


def _cell(m: Moved | None) -> tuple[str, str, str]:
    return (DASH, "", "") if m is None else (f"{number(m.before)} → {number(m.after)}", span(m.low, m.high), "missed" if m.back else "")


def _steps(g: Group, w: Way, held: int) -> str:
    found = [step for a in _attacked(g, w) for k, step in a.recovered if k == held]
    if not found:
        return DASH
    told = sorted({f"{s:g}" if s is not None else "never" for s in found})
    return " or ".join(told)


@dataclass(frozen=True)
class _Draw:
    rows: Sequence[Group]
    ways: Sequence[Way]
    moved: Mapping[tuple[int, Way], Moved]
    yard: Mapping[Way, float]

    def picture(self, width: float, most: int, css: str) -> Markup:
        """Plots in bands of at most so many, the models' names at the left of each band."""
        words = 13 if css == "narrow" else 20
        left = 20 + max(len(shorten(g.label, words)) for g in self.rows) * _LETTER
        bands = -(-len(self.ways) // most)
        across = -(-len(self.ways) // bands)  # so that bands are of like length
        room = (width - left - 8 - _GAP * (across - 1)) / across
        tall = _HEAD + _HIGH * len(self.rows) + _FOOT
        body = []
        for i, way in enumerate(self.ways):
            band, place = divmod(i, across)
            top = band * (tall + 10)
            if not place:
                body += self._names(top + _HEAD, left, words)
            x0 = left + place * (room + _GAP)
            frame = Frame(x0 + room, top + tall, Axis(0, 1), Axis(0, 1), left=x0, right=0, top=top + _HEAD, bottom=_FOOT)
            body.append(self._plot(way, frame, int(room / _LETTER)))
        label = "Scores before and after each attack. " + "; ".join(m.hover for m in self.moved.values())
        return svg(width, bands * (tall + 10) - 10, "".join(body), label, css)

    def _names(self, top: float, left: float, most: int) -> list[str]:
        out = []
        for i, g in enumerate(self.rows):
            y = top + (i + 0.5) * _HIGH
            out.append(text(left - 14, y + 4, shorten(g.label, most), f"tick end{' strong' if g.role == 'retrained' else ''}"))
        return out

    def _plot(self, way: Way, frame: Frame, most: int) -> str:
        top, bottom = frame.top, frame.height - frame.bottom
        body = [text(frame.left, top - 22, shorten(plain(way.attack), most), "plot-name")]
        body.append(text(frame.left, top - 8, shorten(way.way, most), "tick"))
        for v, words, anchor in ((0.0, "0", "mid"), (0.5, "0.5", "mid"), (1.0, "1", "mid")):
            x = frame.px(v)
            body.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom + 3:.1f}"/>')
            body.append(text(x, bottom + 16, words, f"tick {anchor}"))
        if way in self.yard:
            x = frame.px(self.yard[way])
            body.append(f'<line class="yard" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 2:.1f}" y2="{bottom + 3:.1f}"/>')
        for i, g in enumerate(self.rows):
            if m := self.moved.get((id(g), way)):
                body.append(self._row(g, m, frame, top + (i + 0.5) * _HIGH))
        return "".join(body)

    def _row(self, g: Group, m: Moved, frame: Frame, y: float) -> str:
        """A hollow dot where the score was, the model's mark where it is, a tick at the mean over all cases."""
        was, now, low, high, mean = (frame.px(v) for v in (m.before, m.after, m.low, m.high, m.mean))
        css = "back" if m.back else "best" if g.role == "method" else "control"
        whisker = f'<line class="bar {css}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        shift = f'<line class="shift {css}" x1="{was:.1f}" x2="{now:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>' if abs(now - was) > 1 else ""
        tick = f'<line class="mean {css}" x1="{mean:.1f}" x2="{mean:.1f}" y1="{y - 6:.1f}" y2="{y + 6:.1f}"/>' if m.cases > 1 else ""
        dot = f'<circle class="was {css}" cx="{was:.1f}" cy="{y:.1f}" r="3.5"/>'
        mark = f'<path class="mark {g.role} {css}" transform="translate({now:.1f},{y:.1f}) scale(.85)" d="{SHAPES[g.role]}"/>'
        wide = frame.width - frame.left
        hit = f'<rect class="hit-row" x="{frame.left:.1f}" y="{y - _HIGH / 2:.1f}" width="{wide:.1f}" height="{_HIGH:g}"/>'
        return f'<g class="point"><title>{escape(m.hover)}</title>{hit}{shift}{whisker}{tick}{dot}{mark}</g>'
