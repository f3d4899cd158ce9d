"""Templates of the page and of its panels, with the words and marks that all of them write."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from expunge.report import figures, words
from expunge.report.charts import glyph

FOLDER = Path(__file__).parent


def render(name: str, **values: Any) -> str:
    """The HTML of a template; every value that is not markup is escaped.

    Args:
        name: path of the template's file in the folder of the report.
        **values: what the template names.
    """
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=words.number, pretty=words.pretty, count=words.count, duration=words.duration, plain=figures.plain)
    environment.globals.update(glyph=glyph, dash=words.DASH)
    return environment
