"""The terminal: help, plain errors, progress, Ctrl-C, tables. It does not import torch, so that help is quick."""

from __future__ import annotations

import difflib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from expunge import catalog
from expunge.core.errors import Interrupted, UserError

if TYPE_CHECKING:
    from expunge.core.hyperparameters import Hyperparameter

Progress = Callable[[int, int, str], None]
TO_RESUME = {"unlearn": "the same command with --resume", **dict.fromkeys(("train", "bench", "demo"), "the same command")}
DISTRIBUTED = ("unlearn", "train")  # commands that several processes run together
PACKAGES = {"sklearn": "scikit-learn", "rouge_score": "rouge-score"}  # packages whose name differs from the name of the import


def rank() -> int:
    """The index of this process under a launcher (`accelerate launch`, `torchrun`). Only process 0 prints."""
    return int(os.environ.get("RANK", "0"))


FORMER_COMMANDS = {"names": "list", "card": "show"}  # names of version 0.1, understood for one more release
FORMER_OPTIONS = {"--substitutes": "--alternate-answers", "--asked": "--request-from", "--reference": "--retrained"}


def current(args: list[str]) -> list[str]:
    """Replace former names of options by the current ones."""
    return [FORMER_OPTIONS.get(name, name) + equals + value for name, equals, value in (a.partition("=") for a in args)]


out = Console(quiet=bool(rank()))


class Commands(typer.core.TyperGroup):
    """Commands that report an error of the user as one sentence with exit code 2, and a stop by the user with exit code 130."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        cmd_name = FORMER_COMMANDS.get(cmd_name, cmd_name)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and cmd_name in self.commands and cmd_name not in DISTRIBUTED:
            raise UserError(f"{cmd_name} runs in one process: start it without a launcher; {' and '.join(DISTRIBUTED)} share their work")
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            fail(f"error: {error}", 2)
        except KeyboardInterrupt as stop:
            place = "here" if isinstance(stop, Interrupted) else "its last checkpoint"
            command = TO_RESUME.get(str(ctx.invoked_subcommand), "")
            fail(f"stopped; {command} continues from {place}" if command else "stopped", 130)
        except ModuleNotFoundError as error:
            package = (error.name or "expunge").split(".")[0]
            if package == "expunge":
                raise
            fail(f"error: this needs the package {package}, which is not installed: pip install {PACKAGES.get(package, package)}", 2)
        except OSError as error:
            if not error.filename:
                raise
            fail(f"error: {error.filename}: {str(error.strerror).lower()}", 2)


class WithHyperparameters(typer.core.TyperCommand):
    """A command whose help lists the hyperparameters of the named method or attack, and that reports options without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = current(args)
        kind = "attacks" if self.name in ("attack", "audit") else "methods"
        name = "finetune" if self.name == "train" else next((a for a in args if a in catalog.names(kind)), "")
        if "--help" in args and name:
            out.print(self.get_help(ctx))
            show_hyperparameters(name, kind, out.print)
            ctx.exit()
        remaining = super().parse_args(ctx, args)
        for key, value in ctx.params.items():
            if isinstance(value, str) and value.startswith("--"):
                raise UserError(f"--{key.replace('_', '-')} needs a value, but {value} follows it")
        options = [o.removeprefix("--") for p in self.params for o in p.opts if o.startswith("--")]
        for word in (w.removeprefix("--").partition("=")[0] for w in ctx.args if w.startswith("--")):
            if near := difflib.get_close_matches(word, options, n=1, cutoff=0.75):
                methods = {name, *(ctx.params.get("select") or ()), *(ctx.params.get("update") or ())} & {*catalog.names(kind)}
                known = {k.name for n in methods for k in hyperparameters_of(n, kind)}
                if word.replace("-", "_") not in known:
                    raise UserError(f"there is no option or hyperparameter --{word}; did you mean --{near[0]}?")
        return remaining


