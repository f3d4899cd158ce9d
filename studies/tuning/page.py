"""The page of `docs/` that shows how hyperparameters were chosen: every setting that was tried, what it was worth, and which one is used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.report.markdown import prose, table

HERE = Path(__file__).parent
HEAD = "<!-- Made by `make docs` from studies/tuning/; `python -m studies.tuning.tune --help` says how to make those again. -->\n"
SAID = """\
Papers' defaults are for models a thousand times larger, so the small built-in models have hyperparameters of their own. On a benchmark every method
had about the same number of settings (methods whose rates are of another scale had others), tried on rows to forget that no result is
reported on. The goodness of a setting is how near its model comes to the retrained one, from 0 to 1: the harmonic mean of how much it keeps
and of how like the retrained model it is on the rows to forget ([tune.py](../studies/tuning/tune.py) says by which scores). The best
one (bold) is what `bench` and `reproduce` use."""


def pages() -> dict[str, str]:
    """The page by its place under `docs/`."""
    lines = [HEAD, "# Tuning", "", SAID, ""]
    for path in sorted(HERE.glob("*.json")):
        found = json.loads(path.read_text())
        benchmark, _, model = path.stem.partition("-")
        lines += [f"## {benchmark}, {model}", "", f"Tried on {prose(found['tuning']['suite'])}, seed {found['tuning']['seed']}.", ""]
        tried = found["tuning"]["tried"]
        rows = [_row(n, hyperparameters, tried.get(n, ())) for n, hyperparameters in sorted(found["methods"].items())]
        lines += [*table(("method", "in all settings", "settings and their goodness"), rows), ""]
    return {"tuning.md": "\n".join(lines)}


def _row(method: str, chosen: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> list[str]:
    link = f"[{method}](methods/{method}.md)"
    if not tried:
        return [link, _said(chosen), "nothing was tried"]
    all_of = [t["hyperparameters"] for t in tried]
    same = {k: v for k, v in chosen.items() if all(k in hyperparameters and hyperparameters[k] == v for hyperparameters in all_of)}
    return [link, _said(same), "<br>".join(_setting(t, same, chosen) for t in tried)]


def _setting(tried: Mapping[str, Any], same: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    """What differs in a setting, and what it was worth."""
    own = _said({k: v for k, v in tried["hyperparameters"].items() if k not in same})
    line = f"{own or 'these'}: {'refused' if 'why' in tried else format(tried['goodness'], '.3f')}"
    return f"**{line}**" if tried["hyperparameters"] == chosen else line


def _said(hyperparameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {_value(v)}" for k, v in hyperparameters.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_value, value))
    if isinstance(value, float):
        return f"{value:g}"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
