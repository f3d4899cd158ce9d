"""The command that scores a sequence of requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import options
from expunge.cli.console import Printer
from expunge.cli.exits import usage


def add(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("sequence")(score_sequence)


def score_sequence(
    audits: Annotated[list[Path], typer.Argument(metavar="AUDIT...", help="folders of audits, one after each request, in their order")],
    utility: Annotated[str, typer.Option(help="score that measures utility; default: that of the modality")] = "",
    beta: Annotated[float, typer.Option(min=0, help="weight of the mean rise of the deviation")] = 0.5,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Score requests that came one after the other, by the audit after each: how far answers deviate, and how steady the utility stays."""
    from expunge.workflows.sequence import sequence

    printer = Printer(as_json, quiet)
    with usage():
        result = sequence(audits, utility=utility, beta=beta)
    for k, request in enumerate(result["requests"], 1):
        printer.say(f"request {k}: deviation {request['deviation']:.1f} %, {result['scores']['utility']} {request['utility']:.3f}")
    printer.say(f"dynamic deviation score {result['dynamic_deviation_score']:.4f} (0 is best)")
    printer.say(f"dynamic utility score {result['dynamic_utility_score']:.4f} (1 is best)")
    printer.result(lambda: result)
