"""Charts as a file of their own, for pages that show pictures: an SVG that brings the report's colors, light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup, escape

STYLE = Path(__file__).with_name("style.css")


def grid(charts: Sequence[Sequence[Markup]], size: tuple[float, float], label: str, gap: float = 16) -> str:
    """Charts of one size in rows, as a whole picture.

    Args:
        charts: rows of charts.
        size: width and height of each chart.
        label: what a screen reader says in place of the picture.
        gap: between two charts and around them.

    Returns:
        The text of an SVG file.
    """
    width, height = size
    columns = max(map(len, charts))
    body = "".join(
        f'<g transform="translate({gap + j * (width + gap):g},{gap + i * (height + gap):g})">{_inside(chart)}</g>'
        for i, row in enumerate(charts)
        for j, chart in enumerate(row)
    )
    return whole(columns * (width + gap) + gap, len(charts) * (height + gap) + gap, body, label)


def whole(width: float, height: float, body: str, label: str) -> str:
    """The text of an SVG file with its style, on the color of the page; `label` is what a screen reader says in its place."""
    colors, _, rules = STYLE.read_text(encoding="utf-8").partition("*, ::before")
    style = f"{colors}svg {{ font: 12px var(--sans); fill: var(--ink); }}\n" + "\n".join(_needed(rules, body))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(label)}">\n<style>\n{style}\n</style>\n<rect width="100%" height="100%" style="fill: var(--paper)"/>\n'
        f"{body}\n</svg>\n"
    )


def _inside(chart: Markup) -> str:
    return re.sub(r"^<svg[^>]*>|</svg>$", "", chart)


def _needed(rules: str, body: str) -> Iterator[str]:
    """The CSS rules that apply to classes of the body alone."""
    used = {name for names in re.findall(r'class="([^"]*)"', body) for name in names.split()}
    plain = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", rules)
    for selectors, declarations in re.findall(r"([^{}]+)\{([^{}]*)\}", plain):
        by_class = [s.strip() for s in selectors.split(",") if re.fullmatch(r"(\s*(text)?(\.[\w-]+)+)+\s*", s)]
        if needed := [s for s in by_class if used >= set(re.findall(r"\.([\w-]+)", s))]:
            yield f"{', '.join(needed)} {{{declarations}}}"
