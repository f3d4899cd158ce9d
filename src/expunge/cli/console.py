"""The terminal: what a command prints, its progress, and Ctrl-C. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from expunge.cli.exits import rank

Progress = Callable[[int, int, str], None]
WIDE = 10_000  # columns: nothing is wrapped or left out

out = Console(quiet=bool(rank()))


@dataclass(frozen=True)
class Printer:
    """What a command prints: sentences and tables, or with `as_json` one JSON value and nothing else, or with `quiet` nothing.

    wide: print tables in full, however wide they are.
    """

    as_json: bool = False
    quiet: bool = False
    wide: bool = False

    @property
    def silent(self) -> bool:
        return self.as_json or self.quiet

    @property
    def width(self) -> int:
        """Columns that a table may take."""
        return WIDE if self.wide else out.width

    def say(self, sentence: str, label: str = "") -> None:
        """Print a sentence as it stands, brackets included. In a file it stays on one line, so that it can be searched."""
        if not self.silent:
            out.print(f"{label}{escape(sentence)}", soft_wrap=not out.is_terminal, highlight=False)

    def table(self, table: Any) -> None:
        """Print a table."""
        if not self.silent:
            (Console(quiet=out.quiet, width=WIDE) if self.wide else out).print(table)

    def result(self, value: Callable[[], Any]) -> None:
        """Print the result as strict JSON, where JSON is asked for: numbers that are not finite become null. value: makes it."""
        if self.as_json and not rank():
            from expunge.engine.receipt import plain

            values = json.loads(json.dumps(value(), default=plain), parse_constant=lambda _: None)
            print(json.dumps(values, indent=1))

    def progress(self) -> Any:
        """A context with a function that shows progress."""
        return progress(self.quiet)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """Show progress on stderr: a bar for the current task with the time left or, where stderr is no terminal, a line for each task."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, quiet=bool(rank()))
    if quiet or rank():
        yield lambda *_: None
        return
    if not console.is_terminal:
        yield _lines()
        return
    bars = Bars(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True)
    tasks: dict[str, Any] = {}

    def show(done: int, total: int, task: str) -> None:
        if task not in tasks:
            for finished in tasks.values():
                bars.update(finished, visible=False)
            tasks.clear()
            tasks[task] = bars.add_task(task, total=total or None)
        bars.update(tasks[task], completed=done, total=total or None)

    with bars:
        yield show


def _lines() -> Progress:
    """Progress as plain lines: one for each task, when it begins."""
    current_task = [""]

    def show(done: int, total: int, task: str) -> None:
        if task != current_task[0]:
            current_task[0] = task
            print(task, file=sys.stderr, flush=True)

    return show


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C request a stop after the current step, and the second one stop at once.

    Yields:
        A function that tells whether a stop was requested.
    """
    requested = [False]

    def request_stop(*_: object) -> None:
        if requested[0]:
            raise KeyboardInterrupt
        requested[0] = True
        print("stopping after this step (Ctrl-C again: at once)", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield lambda: False
        return
    previous = signal.signal(signal.SIGINT, request_stop)
    try:
        yield lambda: requested[0]
    finally:
        signal.signal(signal.SIGINT, previous)
