"""Verdicts in the terminal: four questions first, exit codes for gates, and the command that judges an audit again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli import options
from expunge.cli.console import Printer
from expunge.cli.exits import ExitCode, usage
from expunge.core.errors import UserError

if TYPE_CHECKING:
    from expunge.report.verdict_data import Verdict

STYLES = {"not removed": "[bold red]not removed[/]", "cannot tell": "[yellow]cannot tell[/]", "removed": "[green]removed[/]"}
FAILING = {"not-removed": ("not removed",), "cannot-tell": ("not removed", "cannot tell"), "never": ()}  # states that --fail-on names
MANY = 10  # leaks that are shown


def add(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("verdict")(judge_again)


def judge_again(
    folder: Annotated[Path, typer.Argument(metavar="AUDIT", help="folder of an audit")],
    margin: options.Margins = None,
    alpha: options.Alpha = 0.05,
    fail_on: options.FailOn = "not-removed",
    write: Annotated[bool, typer.Option("--write", help="put the new verdict into audit.json and the report of the folder")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Judge an audit again, with other margins and without the model."""
    with usage():
        margins = margins_from(margin)
    from expunge.workflows.audit import thresholds_of
    from expunge.workflows.audit_result import summary, write_verdict
    from expunge.workflows.rejudge import verdict

    printer = Printer(as_json, quiet)
    with usage():
        thresholds_of(alpha, margins)
    result = verdict(folder, alpha=alpha, margins=margins)
    if write:
        write_verdict(folder, result)
    show(result.verdict, printer)
    printer.result(lambda: {"folder": str(folder), **summary(result)})
    end(result.verdict.state, fail_on)


def margins_from(options: Sequence[str] | None) -> dict[str, float]:
    """Read `SCORE=0.1` options as a mapping. Raises: UserError for one that is no number."""
    margins = {}
    for option in options or ():
        name, _, value = option.partition("=")
        try:
            margins[name.strip().replace("-", "_")] = float(value)
        except ValueError:
            raise UserError(f"--margin takes SCORE=VALUE, for instance forget_rouge=0.2; this is {option!r}") from None
    return margins


def show(verdict: Verdict, printer: Printer) -> None:
    """Print the first screen: leaked answers verbatim, then the answers to the four questions, then the checks."""
    for leak in verdict.leaks[:MANY]:
        sure = "" if leak.proof else ", perhaps a guess"
        printer.say(
            f": row {leak.row}, {leak.kind} {leak.produced!r} in the answer {leak.model_answer!r} to {leak.question!r}{sure}",
            "[bold red]leaked[/]",
        )
    if len(verdict.leaks) > MANY:
        printer.say(f"and {len(verdict.leaks) - MANY} more leaks, in audit.json")
    printer.say(f" {verdict.gone}", f"[bold]Is it gone?[/] {STYLES[verdict.state]}.")
    printer.say(f" {verdict.sure}", "[bold]How sure are we?[/]")
    printer.say(f" {_joined([r.text for r in verdict.brings_back], 'No attack was made.')}", "[bold]What could still bring it back?[/]")
    printer.say(
        f" {_joined([f'{line};' for line in verdict.not_checked], 'Nothing known.').removesuffix(';')}.", "[bold]What was not checked?[/]"
    )
    for text in verdict.damage:
        printer.say(f" {text}", "[yellow]damage:[/]")
    for text in verdict.notes:
        printer.say(f" {text}", "[yellow]note:[/]")
    for check in verdict.checks:
        printer.say(f" {check.text}", f"{STYLES[check.state]}{'' if check.decides else ' (for information)'}:")
    if verdict.sharpen:
        printer.say(verdict.sharpen)


def _joined(texts: Sequence[str], empty: str) -> str:
    return " ".join(texts) or empty


def show_models(verdicts: Mapping[str, Verdict], states: Mapping[str, int], printer: Printer) -> None:
    """Print how many models are in which state, and a line for each."""
    counted = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    printer.say(f"of {len(verdicts)} models: {counted}" if verdicts else "no model was judged")
    for name, verdict in verdicts.items():
        printer.say(f" {verdict.gone}", f"{STYLES[verdict.state]}: [bold]{name}[/].")
        for text in verdict.damage:
            printer.say(f" {text}", "[yellow]damage:[/]")


def end(state: str, fail_on: options.FailState) -> None:
    """Exit with a code of its own where the state is as bad as the user named."""
    if state in FAILING[fail_on]:
        raise typer.Exit(int(ExitCode.VERDICT))
