"""`expunge serve` and `expunge api-key`: a guarded endpoint before a model in use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import options, parsing, precheck
from expunge.cli.console import Printer
from expunge.cli.exits import usage
from expunge.cli.ledgers import FOLDER, Database, Place, opened_ledger
from expunge.core.errors import UserError


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(serve)
    app.command()(api_key)


def serve(
    model: Annotated[str, typer.Option(help="model or run that this process serves, with the guard of its run")] = "",
    upstream: Annotated[str, typer.Option(help="or the address of a server behind, e.g. http://127.0.0.1:8001/v1")] = "",
    upstream_model: Annotated[str, typer.Option(help="the one model of the server behind that is ever asked")] = "",
    name: Annotated[str, typer.Option(help="name by which clients ask for the model")] = "",
    guard: Annotated[
        list[str] | None, typer.Option(help="run of a guard that looks at prompts, e.g. input_filter; may be repeated")
    ] = None,
    names: Annotated[str, typer.Option(help="file of names and phrases, one a line, that are neither asked about nor said")] = "",
    api_keys: Annotated[str, typer.Option("--api-keys", help="file with the keys of clients; needed beyond this machine")] = "",
    host: Annotated[str, typer.Option(help="address; beyond this machine it needs --api-keys")] = "127.0.0.1",
    allowed_host: Annotated[list[str] | None, typer.Option(help="name by which clients call this server; may be repeated")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    unguarded: Annotated[bool, typer.Option("--unguarded", help="serve without any guard")] = False,
    forget_on_request: Annotated[str, typer.Option(help="file of all clients' rows: they may ask in a chat to be forgotten")] = "",
    follow: Annotated[
        bool, typer.Option("--follow", help="serve the model of the ledger's last run that is done, as soon as it is; until then --model")
    ] = False,
    watchdog: Annotated[
        str,
        typer.Option(help="who notices wishes: a folder or hub id of a chat model, or an endpoint's address; default: a rule for English"),
    ] = "",
    send_rows_to: Annotated[str, typer.Option(help="host of that endpoint: without this, no chat leaves this machine")] = "",
    column: Annotated[str, typer.Option(help="its column that holds the labels of the clients' keys, e.g. customer_id")] = "",
    map: options.Map = None,
    ledger: Place = FOLDER,
    database: Database = "",
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    quiet: options.Quiet = False,
) -> None:
    """Serve a model behind guards, with the chat protocol of OpenAI. Beyond this machine only with keys."""
    with usage():
        precheck.models(model, *(guard or ()))
        precheck.sources(forget_on_request)
        if forget_on_request:
            parsing.required(column=column)
        elif watchdog:
            raise UserError("a watchdog notices wishes to be forgotten: name the rows of all clients with --forget-on-request")
    from expunge.service import serving

    chats = None
    followed = opened_ledger(ledger, database, create=bool(forget_on_request)) if follow else None
    if forget_on_request:
        from expunge.service.asked_data import AskedData
        from expunge.service.interactive import Interactive
        from expunge.service.preparing import writer_for
        from expunge.service.surgeon import ListedSurgeon
        from expunge.service.watchdog import ModelWatchdog, RuleWatchdog

        opened = followed or opened_ledger(ledger, database, create=True)
        data = AskedData(forget_on_request, column, map or ())
        dog = ModelWatchdog(writer_for(watchdog, send_rows_to)) if watchdog else RuleWatchdog()
        chats = Interactive(ledger=opened, data=data, watchdog=dog, surgeon=ListedSurgeon(), authorized=frozenset())
    app = serving.guarded_endpoint(
        model=model,
        upstream=upstream,
        upstream_model=upstream_model,
        name=name,
        guards=tuple(guard or ()),
        names=names,
        keys=api_keys,
        host=host,
        hosts=tuple(allowed_host or ()),
        unguarded=unguarded,
        chats=chats,
        follow=followed,
        load_options=options.load_options(device, dtype),
    )
    Printer(quiet=quiet).say(f"serving at http://{host}:{port}/v1 until Ctrl-C")
    serving.run(app, host, port)


def api_key(
    file: Annotated[Path, typer.Argument(help="file of the keys")],
    label: Annotated[str, typer.Argument(help="whose key it is; with --revoke the id of a key", show_default=False)] = "",
    per_minute: Annotated[int, typer.Option(help="requests a minute", min=1)] = 60,
    revoke: Annotated[bool, typer.Option("--revoke", help="delete the key with this id")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a key for a client of `expunge serve`. It is shown this once: the file holds a hash of it."""
    with usage():
        parsing.required(label=label)
    from expunge.service.api_keys import ApiKeys

    keys = ApiKeys(file)
    if revoke:
        keys.revoke(label)
        Printer(quiet=quiet).say(f"the key {label} is deleted; a server that runs knows it until it starts anew")
        return
    print(keys.new(label, per_minute))
