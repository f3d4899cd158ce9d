"""`expunge request ...`: the ledger of requests to be forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import options, parsing, precheck, removing
from expunge.cli.console import Printer
from expunge.cli.exits import ExitCode, usage
from expunge.cli.ledgers import FOLDER, By, Database, Number, Place, Why, opened_ledger
from expunge.core.errors import UserError

requests = typer.Typer(no_args_is_help=True, help="Keep requests to be forgotten in a ledger, and carry them out.")


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    requests.command("add")(add_request)
    requests.command("list")(list_requests)
    for command in (show, accept, refuse, reopen, withdraw, extend, undo, check, upgrade, secret, delete_key, destroy_parent):
        requests.command()(command)
    requests.command(context_settings=parsing.FREE, cls=parsing.WithHyperparameters)(removing.run)
    requests.command()(removing.confirm)
    app.add_typer(requests, name="request")


def add_request(
    data: Annotated[str, typer.Argument(help="the rows to forget, or with --where the file that holds all rows")],
    where: options.Where = None,
    map: options.Map = None,
    retain: options.Retain = "",
    subject: Annotated[str, typer.Option(help="who asks; kept encrypted. Default: the condition")] = "",
    basis: Annotated[str, typer.Option(help='the legal ground, e.g. "GDPR 17(1)(b)"; it must name nobody')] = "",
    due: Annotated[str, typer.Option(help="the last day, e.g. 2027-01-31; default: in one month")] = "",
    motive: Annotated[str, typer.Option(help="why: privacy, copyright, safety, accuracy, poisoning or other")] = "",
    guarantee: Annotated[str, typer.Option(help="what the removal has to be: measured, certified or exact; a run that is less fails")] = "",
    accept: Annotated[bool, typer.Option("--accept", help="accept the request at once")] = False,
    ledger: Place = FOLDER,
    database: Database = "",
    by: By = "",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Take in a request to forget rows: they are kept encrypted, and the ledger says nothing of them."""
    with usage():
        precheck.sources(data.partition("::")[0], retain)
    from expunge.service import intake

    printer, opened = Printer(as_json, quiet), opened_ledger(ledger, database, create=True)
    about = {"subject": subject, "basis": basis, "due": due, "motive": motive, "guarantee": guarantee}
    number = intake.add(opened, data, where=where or (), map=map, retain=retain or None, accept=accept, by=by, **about)
    row = opened.request(number)
    printer.say(f"request {number}: {row['rows']} row{'' if row['rows'] == 1 else 's'} to forget, due on {row['due']}")
    following = f"run {number} --method METHOD --model MODEL" if accept else f"accept {number}"
    printer.say(f"next: expunge request {following}")
    printer.result(lambda: row)


def list_requests(
    ledger: Place = FOLDER,
    database: Database = "",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    wide: options.Wide = False,
) -> None:
    """List all requests, with the days that are left."""
    from rich.table import Table

    from expunge.service.states import CLOSED, as_date

    printer, opened = Printer(as_json, quiet, wide), opened_ledger(ledger, database)
    rows, today = opened.requests(), opened.now().date()
    table = Table("request", "state", "rows", "received", "due", "run", "key")
    for row in rows:
        left = (as_date(row["due"]) - today).days
        when = row["due"] if row["state"] in CLOSED else f"{row['due']} ({f'in {left} days' if left >= 0 else f'{-left} days late'})"
        cells = (row["id"], row["state"], row["rows"], row["received"][:10], when, row["run"] or "", "kept" if row["key"] else "deleted")
        table.add_row(*map(str, cells))
    printer.table(table)
    printer.result(lambda: rows)


def show(
    request: Number, ledger: Place = FOLDER, database: Database = "", as_json: options.AsJson = False, quiet: options.Quiet = False
) -> None:
    """Show what happened to a request, and what its run found."""
    printer, opened = Printer(as_json, quiet), opened_ledger(ledger, database)
    row, events = opened.request(request), opened.events(request)
    asks = "; ".join(f"{name}: {row[name]}" for name in ("motive", "guarantee") if row[name])
    printer.say(f"request {request} is {row['state']}; {row['rows']} rows, due on {row['due']}{f'; {asks}' if asks else ''}")
    for event in events:
        body = event.body
        details = [
            f"run {body['run']}" if "run" in body else "",
            f"due on {body['due']}" if event.kind == "extended" else "",
            body.get("why", ""),
        ]
        printer.say(f"{event.at[:19].replace('T', ' ')}  {event.kind} by {event.by}  {', '.join(filter(None, details))}".rstrip())
    run_of = opened.run(row["run"]) if row["run"] else None
    if run_of and run_of["verdict"]:
        printer.say(f"verdict of run {run_of['id']}: {run_of['verdict']}; its model is in {opened.place(run_of['folder'])}")
    printer.result(lambda: {**row, "events": [{**vars(e), "body": dict(e.body)} for e in events], "run": run_of})


def upgrade(ledger: Place = FOLDER, database: Database = "", quiet: options.Quiet = False) -> None:
    """Bring a ledger that an older version wrote up to this one. Events stay as they are; copy the folder before."""
    from expunge.service.checking import check

    opened = opened_ledger(ledger, database, upgrade=True)
    faults = check(opened)
    opened.engine.dispose()
    if faults:
        raise UserError(f"the ledger was brought up, and it is not whole: {faults[0]}")
    Printer(quiet=quiet).say("the ledger is of this version, and it is whole")


