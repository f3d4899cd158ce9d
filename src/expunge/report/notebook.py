"""Results in a notebook: a small table, in the colors of the notebook, so that it fits light and dark themes."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.report.templates import render

MOST = 40  # rows of a table


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """The HTML of a table, with every cell escaped.

    Args:
        title: what the table is about.
        columns: headings, the first one of the names.
        rows: cells as text; of more than 40 rows the first 40 stand in the table, and a note gives the number of the others.
        notes: what to say beside the title.
    """
    more = [f"{len(rows) - MOST} more rows are in to_pandas()"] if len(rows) > MOST else []
    return render("notebook.html.j2", title=title, columns=columns, rows=rows[:MOST], notes=[*notes, *more])
