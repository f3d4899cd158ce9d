"""`expunge request run` and `confirm`: requests of the ledger, carried out and audited."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from expunge.cli import console, declared, options, parsing, precheck
from expunge.cli.console import Printer
from expunge.cli.exits import ExitCode, usage
from expunge.cli.ledgers import FOLDER, By, Database, Number, Place, opened_ledger
from expunge.cli.options import ATTACKS, METHODS
from expunge.core.errors import UserError


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
    ray: Annotated[
        str,
        typer.Option(help="do the work on a Ray cluster whose machines share the ledger: HOST:PORT, local, or auto as in expunge bench"),
    ] = "",
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
    from expunge.service import on_cluster, removal

    how: dict[str, Any] = {
        "method": method,
        "hyperparameters": hyperparameters,
        "model": model,
        "retain": retain or None,
        "holdout": holdout or None,
        "retrained": retrained,
        "attack": tuple(attack or ()),
        "utility_budget": utility_budget,
        "fall_back": fall_back,
        "retrain_from": retrain_from,
        "prompt_format": prompt_format,
        "load_options": options.load_options(device, dtype),
        "by": by,
    }
    with printer.progress() as progress, console.interruptible():
        if ray:
            result = on_cluster.run(opened, chosen, ray, database=database, **how)
        else:
            result = removal.run(opened, chosen, progress=progress, **how)
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


def confirm(
    request: Number,
    by: Annotated[str, typer.Option(help="who confirms; the ledger keeps it, and nobody confirms an own wish")],
    model: Annotated[str, typer.Option(help="the model to begin with, where the ledger serves none yet")] = "",
    surgeon: Annotated[
        str,
        typer.Option(help="who proposes the first repair: a folder or hub id of a chat model, or an endpoint's address; default: a list"),
    ] = "",
    send_rows_to: Annotated[str, typer.Option(help="host of that endpoint; it is told how many rows there are, and none of them")] = "",
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
    from expunge.service.preparing import writer_for
    from expunge.service.surgeon import ListedSurgeon, ModelSurgeon
    from expunge.service.watchdog import RuleWatchdog

    listed = ListedSurgeon()
    more = {"utility_budget": utility_budget, "load_options": options.load_options(device, dtype)}
    chats = Interactive(
        ledger=opened,
        data=AskedData("", ""),
        watchdog=RuleWatchdog(),
        surgeon=ModelSurgeon(writer_for(surgeon, send_rows_to), listed) if surgeon else listed,
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


def _split(words: list[str]) -> tuple[list[int], list[str]]:
    """The numbers of requests, and the words after them: the parser gives unknown options to an argument that takes several values."""
    count = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    if odd := next((word for word in words[:count] if not word.isdecimal()), ""):
        raise UserError(f"requests are named by their numbers, and {odd!r} is none")
    return [int(word) for word in words[:count]], words[count:]