def accept(request: Number, ledger: Place = FOLDER, database: Database = "", by: By = "", quiet: options.Quiet = False) -> None:
    """Accept a request."""
    from expunge.service import intake

    intake.accept(opened_ledger(ledger, database), request, by)
    Printer(quiet=quiet).say(f"request {request} is accepted; next: expunge request run {request} --method METHOD --model MODEL")


def refuse(
    request: Number, why: Why = "", ledger: Place = FOLDER, database: Database = "", by: By = "", quiet: options.Quiet = False
) -> None:
    """Refuse a request, with the reason."""
    from expunge.service import intake

    intake.refuse(opened_ledger(ledger, database), request, why, by)
    Printer(quiet=quiet).say(f"request {request} is refused")


def reopen(
    request: Number, why: Why = "", ledger: Place = FOLDER, database: Database = "", by: By = "", quiet: options.Quiet = False
) -> None:
    """Take up a refused request again."""
    from expunge.service import intake

    intake.reopen(opened_ledger(ledger, database), request, why, by)
    Printer(quiet=quiet).say(f"request {request} is open again")


def withdraw(
    request: Number, why: Why = "", ledger: Place = FOLDER, database: Database = "", by: By = "", quiet: options.Quiet = False
) -> None:
    """Withdraw a request that is not carried out."""
    from expunge.service import intake

    intake.withdraw(opened_ledger(ledger, database), request, why, by)
    Printer(quiet=quiet).say(f"request {request} is withdrawn")


def extend(
    request: Number,
    due: Annotated[str, typer.Argument(help="the new last day, e.g. 2027-03-31")],
    why: Why = "",
    ledger: Place = FOLDER,
    database: Database = "",
    by: By = "",
    quiet: options.Quiet = False,
) -> None:
    """Move the last day of a request, up to three months after it came."""
    from expunge.service import intake

    intake.extend(opened_ledger(ledger, database), request, due, why, by)
    Printer(quiet=quiet).say(f"request {request} is due on {due}")


def undo(
    request: Number, why: Why = "", ledger: Place = FOLDER, database: Database = "", by: By = "", quiet: options.Quiet = False
) -> None:
    """Serve the model before the run of a request again; its requests are open anew."""
    from expunge.service.undo import undo as undo_run

    opened = opened_ledger(ledger, database)
    number = undo_run(opened, request, why, by)
    Printer(quiet=quiet).say(f"run {number} is undone; the model that is served is {opened.serving()[0]}")


def check(
    head: Annotated[str, typer.Option(help="a hash that the ledger once ended with, e.g. from a certificate: shows a cut end")] = "",
    ledger: Place = FOLDER,
    database: Database = "",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Check that the ledger is whole: its hashes, tables, rows and models."""
    from expunge.service.checking import check as check_ledger

    printer, opened = Printer(as_json, quiet), opened_ledger(ledger, database)
    faults = check_ledger(opened, head)
    for fault in faults:
        printer.say(fault, "[red]fault:[/] ")
    if not faults:
        printer.say(f"the ledger is whole: {len(opened.events())} events; its head is {opened.head}")
    printer.result(lambda: {"faults": faults, "head": opened.head})
    if faults:
        raise SystemExit(int(ExitCode.ERROR))


def secret(
    request: Number,
    out: Annotated[Path, typer.Option("--out", help="file for the secret", show_default=False)] = Path(),
    ledger: Place = FOLDER,
    database: Database = "",
    quiet: options.Quiet = False,
) -> None:
    """Write the secret of a request, with which whoever has the rows can compare them with a certificate (expunge verify --rows)."""
    with usage():
        parsing.required(out=out != Path())
    opened = opened_ledger(ledger, database)
    opened.request(request)
    from expunge.service.vault import write_private

    write_private(out, opened.vault.secret(request).hex().encode() + b"\n")
    Printer(quiet=quiet).say(f"the secret is in {out}: whoever has it can try rows against the certificate and the ledger")


def delete_key(
    request: Number,
    anyway: Annotated[bool, typer.Option("--anyway", help="also where the file of the data still holds the rows")] = False,
    ledger: Place = FOLDER,
    database: Database = "",
    by: By = "",
    quiet: options.Quiet = False,
) -> None:
    """Delete the rows of a closed request for good: its key, and what audits wrote of it."""
    from expunge.service.undo import delete_key as delete

    delete(opened_ledger(ledger, database), request, by, anyway)
    Printer(quiet=quiet).say(f"the key of request {request} is deleted, and its rows with it; copies in backups are not")


def destroy_parent(
    run: Annotated[int, typer.Argument(help="number of the run", min=1)],
    ledger: Place = FOLDER,
    database: Database = "",
    by: By = "",
    quiet: options.Quiet = False,
) -> None:
    """Destroy the model that a run began with, which holds the rows: the run cannot be undone after that."""
    from expunge.service.undo import destroy_parent as destroy

    destroy(opened_ledger(ledger, database), run, by)
    Printer(quiet=quiet).say(f"the model that run {run} began with is destroyed; the run cannot be undone")
