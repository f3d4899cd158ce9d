"""Makes the page of `docs/` on tuning: every setting that was tried, its goodness, and the chosen one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.report.markdown import prose, table

HERE = Path(__file__).parent
HEAD = "<!-- Made by `make docs` from studies/tuning/; `python -m studies.tuning.tune --help` says how to make these files again. -->\n"
INTRODUCTION = """\
The defaults of the papers are for models a thousand times larger, so the small built-in models have hyperparameters of their own. On each
benchmark every method had about the same number of settings; methods whose learning rates have another scale had a grid of their own. The
settings were tried on rows to forget that no result is reported on. The goodness of a setting, from 0 to 1, says how close its model comes
to the retrained one: it is the harmonic mean of the utility it keeps and its likeness to the retrained model on the rows to forget
([tune.py](../studies/tuning/tune.py) lists the scores). `expunge bench` and `make reproduce` use the best setting (bold)."""


def pages() -> dict[str, str]:
    """The text of the page by its path under `docs/`."""
    lines = [HEAD, "# Tuning", "", INTRODUCTION, ""]
    for path in sorted(HERE.glob("*.json")):
        record = json.loads(path.read_text())
        benchmark, _, model = path.stem.partition("-")
        lines += [f"## {benchmark}, {model}", "", f"Tried on {prose(record['tuning']['suite'])}, seed {record['tuning']['seed']}.", ""]
        tried = record["tuning"]["tried"]
        rows = [_row(n, hyperparameters, tried.get(n, ())) for n, hyperparameters in sorted(record["methods"].items())]
        lines += [*table(("method", "in all settings", "settings and their goodness"), rows), ""]
    return {"tuning.md": "\n".join(lines)}


def _row(method: str, chosen: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> list[str]:
    link = f"[{method}](methods/{method}.md)"
    if not tried:
        return [link, _as_text(chosen), "nothing was tried"]
    settings = [t["hyperparameters"] for t in tried]
    shared = {k: v for k, v in chosen.items() if all(k in setting and setting[k] == v for setting in settings)}
    return [link, _as_text(shared), "<br>".join(_setting(t, shared, chosen) for t in tried)]


def _setting(tried: Mapping[str, Any], shared: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    """The values that are not shared by all settings, with the goodness of the setting; bold for the chosen one."""
    own = _as_text({k: v for k, v in tried["hyperparameters"].items() if k not in shared})
    line = f"{own or 'these'}: {'refused' if 'why' in tried else format(tried['goodness'], '.3f')}"
    return f"**{line}**" if tried["hyperparameters"] == chosen else line


def _as_text(hyperparameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {_value(v)}" for k, v in hyperparameters.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_value, value))
    if isinstance(value, float):
        return f"{value:g}"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
