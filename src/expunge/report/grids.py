"""Charts of classes as inline SVG: matrices, histograms, dots by class, items in a plane. Colors are the page's style, as in `charts`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from expunge.report.charts import SHAPES
from expunge.report.frame import Axis, Frame, shorten, svg, text
from expunge.report.words import share

_LETTER = 6.8  # width of an average letter
_LEANING = 17.0  # from this width up the name of a column leans, in a narrower column it stands upright
_ROOMY = 21.0  # from this width up a cell shows its number
_DEEP = 0.65  # from this opacity up the number has the color of the paper


@dataclass(frozen=True)
class MatrixCell:
    """A share from 0 to 1 in a matrix, with the words that hovering shows; `css` is right or wrong."""

    share: float
    css: str
    hover: str


@dataclass(frozen=True)
class Heading:
    """The name of a row or a column; `bold` where it names forgotten data."""

    words: str
    bold: bool = False


@dataclass(frozen=True)
class PlanePoint:
    """An item in a plane, x and y from -1 to 1."""

    x: float
    y: float
    css: str


def matrix(
    cells: Mapping[tuple[int, int], MatrixCell],
    rows: Sequence[Heading],
    columns: Sequence[Heading],
    titles: tuple[str, str],
    width: float,
    label: str,
    css: str = "",
    tall: float = 0,
) -> Markup:
    """Cells in rows and columns, the deeper colored the larger their shares.

    Args:
        cells: (row, column) -> cell; other cells are empty.
        rows: names of the rows.
        columns: names of the columns.
        titles: of the rows and of the columns.
        width: of the chart.
        label: what a screen reader says in place of the chart.
        css: classes of the chart.
        tall: height of a row; 0: as the width of a column.
    """
    most, longest = 18 if tall else 12, max((len(shorten(c.words, 12)) for c in columns), default=1)
    left = 8 + max((len(shorten(r.words, most)) for r in rows), default=1) * _LETTER
    room = (width - left - 4) / max(1, len(columns))
    turn = 0 if longest * _LETTER <= room else 50 if room >= _LEANING else 90  # names that do not fit lean, then stand upright
    over = len(shorten(columns[-1].words, 12)) * _LETTER * math.cos(math.radians(turn)) - room / 2 if columns and turn else 0.0
    right = 4 + max(0.0, over)
    top = 22 + (longest * _LETTER * math.sin(math.radians(turn)) + 8 if turn else 14)
    size = (width - left - right) / max(1, len(columns))
    high = tall or size
    below = top + high * len(rows)
    body = [text(2, 12, f"↓ {titles[0]}", "title"), text(width - right, 12, f"{titles[1]} →", "title end")]
    body.append(f'<rect class="sheet" x="{left:.1f}" y="{top:.1f}" width="{size * len(columns):.1f}" height="{below - top:.1f}"/>')
    for i, r in enumerate(rows):
        body.append(text(left - 6, top + (i + 0.5) * high + 4, shorten(r.words, most), f"tick end{' strong' if r.bold else ''}"))
    for j, c in enumerate(columns):
        x, style = left + (j + 0.5) * size, "strong" if c.bold else ""
        if turn:
            place = f"translate({x + turn / 25:.1f},{top - 5:.1f}) rotate({-turn})"
            body.append(f'<text class="tick {style}" transform="{place}">{escape(shorten(c.words, 12))}</text>')
        else:
            body.append(text(x, top - 6, c.words, f"tick mid {style}"))
    for (i, j), cell in sorted(cells.items()):
        x, y, depth = left + j * size, top + i * high, 0.08 + 0.92 * min(1.0, max(0.0, cell.share)) ** 0.6
        square = (
            f'<rect class="cell {cell.css}" x="{x:.1f}" y="{y:.1f}" width="{size:.1f}" height="{high:.1f}" fill-opacity="{depth:.2f}"/>'
        )
        number = f"{cell.share * 100:.0f}" if round(cell.share * 100) and size >= _ROOMY else ""
        inside = text(x + size / 2, y + high / 2 + 4, number, "percent mid" + (" on" if depth > _DEEP else "")) if number else ""
        body.append(f"<g><title>{escape(cell.hover)}</title>{square}{inside}</g>")
    for i in range(1, len(rows)):
        body.append(f'<line class="cut" x1="{left:.1f}" x2="{width - right:.1f}" y1="{top + i * high:.1f}" y2="{top + i * high:.1f}"/>')
    for j in range(1, len(columns)):
        body.append(f'<line class="cut" x1="{left + j * size:.1f}" x2="{left + j * size:.1f}" y1="{top:.1f}" y2="{below:.1f}"/>')
    return svg(width, below + 4, "".join(body), label, css)


def histogram(
    shares: Mapping[str, Sequence[float]],
    x: Axis,
    most: float,
    label: str,
    hovers: Mapping[str, str],
    y_label: str = "share of items",
    width: float = 340,
    height: float = 200,
) -> Markup:
    """Shares of items in equal bins over the axis; later series lie on top.

    Args:
        shares: class of a series -> the shares of its bins.
        x: the axis that the bins divide.
        most: end of the axis of shares.
        label: what a screen reader says in place of the chart.
        hovers: class of a series -> the words that hovering shows.
        y_label: title of the axis of shares.
        width: of the chart.
        height: of the chart.
    """
    frame = Frame(width, height, x, Axis(0, most, y_label), left=34)
    body = [frame.axes()]
    for css, values in shares.items():
        edges = [x.low + (x.high - x.low) * i / max(1, len(values)) for i in range(len(values) + 1)]
        xs = [e for a, b in pairwise(edges) for e in (a, b)]
        ys = [v for v in values for _ in range(2)]
        d = frame.path([x.low, *xs, x.high], [0.0, *ys, 0.0])
        body.append(f'<path class="bins {css}" d="{d}"><title>{escape(hovers.get(css, ""))}</title></path>')
    return svg(width, height, "".join(body), label)


def dots(
    rows: Sequence[tuple[Heading, Mapping[str, tuple[float, str]]]], label: str, x_label: str, width: float = 340, high: float = 21
) -> Markup:
    """A row a class with marks along an axis from 0 to 1, and a line from the original's mark to the method's.

    Args:
        rows: name of a class, and its marks: shape (a role) -> (value, the words that hovering shows).
        label: what a screen reader says in place of the chart.
        x_label: title of the axis.
        width: of the chart.
        high: height of a row.
    """
    left = 16 + max((len(shorten(h.words, 12)) for h, _ in rows), default=1) * _LETTER
    frame = Frame(width, 46 + high * len(rows), Axis(0, 1, x_label), Axis(0, 1), left=left, right=20, top=6)
    body = []
    for i, (head, marks) in enumerate(rows):
        y = frame.top + (i + 0.5) * (frame.height - frame.bottom - frame.top) / len(rows)
        if head.bold:
            box = f'x="{left:.1f}" y="{y - high / 2:.1f}" width="{width - left - 8:.1f}" height="{high:.1f}"'
            body.append(f'<rect class="lit" {box}/>')
        body.append(f'<line class="grid" x1="{left:.1f}" x2="{width - 20:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(text(left - 12, y + 4, shorten(head.words, 12), f"tick end{' strong' if head.bold else ''}"))
        if {"original", "method"} <= marks.keys():
            a, b = (frame.px(marks[k][0]) for k in ("original", "method"))
            body.append(f'<line class="moved" x1="{a:.1f}" x2="{b:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        for shape, (value, words) in marks.items():
            place = f'transform="translate({frame.px(value):.1f},{y:.1f})"'
            mark = f'<path class="mark {shape}{" best" if shape == "method" else ""}" {place} d="{SHAPES[shape]}"/>'
            body.append(f'<g class="point"><title>{escape(words)}</title>{mark}</g>')
    axis = f'<line class="axis" x1="{left:.1f}" x2="{width - 20:g}" y1="{frame.height - 38:g}" y2="{frame.height - 38:g}"/>'
    for v in (0, 0.25, 0.5, 0.75, 1):
        axis += text(frame.px(v), frame.height - 22, share(v) if v else "0", "tick mid")
    return svg(width, frame.height, axis + "".join(body) + text(width - 20, frame.height - 4, x_label, "title end"), label)


def plane(spots: Sequence[PlanePoint], labels: Sequence[tuple[float, float, Heading]], label: str, size: float = 320) -> Markup:
    """Items in a plane without axes, and names at some positions: (x, y, name). Items of one style are one path of dots."""

    def position(v: float) -> float:
        return size / 2 + v * (size / 2 - 20)

    body = [f'<rect class="sheet" x="0" y="0" width="{size:g}" height="{size:g}"/>']
    for css in dict.fromkeys(s.css for s in spots):
        d = "".join(f"M{position(s.x):.1f},{position(-s.y):.1f}h0" for s in spots if s.css == css)
        body.append(f'<path class="spots {css}" d="{d}"/>')
    body += [text(position(x), position(-y) - 7, shorten(h.words, 12), f"place mid{' strong' if h.bold else ''}") for x, y, h in labels]
    return svg(size, size, "".join(body), label)
