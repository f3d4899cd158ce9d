"""The terminal: help, plain errors, progress, Ctrl-C, tables. No torch here, so that help is quick."""

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
TO_GO_ON = {"unlearn": "the same command with --resume", **dict.fromkeys(("train", "bench", "demo"), "the same command")}
SHARED = ("unlearn", "train")  # what several processes do together
PACKAGES = {"sklearn": "scikit-learn", "rouge_score": "rouge-score"}  # where the package is not called as what is imported


def rank() -> int:
    """Which process this is, of those that a launcher (`accelerate launch`, `torchrun`) started; only the first one speaks."""
    return int(os.environ.get("RANK", "0"))


FORMER_COMMANDS = {"names": "list", "card": "show"}  # names of version 0.1, understood for one more release
FORMER_OPTIONS = {"--substitutes": "--alternate-answers", "--asked": "--request-from", "--reference": "--retrained"}


def current(args: list[str]) -> list[str]:
    """Arguments with former names of options replaced."""
    split = [a.partition("=") for a in args]
    return [FORMER_OPTIONS.get(name, name) + equals + value for name, equals, value in split]


out = Console(quiet=bool(rank()))


class Commands(typer.core.TyperGroup):
    """What the user can mend is one sentence and exit code 2; what the user stopped is one sentence and 130."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        cmd_name = FORMER_COMMANDS.get(cmd_name, cmd_name)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and cmd_name in self.commands and cmd_name not in SHARED:
            raise UserError(f"{cmd_name} runs in one process: start it without a launcher; {' and '.join(SHARED)} share their work")
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            fail(f"error: {error}", 2)
        except KeyboardInterrupt as stop:
            where = "here" if isinstance(stop, Interrupted) else "its last checkpoint"
            way_on = TO_GO_ON.get(str(ctx.invoked_subcommand), "")
            fail(f"stopped; {way_on} goes on from {where}" if way_on else "stopped", 130)
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
    """Help that ends with the hyperparameters of what is named; a value that looks like an option is a value that was forgotten."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = current(args)
        kind = "attacks" if self.name in ("attack", "audit") else "methods"
        name = "finetune" if self.name == "train" else next((a for a in args if a in catalog.names(kind)), "")
        if "--help" in args and name:
            out.print(self.get_help(ctx))
            show_hyperparameters(name, kind, out.print)
            ctx.exit()
        left = super().parse_args(ctx, args)
        for key, value in ctx.params.items():
            if isinstance(value, str) and value.startswith("--"):
                raise UserError(f"--{key.replace('_', '-')} needs a value, and what follows it is {value}")
        own = [o.removeprefix("--") for p in self.params for o in p.opts if o.startswith("--")]
        for word in (w.removeprefix("--").partition("=")[0] for w in ctx.args if w.startswith("--")):
            if near := difflib.get_close_matches(word, own, n=1, cutoff=0.75):
                named = {name, *(ctx.params.get("select") or ()), *(ctx.params.get("update") or ())} & {*catalog.names(kind)}
                known = {k.name for n in named for k in hyperparameters_of(n, kind)}
                if word.replace("-", "_") not in known:
                    raise UserError(f"there is no option or hyperparameter --{word}; did you mean --{near[0]}?")
        return left


