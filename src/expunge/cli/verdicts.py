"""How the terminal shows a verdict: four questions first, JSON for programs, and exit codes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from expunge.cli.console import rank, say
from expunge.core.errors import UserError

if TYPE_CHECKING:
    from expunge.report.verdict_data import Verdict

FAILED = 3  # exit code of an audit whose verdict --fail-on names
FailOn = Literal["not-removed", "cannot-tell", "never"]
STYLES = {"not removed": "[bold red]not removed[/]", "cannot tell": "[yellow]cannot tell[/]", "removed": "[green]removed[/]"}
MANY = 10  # leaks that are shown

FailOnOption = Annotated[
    FailOn,
    typer.Option(
        help=f"exit with code {FAILED} where it is so bad: not-removed; cannot-tell (also where it cannot be told, for gates, since "
        "that is no pass); never"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON and nothing else (docs/verdict.md describes it)")]
Margins = Annotated[
    list[str] | None,
    typer.Option("--margin", help="SCORE=VALUE: a difference up to this counts as none, e.g. forget_rouge=0.2; may be repeated"),
]
Alpha = Annotated[float, typer.Option(help="chance that a verdict is wrong where the truth lies at a margin")]


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


def show(verdict: Verdict) -> None:
    """Print the first screen: leaked answers verbatim, then the answers to the four questions, then the checks."""
    for leak in verdict.leaks[:MANY]:
        sure = "" if leak.proof else ", perhaps a guess"
        say(
            f": row {leak.row}, {leak.kind} {leak.produced!r} in the answer {leak.said!r} to {leak.question!r}{sure}", "[bold red]leaked[/]"
        )
    if len(verdict.leaks) > MANY:
        say(f"and {len(verdict.leaks) - MANY} more leaks, in audit.json")
    say(f" {verdict.gone}", f"[bold]Is it gone?[/] {STYLES[verdict.state]}.")
    say(f" {verdict.sure}", "[bold]How sure are we?[/]")
    say(f" {_joined([r.text for r in verdict.brings_back], 'No attack was made.')}", "[bold]What could still bring it back?[/]")
    say(f" {_joined([f'{line};' for line in verdict.not_checked], 'Nothing known.').removesuffix(';')}.", "[bold]What was not checked?[/]")
    for text in verdict.damage:
        say(f" {text}", "[yellow]damage:[/]")
    for text in verdict.notes:
        say(f" {text}", "[yellow]note:[/]")
    for check in verdict.checks:
        say(f" {check.text}", f"{STYLES[check.state]}{'' if check.decides else ' (for information)'}:")
    if verdict.sharpen:
        say(verdict.sharpen)


def _joined(texts: Sequence[str], empty: str) -> str:
    return " ".join(texts) or empty


def show_models(verdicts: Mapping[str, Verdict], states: Mapping[str, int]) -> None:
    """Print how many models are in which state, and a line for each."""
    counted = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    say(f"of {len(verdicts)} models: {counted}" if verdicts else "no model was judged")
    for name, verdict in verdicts.items():
        say(f" {verdict.gone}", f"{STYLES[verdict.state]}: [bold]{name}[/].")
        for text in verdict.damage:
            say(f" {text}", "[yellow]damage:[/]")


def show_json(data: Mapping[str, Any]) -> None:
    """Print strict JSON: numbers that are not finite become null."""
    if not rank():
        print(json.dumps(_strict(data), indent=1, ensure_ascii=False))


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(k): _strict(v) for k, v in value.items()}
    return [_strict(v) for v in value] if isinstance(value, (list, tuple)) else value


def end(state: str, fail_on: FailOn) -> None:
    """Exit with code 3 where the state is as bad as the user named."""
    failing = {"not-removed": ("not removed",), "cannot-tell": ("not removed", "cannot tell"), "never": ()}[fail_on]
    if state in failing:
        raise typer.Exit(FAILED)


def judge_again(
    folder: Annotated[Path, typer.Argument(metavar="AUDIT", help="folder of an audit")],
    margin: Margins = None,
    alpha: Alpha = 0.05,
    fail_on: FailOnOption = "not-removed",
    as_json: AsJson = False,
    write: Annotated[bool, typer.Option("--write", help="put the new verdict into audit.json and the report of the folder")] = False,
) -> None:
    """Judge an audit again, with other margins and without the model."""
    from expunge.workflows.audit_result import summary, write_verdict
    from expunge.workflows.rejudge import verdict

    result = verdict(folder, alpha=alpha, margins=margins_from(margin))
    if write:
        write_verdict(folder, result)
    if as_json:
        show_json(summary(result))
    else:
        show(result.verdict)
    end(result.verdict.state, fail_on)
