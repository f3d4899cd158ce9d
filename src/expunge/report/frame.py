"""The parts that every chart has: axes with round ticks, a frame that maps values to positions, and the SVG around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from expunge.report.words import MINUS, number


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`. On a logarithmic one, these and all values are logarithms to base 10 already."""

    low: float
    high: float
    label: str = ""
    log: bool = False
    flipped: bool = False  # whether it runs from high to low
    floor: float | None = None  # lower values are drawn here, and the tick says so
    named: tuple[str, ...] = ()  # names of the values 0, 1, 2 ...: a tick for each, or for every second, third ...

    @classmethod
    def around(cls, values: Sequence[float], label: str = "", log: bool = False, flipped: bool = False, room: float = 0.06) -> Axis:
        """An axis on which all values fit; `room` is the share of their span to add on both sides."""
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        pad = (high - low) * room or abs(high) * 0.1 or 0.5
        return cls(low - pad, high + pad, label, log, flipped)

    def at(self, value: float) -> float:
        """The position of a value: 0 at the start of the axis, 1 at its end; values beyond it stand at the ends."""
        part = min(1.0, max(0.0, (value - self.low) / ((self.high - self.low) or 1.0)))
        return 1 - part if self.flipped else part

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """About `most` round values, and how to write them."""
        length = self.high - self.low
        if self.named:
            every = -(-len(self.named) // most)
            return [(i, n) for i, n in enumerate(self.named) if (len(self.named) - 1 - i) % every == 0]
        if self.log and length < 2.5:  # few powers of ten: their double and fivefold, too
            fine = [math.log10(k) + e for e in range(math.floor(self.low), math.ceil(self.high) + 1) for k in (1, 2, 5)]
            return [(v, f"{10**v:.3g}") for v in fine if self.low <= v <= self.high]
        step = 10.0 ** math.floor(math.log10(length / most)) if length > 0 else 1.0
        step = next((step * k for k in (1, 2, 5, 10, 20) if length / (step * k) <= most), step * 50)
        if self.log:
            step = max(1.0, round(step))
        first = math.ceil(self.low / step - 1e-9)
        values = [k * step for k in range(first, first + most + 2) if k * step <= self.high + step * 1e-9]
        if self.floor is not None:
            values = [self.floor, *(v for v in values if v - self.floor > step * 0.4)]
        return [(v, ("≤ " if v == self.floor else "") + self._write(v, step)) for v in values]

    def _write(self, value: float, step: float) -> str:
        if self.log:
            return number(10**value).replace("1·", "") if abs(value) > 2 else f"{10**value:g}"
        if abs(value) >= 1e4 or (value and abs(value) < 1e-3):
            return f"{value / 1000:g}k".replace("-", MINUS) if 1e4 <= abs(value) < 1e6 else number(value)
        return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}".replace("-", MINUS)


@dataclass(frozen=True)
class Frame:
    """A drawing area with its axes: the y title stands over the axis, the x title under it, at the end."""

    width: float
    height: float
    x: Axis
    y: Axis
    left: float = 42
    right: float = 12
    top: float = 26
    bottom: float = 38

    def px(self, value: float) -> float:
        """The horizontal position of a value, in units of the drawing."""
        return self.left + self.x.at(value) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """The vertical position of a value, in units of the drawing, from the top."""
        return self.height - self.bottom - self.y.at(value) * (self.height - self.top - self.bottom)

    def axes(self) -> str:
        """Grid lines, ticks and titles."""
        x0, x1, y1 = self.left, self.width - self.right, self.height - self.bottom
        parts = [
            f'<line class="grid" x1="{x0:g}" x2="{x1:g}" y1="{self.py(v):.1f}" y2="{self.py(v):.1f}"/>'
            + text(x0 - 6, self.py(v) + 4, t, "tick end")
            for v, t in self.y.ticks(max(3, int((y1 - self.top) / 38)))
        ]
        parts.append(f'<line class="axis" x1="{x0:g}" x2="{x1:g}" y1="{y1:g}" y2="{y1:g}"/>')
        for v, t in self.x.ticks(max(3, int((x1 - x0) / 75))):
            parts.append(f'<line class="axis" x1="{self.px(v):.1f}" x2="{self.px(v):.1f}" y1="{y1:g}" y2="{y1 + 4:g}"/>')
            parts.append(text(self.px(v), y1 + 16, t, "tick mid"))
        if self.y.label:
            parts.append(text(2, 12, self.y.label, "title"))
        if self.x.label:
            parts.append(text(x1, self.height - 4, self.x.label, "title end"))
        return "".join(parts)

    def path(self, xs: Sequence[float | None], ys: Sequence[float | None]) -> str:
        """The `d` of a line through the points; it breaks where one is missing."""
        commands, pen = [], "M"
        for a, b in zip(xs, ys, strict=True):
            if a is None or b is None:
                pen = "M"
                continue
            commands.append(f"{pen}{self.px(a):.1f},{self.py(b):.1f}")
            pen = "L"
        return "".join(commands)


def text(x: float, y: float, words: str, css: str) -> str:
    """Words at a position, escaped."""
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def svg(width: float, height: float, body: str, label: str, css: str = "") -> Markup:
    """The SVG of a chart; `label` is what a screen reader says in its place."""
    return Markup(f'<svg class="chart {css}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{body}</svg>')


def shorten(words: str, most: int) -> str:
    """Words of at most `most` letters, with an ellipsis where some are cut off."""
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"
