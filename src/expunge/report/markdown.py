"""Markdown of the pages: tables, and plain text whose characters never become markup by chance."""

from __future__ import annotations

import re
from collections.abc import Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; none without rows."""
    if not rows:
        return []
    return [_line(columns), _line(["---"] * len(columns)), *(_line([c.replace("|", "\\|") for c in row]) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def prose(text: str) -> str:
    """Plain text as Markdown: text in backticks stays as it is, everything else is escaped, and papers become links."""
    spans = re.split(r"(`[^`]*`)", text)
    return "".join(s if s.startswith("`") else re.sub(r"arXiv (\d{4}\.\d{4,5})", _paper, _escape(s)) for s in spans)


def _paper(match: re.Match[str]) -> str:
    return f"[arXiv {match[1]}](https://arxiv.org/abs/{match[1]})"


def _escape(text: str) -> str:
    return re.sub(r"([*<\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)
