"""`expunge request confirm`: a wish that came in a chat, decided by somebody with authority."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.cli import console, options, precheck
from expunge.cli.console import Printer
from expunge.cli.exits import ExitCode, usage
from expunge.cli.requesting import FOLDER, Database, Number, Place, opened_ledger, requests


def add(app: typer.Typer) -> None:
    """Add the command to those of requests, which the application has already."""
    requests.command()(confirm)


def confirm(
    request: Number,
    by: Annotated[str, typer.Option(help="who confirms; the ledger keeps it, and nobody confirms an own wish")],
    model: Annotated[str, typer.Option(help="the model to begin with, where the ledger serves none yet")] = "",
    utility_budget: Annotated[float, typer.Option(help="share of the original's utility that all runs together may cost")] = 0.1,
    ledger: Place = FOLDER,
    database: Database = "",
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Confirm a wish that came in a chat: repairs of the model are tried in order, each is audited, the first good one is served."""
    with usage():
        precheck.models(model)
    printer, opened = Printer(as_json, quiet), opened_ledger(ledger, database)
    from expunge.service.asked_data import AskedData
    from expunge.service.interactive import Interactive
    from expunge.service.surgeon import ListedSurgeon
    from expunge.service.watchdog import RuleWatchdog

    more = {"utility_budget": utility_budget, "load_options": options.load_options(device, dtype)}
    chats = Interactive(
        ledger=opened,
        data=AskedData("", ""),
        watchdog=RuleWatchdog(),
        surgeon=ListedSurgeon(),
        authorized=frozenset({by}),
        model=model,
        options=more,
    )
    with console.interruptible():
        results = chats.confirm(request, by)
    for result in results:
        printer.say(f'run {result.run} is {result.state}; the verdict is "{result.verdict}"')
        for reason in result.reasons:
            printer.say(reason, "[yellow]warning:[/] ")
    state = opened.request(request)["state"]
    printer.say(f"request {request} is {state}" + ("" if state == "done" else ": the guard of its rows stays"))
    printer.result(
        lambda: {"request": request, "state": state, "runs": [{"run": r.run, "state": r.state, "verdict": r.verdict} for r in results]}
    )
    if state != "done":
        raise SystemExit(int(ExitCode.VERDICT))