class OnCluster(typer.core.TyperCommand):
    """A command whose `--ray` may stand alone, as `--ray auto`: the next word is its value only where it looks like an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = current(args)
        for i in [i for i, word in enumerate(args) if word == "--ray"]:
            following = args[i + 1] if i + 1 < len(args) else ""
            if not re.fullmatch(r"auto|local|[^-].*:\d+", following):
                args = [*args[:i], "--ray=auto", *args[i + 1 :]]
        return super().parse_args(ctx, args)


def fail(sentence: str, code: int) -> NoReturn:
    """Print a sentence to stderr and exit."""
    if not rank():
        print(sentence, file=sys.stderr)
    else:
        time.sleep(1)  # a launcher ends all processes with the first that fails; process 0 must have printed its sentence by then
    raise SystemExit(code)


def say(sentence: str, label: str = "") -> None:
    """Print a sentence as it stands, brackets included. In a file it stays on one line, so that it can be searched."""
    out.print(f"{label}{escape(sentence)}", soft_wrap=not out.is_terminal, highlight=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress: a bar for the current task with the time left, or, where the output is not a terminal, a line for each task."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, quiet=bool(rank()))
    if not console.is_terminal:
        yield _lines() if not rank() else lambda *_: None
        return
    bars = Bars(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True)
    tasks: dict[str, Any] = {}

    def show(done: int, total: int, task: str) -> None:
        if task not in tasks:
            for finished in tasks.values():
                bars.update(finished, visible=False)
            tasks.clear()
            tasks[task] = bars.add_task(task, total=total)
        bars.update(tasks[task], completed=done, total=total)

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

    previous = signal.signal(signal.SIGINT, request_stop)
    try:
        yield lambda: requested[0]
    finally:
        signal.signal(signal.SIGINT, previous)


def hyperparameters_from(args: Sequence[str]) -> dict[str, str]:
    """Read `--beta 0.2 --npo.lr=1e-4` as a mapping.

    Raises:
        UserError: for a word that is not an option, or a hyperparameter without a value.
    """
    values: dict[str, str] = {}
    remaining = list(args)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("--"):
            raise UserError(f"unexpected argument '{word}': hyperparameters are given as --NAME VALUE")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not remaining or (remaining[0].startswith("--") and len(remaining[0]) > 2 and not remaining[0][2].isdigit()):
                raise UserError(f"the hyperparameter --{name} needs a value")
            value = remaining.pop(0)
        values[name] = value
    return values


def hyperparameters_of(name: str, kind: str) -> list[Hyperparameter]:
    """The hyperparameters of a method or an attack. An attack without a plan has none."""
    from expunge.core.hyperparameters import hyperparameters_of as list_hyperparameters
    from expunge.workflows import build_plan

    if kind == "methods":
        return build_plan.hyperparameters(name)
    module = catalog.load(name, kind)
    return list_hyperparameters(module.plan()) if hasattr(module, "plan") else []


def show_hyperparameters(name: str, kind: str, out: Callable[[Any], None]) -> None:
    """Print a table of the hyperparameters of a method or an attack."""
    from rich.table import Table

    table = Table(title=f"hyperparameters of {name}", title_justify="left", box=None, pad_edge=False)
    for column in ("option", "default", "range", "meaning"):
        table.add_column(column, no_wrap=column == "option")
    for hyperparameter in hyperparameters_of(name, kind):
        choices = getattr(hyperparameter.annotation, "__args__", ())
        limits = "|".join(map(str, choices)) if choices and all(isinstance(c, str) for c in choices) else hyperparameter.limits
        option = f"--{hyperparameter.name.replace('_', '-')}"
        table.add_row(option, escape(str(hyperparameter.value)), escape(limits), escape(hyperparameter.help))
    out(table)


def show_names(kind: str, as_json: bool) -> None:
    """Print the names of one kind, or of all kinds.

    Raises:
        UserError: for an unknown kind.
    """
    kinds = [kind] if kind else list(catalog.kinds())
    cards = {k: [catalog.card(n, k) for n in catalog.names(k)] for k in kinds}
    if as_json:
        entries = {k: [{"name": c.name, "status": c.status, "summary": c.headline} for c in cs] for k, cs in cards.items()}
        print(json.dumps(entries[kind] if kind else entries, indent=1))
        return
    for k, cs in cards.items():
        out.print(f"[bold]{k}[/]")
        for c in cs:
            out.print(f"  {c.name:18} {escape(c.headline)}", overflow="ellipsis", no_wrap=True, highlight=False)


def show_cards(name: str) -> None:
    """Print every card of a name; a metric may have the name of its benchmark.

    Raises:
        UserError: for an unknown name.
    """
    catalog.find(name)
    for kind in (k for k in catalog.kinds() if name in catalog.names(k)):
        c = catalog.card(name, kind)
        say(f" ({kind[:-1]}, {c.folder}/{c.name}.py)\n\n{c.summary}\n", f"[bold]{c.name}[/]")
        for key, text in c.fields.items():
            say(f": {text}", f"[bold]{key}[/]")
        for k in c.hyperparameters:
            say(f"  --{k.name.replace('_', '-')} {k.default}  {k.help}")
        say("")


def show_curve(curve: Sequence[Mapping[str, Any]], out: Callable[[Any], None]) -> None:
    """Print a table of the scores at each step of an attack."""
    from rich.table import Table

    from expunge.report.words import number

    names = list(curve[0]["scores"])
    table = Table("step", *names, box=None, pad_edge=False)
    for point in curve:
        table.add_row(f"{point['step']:g}", *(number(point["scores"].get(n)) for n in names))
    out(table)


def show_attack(result: Mapping[str, Any], name: str, out: Callable[[Any], None], say: Callable[[str], None]) -> None:
    """Print the result of an attack: each score before and after it, the steps to recover, and the ways that were not possible."""
    from rich.table import Table

    from expunge.report.words import number, span

    table = Table("way", "score", box=None, pad_edge=False)
    for column in ("before", "worst case", "95 % interval", "mean", "retrained", "n"):
        table.add_column(column, justify="right")
    table.add_column("worst in")
    for way, scores in result["ways"].items():
        for score, r in scores.items():
            shown = [number(r["before"]), number(r["value"]), span(*r["interval"]), number(r["mean"]), number(r["retrained"]), str(r["n"])]
            table.add_row(way or name, score, *shown, r["case"])
    if result["ways"]:
        out(table)
    for way, steps in result["steps_to_recover"].items():
        for rows, step in steps.items():
            when = f"after {step:g} steps" if step is not None else "not within the steps taken"
            say(f"{', '.join(filter(None, [way, f'{rows} held']))}: came back {when}")
    for way, why in result["missing"].items():
        say(f"{way or name}: {why}")


def show_scores(scores: Mapping[str, Mapping[str, Any]], out: Callable[[Any], None]) -> None:
    """Print a table of scores with their intervals and ideals."""
    from rich.table import Table

    from expunge.report.words import number, span

    table = Table(box=None, pad_edge=False)
    for column, justify in (("score", "left"), ("value", "right"), ("95 % interval", "right"), ("n", "right"), ("good is", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name, r in scores.items():
        ideal = r["ideal"] if r["ideal"] is not None else r["retrained"]
        good = (
            r["direction"] if r["direction"] != "retrained" else f"as retrained ({number(ideal)})" if ideal is not None else "as retrained"
        )
        table.add_row(name, number(r["value"]), span(*r["interval"]), str(r["n"]), good)
    out(table)
