"""The terminal: progress, plain errors, Ctrl-C. No torch here, so that help is quick."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .core.errors import UserError

Progress = Callable[[int, int, str], None]


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar a task, with the time left; tasks come and go by their text. Plain lines where the output is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    bars = Bars(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True)
    tasks: dict[str, Any] = {}

    def show(done: int, total: int, what: str) -> None:
        if what not in tasks:
            for old in tasks.values():
                bars.update(old, visible=False)
            tasks.clear()
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, total=total)

    with bars:
        yield show


def _lines() -> Progress:
    last = [""]

    def show(done: int, total: int, what: str) -> None:
        if what != last[0]:
            last[0] = what
            print(what, file=sys.stderr, flush=True)

    return show


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks for a stop at the next step; a second one stops at once."""
    asked = [False]

    def ask(*_: object) -> None:
        if asked[0]:
            raise KeyboardInterrupt
        asked[0] = True
        print("stopping after this step (Ctrl-C again: at once)", file=sys.stderr)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked[0]
    finally:
        signal.signal(signal.SIGINT, before)


def knobs_from(args: Sequence[str]) -> dict[str, str]:
    """`--beta 0.2 --npo.lr=1e-4` as a mapping. Errors: UserError for anything else, and for a knob without a value."""
    found: dict[str, str] = {}
    left = list(args)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            raise UserError(f"unexpected argument '{word}': knobs are given as --NAME VALUE")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not left or (left[0].startswith("--") and len(left[0]) > 2 and not left[0][2].isdigit()):
                raise UserError(f"the knob --{name} needs a value")
            value = left.pop(0)
        found[name] = value
    return found


def show_knobs(method: str, out: Callable[[Any], None]) -> None:
    """A table of the knobs of a method."""
    from rich.table import Table

    from . import resolve

    table = Table(title=f"knobs of {method}", title_justify="left", box=None, pad_edge=False)
    for column in ("knob", "default", "range", "meaning"):
        table.add_column(column, no_wrap=column == "knob")
    for k in resolve.knobs(method):
        kind = getattr(k.annotation, "__args__", ())
        options = "|".join(map(str, kind)) if kind and all(isinstance(a, str) for a in kind) else k.limits
        table.add_row(f"--{k.name.replace('_', '-')}", str(k.value), options, k.help)
    out(table)


LEVELS = {"fail": "[bold red]failed[/]", "warn": "[yellow]warning[/]", "pass": "[green]passed[/]"}


def show_verdict(findings: Sequence[Mapping[str, Any]], out: Callable[[Any], None]) -> None:
    """Findings in words, failures first."""
    from rich.markup import escape

    for f in findings:
        out(f"{LEVELS[f['level']]}: {escape(f['text'])}")


def show_curve(curve: Sequence[Mapping[str, Any]], out: Callable[[Any], None]) -> None:
    """Scores along the steps of an attack."""
    from rich.table import Table

    from .report.words import number

    names = list(curve[0]["scores"])
    table = Table("step", *names, box=None, pad_edge=False)
    for point in curve:
        table.add_row(str(point["step"]), *(number(point["scores"].get(n)) for n in names))
    out(table)


def show_scores(scores: Mapping[str, Mapping[str, Any]], out: Callable[[Any], None]) -> None:
    """A table of scores with interval, ideal and the retrained model's value."""
    from rich.table import Table

    from .report.words import number, span

    table = Table(box=None, pad_edge=False)
    for column, how in (("score", "left"), ("value", "right"), ("95 % interval", "right"), ("n", "right"), ("good is", "left")):
        table.add_column(column, justify=how)  # type: ignore[arg-type]
    for name, r in scores.items():
        ideal = r["ideal"] if r["ideal"] is not None else r["retrained"]
        good = (
            r["direction"] if r["direction"] != "retrained" else f"as retrained ({number(ideal)})" if ideal is not None else "as retrained"
        )
        table.add_row(name, number(r["value"]), span(*r["interval"]), str(r["n"]), good)
    out(table)