class OnCluster(typer.core.TyperCommand):
    """`--ray` alone is `--ray auto`; what follows it is an address only where it looks like one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = current(args)
        for i in [i for i, word in enumerate(args) if word == "--ray"]:
            following = args[i + 1] if i + 1 < len(args) else ""
            if not re.fullmatch(r"auto|local|[^-].*:\d+", following):
                args = [*args[:i], "--ray=auto", *args[i + 1 :]]
        return super().parse_args(ctx, args)


def fail(sentence: str, code: int) -> NoReturn:
    if not rank():
        print(sentence, file=sys.stderr)
    else:
        time.sleep(1)  # a launcher ends all processes with the first that fails, and that one shall have spoken
    raise SystemExit(code)


def say(sentence: str, label: str = "") -> None:
    """One line where the output is a file, so that it can be searched; words with brackets are left alone."""
    out.print(f"{label}{escape(sentence)}", soft_wrap=not out.is_terminal, highlight=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar a task, with the time left; tasks come and go by their text. Plain lines where the output is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, quiet=bool(rank()))
    if not console.is_terminal:
        yield _lines() if not rank() else lambda *_: None
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


def hyperparameters_from(args: Sequence[str]) -> dict[str, str]:
    """`--beta 0.2 --npo.lr=1e-4` as a mapping. Errors: UserError for anything else, and for a hyperparameter without a value."""
    found: dict[str, str] = {}
    left = list(args)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            raise UserError(f"unexpected argument '{word}': hyperparameters are given as --NAME VALUE")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not left or (left[0].startswith("--") and len(left[0]) > 2 and not left[0][2].isdigit()):
                raise UserError(f"the hyperparameter --{name} needs a value")
            value = left.pop(0)
        found[name] = value
    return found


def hyperparameters_of(name: str, kind: str) -> list[Hyperparameter]:
    """The hyperparameters of a method or an attack; none where it has no plan."""
    from expunge.core.hyperparameters import hyperparameters_of as of
    from expunge.workflows import build_plan

    if kind == "methods":
        return build_plan.hyperparameters(name)
    module = catalog.load(name, kind)
    return of(module.plan()) if hasattr(module, "plan") else []


def show_hyperparameters(name: str, kind: str, out: Callable[[Any], None]) -> None:
    """A table of the hyperparameters of a method or an attack."""
    from rich.table import Table

    table = Table(title=f"hyperparameters of {name}", title_justify="left", box=None, pad_edge=False)
    for column in ("knob", "default", "range", "meaning"):
        table.add_column(column, no_wrap=column == "knob")
    for k in hyperparameters_of(name, kind):
        choices = getattr(k.annotation, "__args__", ())
        options = "|".join(map(str, choices)) if choices and all(isinstance(a, str) for a in choices) else k.limits
        table.add_row(f"--{k.name.replace('_', '-')}", escape(str(k.value)), escape(options), escape(k.help))
    out(table)


def show_names(kind: str, as_json: bool) -> None:
    """What there is, of one kind or of all. Errors: UserError for an unknown kind."""
    kinds = [kind] if kind else list(catalog.kinds())
    cards = {k: [catalog.card(n, k) for n in catalog.names(k)] for k in kinds}
    if as_json:
        found = {k: [{"name": c.name, "status": c.status, "summary": c.headline} for c in cs] for k, cs in cards.items()}
        print(json.dumps(found[kind] if kind else found, indent=1))
        return
    for k, cs in cards.items():
        out.print(f"[bold]{k}[/]")
        for c in cs:
            out.print(f"  {c.name:18} {escape(c.headline)}", overflow="ellipsis", no_wrap=True, highlight=False)


def show_cards(name: str) -> None:
    """Everything of one name: a metric may be called as its benchmark is. Errors: UserError."""
    catalog.find(name)
    for kind in (k for k in catalog.kinds() if name in catalog.names(k)):
        c = catalog.card(name, kind)
        say(f" ({kind[:-1]}, {c.folder}/{c.name}.py)\n\n{c.summary}\n", f"[bold]{c.name}[/]")
        for key, text in c.fields.items():
            say(f": {text}", f"[bold]{key}[/]")
        for k in c.hyperparameters:
            say(f"  --{k.name.replace('_', '-')} {k.default}  {k.help}")
        say("")


LEVELS = {"fail": "[bold red]failed[/]", "warn": "[yellow]warning[/]", "pass": "[green]passed[/]"}


def show_verdict(findings: Sequence[Mapping[str, Any]], say: Callable[[str, str], None]) -> None:
    """Findings in words, failures first."""
    for f in findings:
        say(f["text"], f"{LEVELS[f['level']]}: ")


def show_curve(curve: Sequence[Mapping[str, Any]], out: Callable[[Any], None]) -> None:
    """Scores along the steps of an attack."""
    from rich.table import Table

    from expunge.report.words import number

    names = list(curve[0]["scores"])
    table = Table("step", *names, box=None, pad_edge=False)
    for point in curve:
        table.add_row(f"{point['step']:g}", *(number(point["scores"].get(n)) for n in names))
    out(table)


def show_attack(found: Mapping[str, Any], name: str, out: Callable[[Any], None], say: Callable[[str], None]) -> None:
    """What an attack found: each score before and after, the steps to recover, and what could not be tried."""
    from rich.table import Table

    from expunge.report.words import number, span

    table = Table("way", "score", box=None, pad_edge=False)
    for column in ("before", "worst case", "95 % interval", "mean", "retrained", "n"):
        table.add_column(column, justify="right")
    table.add_column("worst in")
    for way, scores in found["ways"].items():
        for score, r in scores.items():
            shown = [number(r["before"]), number(r["value"]), span(*r["interval"]), number(r["mean"]), number(r["retrained"]), str(r["n"])]
            table.add_row(way or name, score, *shown, r["case"])
    if found["ways"]:
        out(table)
    for way, steps in found["steps_to_recover"].items():
        for rows, step in steps.items():
            when = f"after {step:g} steps" if step is not None else "not within the steps taken"
            say(f"{', '.join(filter(None, [way, f'{rows} held']))}: came back {when}")
    for way, why in found["missing"].items():
        say(f"{way or name}: {why}")


def show_scores(scores: Mapping[str, Mapping[str, Any]], out: Callable[[Any], None]) -> None:
    """A table of scores with interval, ideal and the retrained model's value."""
    from rich.table import Table

    from expunge.report.words import number, span

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
