"""`expunge find` and `expunge prepare`: what to know of one's own rows, and what to make of them, before they are forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import options, parsing, precheck
from expunge.cli.console import Printer
from expunge.cli.exits import usage
from expunge.core.errors import UserError


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(find)
    app.command()(prepare)


def find(
    rows: Annotated[str, typer.Argument(help="the rows to look for; --where and --map as for unlearn")],
    corpus: Annotated[list[str] | None, typer.Option("--in", help="file or folder to look in, of any size; may be repeated")] = None,
    where: options.Where = None,
    map: options.Map = None,
    column: Annotated[list[str] | None, typer.Option(help="column whose texts are looked for; default: all; may be repeated")] = None,
    personal: Annotated[
        bool, typer.Option("--personal", help="also addresses of mail, telephone numbers, accounts and cards, in any spelling")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="file of JSON Lines for all places")] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    wide: options.Wide = False,
) -> None:
    """Find where else rows stand in a corpus: copies, copies inside documents, and parts. Paraphrases are not found."""
    with usage():
        parsing.required(**{"in": corpus})
        precheck.sources(rows)
    from rich.table import Table

    from expunge.service.finding import find as find_rows

    printer = Printer(as_json, quiet, wide)
    named = tuple(column or ())
    result = find_rows(rows, tuple(corpus or ()), where=where or (), map=map, columns=named, personal=personal, out=out)
    table = Table("row", "column", "place", "share")
    for place in result.places:
        table.add_row(str(place.row), place.column, f"{place.file}:{place.where}", f"{place.share:.0%}")
    if result.places:
        printer.table(table)
    for note in result.notes:
        printer.say(note, "[yellow]warning:[/] ")
    verb, total = "stands" if result.found_rows == 1 else "stand", sum(result.counts.values())
    at = f"{total} place{'' if total == 1 else 's'}"
    printer.say(f"{result.found_rows} of {result.rows} rows {verb} in the corpus, at {at} in {result.documents} documents")
    printer.result(
        lambda: {
            "rows": result.rows,
            "found": result.found_rows,
            "documents": result.documents,
            "counts": dict(result.counts),
            "places": [vars(p) for p in result.places],
            "notes": result.notes,
        }
    )


def prepare(
    rows: Annotated[str, typer.Argument(help="rows to forget, each with a question and an answer; --where and --map as for unlearn")],
    writer: Annotated[str, typer.Option("--with", help="model that writes: folder, hub id, or http://HOST/v1#MODEL")] = "",
    out: Annotated[Path, typer.Option("--out", help="new folder for the sets", show_default=False)] = Path(),
    make: Annotated[str, typer.Option(help="paraphrase, perturbed, neighbours, holdout; with commas between")] = "paraphrase,perturbed",
    send_rows_to: Annotated[str, typer.Option(help="host of the endpoint: without this, no row leaves this machine")] = "",
    where: options.Where = None,
    map: options.Map = None,
    wrong_answers: Annotated[int, typer.Option(help="wrong answers for each row", min=1)] = 5,
    samples: Annotated[int, typer.Option(help="samples of each kind that are shown before you accept", min=0)] = 3,
    yes: Annotated[bool, typer.Option("--yes", help="accept what was made without looking")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Make what an audit of your own rows lacks: paraphrases, wrong answers, neighbours, unseen rows. A model writes, rules check."""
    with usage():
        parsing.required(**{"with": writer, "out": out != Path()})
        precheck.sources(rows)
        if not yes and (as_json or quiet):
            raise UserError("what was made is shown and accepted before it is written: leave --json and --quiet out, or accept with --yes")
    from expunge.service.preparing import prepare as prepare_rows

    printer = Printer(as_json, quiet)
    with printer.progress() as progress:
        result = prepare_rows(
            rows,
            writer,
            parsing.split_names(make),
            where=where or (),
            map=map,
            send_rows_to=send_rows_to,
            wrong_answers=wrong_answers,
            progress=progress,
        )
    for kind, (asked, passed) in result.yields.items():
        printer.say(f"{kind}: {passed} of {asked} passed the checks")
    for note in result.notes:
        printer.say(note, "[yellow]warning:[/] ")
    if not any(passed for _, passed in result.yields.values()):
        raise UserError(f"nothing that {writer} wrote passed the checks, so nothing is written: take another model")
    for name, text in () if yes else result.samples(samples):
        printer.say(f"{name}: {text}")
    if not yes and not typer.confirm("Write these sets?", err=True):
        printer.say("nothing was written")
        return
    files = result.write(out)
    printer.say(f"written: {', '.join(str(file) for file in files)}")
    printer.result(lambda: {"folder": str(out), **result.provenance()})
