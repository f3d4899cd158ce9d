"""Commands that read what exists: report, list, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import cards, options
from expunge.cli.console import Printer
from expunge.cli.exits import usage

Names = Annotated[bool, typer.Option("--quiet", "-q", help="print names alone, one a line")]
Headlines = Annotated[bool, typer.Option("--quiet", "-q", help="print what it does alone")]


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(report)
    app.command("list")(list_names)
    app.command("show")(show_card)


def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders of audits, benchmarks or unlearning")],
    page: Annotated[
        Path, typer.Option("--out", help="file of the page; default: report.html in the first folder", show_default=False)
    ] = Path(),
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw one page from one or more run folders."""
    from expunge.io.run_dirs import check_writable
    from expunge.report.collect import collect
    from expunge.report.page import write

    printer, place = Printer(as_json, quiet), page if page != Path() else runs[0] / "report.html"
    with usage():
        data = collect(runs)
        check_writable(place.parent)
    written = write(data, place)
    printer.say(f"report: {written}")
    printer.result(lambda: {"report": str(written)})


def list_names(
    kind: Annotated[str, typer.Argument(help="methods, metrics, attacks, benchmarks or models; default: all")] = "",
    as_json: options.AsJson = False,
    quiet: Names = False,
    wide: options.Wide = False,
) -> None:
    """List methods, metrics, attacks, benchmarks and models by name."""
    with usage():
        cards.show_names(kind, Printer(as_json, quiet, wide))


def show_card(
    name: Annotated[str, typer.Argument(help="a name that `expunge list` shows", **options.ANYTHING)],  # type: ignore[arg-type]
    as_json: options.AsJson = False,
    quiet: Headlines = False,
) -> None:
    """Show what a method, metric, attack, benchmark or model is: equation, source, needs, cost, status."""
    with usage():
        cards.show_cards(name, Printer(as_json, quiet))
