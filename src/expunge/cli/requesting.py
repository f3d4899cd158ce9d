"""`expunge request ...`: the ledger of requests to be forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from expunge.cli import console, declared, options, parsing, precheck
from expunge.cli.console import Printer
from expunge.cli.exits import ExitCode, usage
from expunge.cli.options import ATTACKS, METHODS
from expunge.core.errors import UserError

if TYPE_CHECKING:
    from expunge.service.ledger import Ledger

Place = Annotated[Path, typer.Option("--ledger", envvar="EXPUNGE_LEDGER", help="folder of the ledger")]
Database = Annotated[
    str,
    typer.Option(envvar="EXPUNGE_DATABASE", help="URL of PostgreSQL for the events; default: SQLite in the folder", show_envvar=True),
]
By = Annotated[str, typer.Option(help="who does it; default: your name on this machine")]
Why = Annotated[str, typer.Option(help="the reason; it stays in the ledger in plain, so it must name nobody")]
Number = Annotated[int, typer.Argument(help="number of the request", min=1)]
FOLDER = Path("ledger")

requests = typer.Typer(no_args_is_help=True, help="Keep requests to be forgotten in a ledger, and carry them out.")


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    requests.command("add")(add_request)
    requests.command("list")(list_requests)
    for command in (show, accept, refuse, reopen, withdraw, extend, undo, check, secret, delete_key, destroy_parent):
        requests.command()(command)
    requests.command(context_settings=parsing.FREE, cls=parsing.WithHyperparameters)(run)
    app.add_typer(requests, name="request")


def add_request(
    data: Annotated[str, typer.Argument(help="the rows to forget, or with --where the file that holds all rows")],
    where: options.Where = None,
    map: options.Map = None,
    retain: options.Retain = "",
    subject: Annotated[str, typer.Option(help="who asks; kept encrypted. Default: the condition")] = "",
    basis: Annotated[str, typer.Option(help='the legal ground, e.g. "GDPR 17(1)(b)"; it must name nobody')] = "",
    due: Annotated[str, typer.Option(help="the last day, e.g. 2027-01-31; default: in one month")] = "",
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
    number = intake.add(
        opened, data, where=where or (), map=map, retain=retain or None, subject=subject, basis=basis, due=due, accept=accept, by=by
    )
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
    printer.say(f"request {request} is {row['state']}; {row['rows']} rows, due on {row['due']}")
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


def run(
    ctx: typer.Context,
    numbers: Annotated[list[str] | None, typer.Argument(help="numbers of requests; default: all that are accepted and open")] = None,
    method: Annotated[str, typer.Option(help="see expunge list methods; a guard hides the rows and changes no weight", **METHODS)] = "",  # type: ignore[arg-type]
    model: Annotated[str, typer.Option(help="the model that was trained on the rows; later runs begin with the one that is served")] = "",
    retain: options.Retain = "",
    holdout: options.Holdout = "",
    retrained: options.Retrained = "",
    attack: Annotated[list[str] | None, typer.Option(help="attack of the audit; may be repeated", **ATTACKS)] = None,  # type: ignore[arg-type]
    utility_budget: Annotated[float, typer.Option(help="share of the original's utility that all runs together may cost")] = 0.1,
    fall_back: Annotated[
        Literal["none", "union", "retrain"],
        typer.Option(help="where earlier requests come back or the budget is spent: forget all requests from the original, or train anew"),
    ] = "union",
    retrain_from: Annotated[
        str, typer.Option(help="with --fall-back retrain: model, hub id or built-in size to train on the kept rows")
    ] = "",
    prompt_format: options.Format = "",
    ledger: Place = FOLDER,
    database: Database = "",
    by: By = "",
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Carry out requests in one run, audit it, and audit all earlier requests again. Hyperparameters of the method follow."""
    with usage():
        parsing.required(method=method)
        chosen, words = _split([*(numbers or ()), *ctx.args])
        hyperparameters: dict[str, Any] = {**parsing.hyperparameters_from(words)}
        precheck.names("methods", method)
        declared.check(hyperparameters, {method: "methods"})
        precheck.models(model, retrained)
        precheck.sources(retain, holdout)
    printer, opened = Printer(as_json, quiet), opened_ledger(ledger, database)
    from expunge.service import removal

    with printer.progress() as progress, console.interruptible():
        result = removal.run(
            opened,
            chosen,
            method=method,
            hyperparameters=hyperparameters,
            model=model,
            retain=retain or None,
            holdout=holdout or None,
            retrained=retrained,
            attack=tuple(attack or ()),
            utility_budget=utility_budget,
            fall_back=fall_back,
            retrain_from=retrain_from,
            prompt_format=prompt_format,
            load_options=options.load_options(device, dtype),
            by=by,
            progress=progress,
        )
    for sentence in (*result.reasons, *result.summary["notes"]):
        printer.say(sentence, "[yellow]warning:[/] ")
    printer.say(f'run {result.run} of requests {", ".join(map(str, result.requests))} is {result.state}; the verdict is "{result.verdict}"')
    printer.say(f"the model is in {result.folder}")
    if result.state == "guarded":
        printer.say("a guard hides rows and removes nothing: the weights still hold them, so the requests are open")
    printer.result(
        lambda: {
            "run": result.run,
            "requests": [*result.requests],
            "folder": str(result.folder),
            **result.summary,
            "state": result.state,
            "verdict": result.verdict,
        }
    )
    if result.state == "failed":
        raise SystemExit(int(ExitCode.VERDICT))


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


def _split(words: list[str]) -> tuple[list[int], list[str]]:
    """The numbers of requests, and the words after them: the parser gives unknown options to an argument that takes several values."""
    count = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    if odd := next((word for word in words[:count] if not word.isdecimal()), ""):
        raise UserError(f"requests are named by their numbers, and {odd!r} is none")
    return [int(word) for word in words[:count]], words[count:]


def opened_ledger(folder: Path, database: str, create: bool = False) -> Ledger:
    """The ledger that the options name."""
    from expunge.service.ledger import Ledger

    return Ledger.open(folder, database, create)
