"""`expunge web` and `expunge account`: the pages of a ledger, and the people who may use them."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
from typing import Annotated, Literal

import typer

from expunge.cli import options, parsing, precheck
from expunge.cli.console import Printer
from expunge.cli.exits import usage
from expunge.cli.ledgers import FOLDER, Database, Place, opened_ledger
from expunge.core.errors import UserError


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(web)
    app.command()(account)


def web(
    data: Annotated[list[str] | None, typer.Option(help="file of rows in which clerks may ask for a person's; may be repeated")] = None,
    column: Annotated[str, typer.Option(help="column of these files that says whose a row is, e.g. customer_id")] = "",
    map: options.Map = None,
    run_options: Annotated[str, typer.Option(help='options that each run gets, e.g. "--retain retain.jsonl --attack relearn"')] = "",
    ledger: Place = FOLDER,
    database: Database = "",
    host: Annotated[str, typer.Option(help="address; beyond this machine it needs --behind-tls")] = "127.0.0.1",
    allowed_host: Annotated[list[str] | None, typer.Option(help="name by which browsers call this server; may be repeated")] = None,
    behind_tls: Annotated[bool, typer.Option("--behind-tls", help="a server that speaks TLS stands before this one")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    sign_in: Annotated[str, typer.Option(help="a server that signs people in (OpenID Connect), e.g. https://login.example.org")] = "",
    client_id: Annotated[str, typer.Option(help="what that server calls these pages; their secret is in EXPUNGE_CLIENT_SECRET")] = "",
    claim: Annotated[
        Literal["email", "preferred_username", "sub"], typer.Option(help="what names a person there, as their account is named here")
    ] = "email",
    address: Annotated[str, typer.Option(help="these pages as browsers know them, e.g. https://forget.example.org; for --sign-in")] = "",
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    quiet: options.Quiet = False,
) -> None:
    """Serve the pages of a ledger to clerks, operators and auditors. Accounts are made with expunge account."""
    with usage():
        precheck.sources(*(data or ()))
        if data:
            parsing.required(column=column)
        if sign_in:
            parsing.required(client_id=client_id)
        elif client_id or address:
            raise UserError("--client-id and --address belong to a server that signs people in: name it with --sign-in")
    opened = opened_ledger(ledger, database)
    from expunge.service import serving
    from expunge.service.asked_data import AskedData
    from expunge.service.web.single_sign_on import Provider
    from expunge.service.web.site import website

    provider = None
    if sign_in:
        own = address or f"http://{host}:{port}"
        provider = Provider(sign_in, client_id, os.environ.get("EXPUNGE_CLIENT_SECRET", ""), own, claim)
    pages = website(
        opened,
        data=[AskedData(path, column, map or ()) for path in data or ()],
        database=database,
        run_options=shlex.split(run_options),
        host=host,
        hosts=tuple(allowed_host or ()),
        behind_tls=behind_tls,
        load_options=options.load_options(device, dtype),
        provider=provider,
    )
    Printer(quiet=quiet).say(f"the pages are at http://{host}:{port}/ until Ctrl-C")
    serving.run(pages, host, port)


def account(
    name: Annotated[str, typer.Argument(help="name of the person, as the ledger will show it")],
    role: Annotated[
        Literal["clerk", "operator", "auditor"],
        typer.Option(help="clerk: takes in requests and sees no row; operator: carries them out; auditor: sees all, changes nothing"),
    ] = "clerk",
    delete: Annotated[bool, typer.Option("--delete", help="delete the account")] = False,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="no password: the server of expunge web --sign-in signs this person in")
    ] = False,
    ledger: Place = FOLDER,
    database: Database = "",
    quiet: options.Quiet = False,
) -> None:
    """Make an account for the pages, or give it another role and password. The password is asked for, or read from a pipe."""
    opened = opened_ledger(ledger, database)
    from expunge.service.web.accounts import Accounts

    accounts, printer = Accounts(opened), Printer(quiet=quiet)
    if delete:
        accounts.delete(name)
        printer.say(f"the account {name} is deleted; its sessions end with their next page")
        return
    accounts.add(name, role, None if elsewhere else _password())
    printer.say(f"{name} may sign in as {role}; next: expunge web --ledger {ledger}{' --sign-in ADDRESS' if elsewhere else ''}")


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    first = getpass.getpass("password: ")
    if getpass.getpass("the same again: ") != first:
        raise UserError("the two passwords differ")
    return first
