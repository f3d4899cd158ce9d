"""`expunge keys new`, `expunge certify`, `expunge verify`: certificates of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from expunge.cli import options, parsing, precheck
from expunge.cli.console import Printer
from expunge.cli.exits import ExitCode, usage
from expunge.cli.ledgers import FOLDER, By, Database, Place, opened_ledger

keys = typer.Typer(no_args_is_help=True, help="Keys that sign certificates.")
KeyFiles = Annotated[list[str] | None, typer.Option("--key", help="file of a key; may be repeated")]


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    keys.command()(new)
    app.add_typer(keys, name="keys")
    app.command()(certify)
    app.command()(verify)


@keys.callback()
def root() -> None:
    """Keys that sign certificates."""


def new(
    path: Annotated[Path, typer.Argument(help="file of the private key; the public one gets .pub after it")],
    kind: Annotated[Literal["ed25519", "ecdsa", "rsa", "ml-dsa"], typer.Option(help="ml-dsa stands against quantum computers")] = "ed25519",
    quiet: options.Quiet = False,
) -> None:
    """Make a pair of keys. The private one is encrypted where $EXPUNGE_KEY_PASSPHRASE is set."""
    from expunge.service import keys as key_files

    private, public = key_files.new(path, kind)
    Printer(quiet=quiet).say(f"{private} signs and stays with you; {public} verifies, and is for everybody")


def certify(
    run: Annotated[str, typer.Argument(help="run folder; with --request that of the ledger", show_default=False)] = "",
    audit: Annotated[str, typer.Argument(help="folder of its audit", show_default=False)] = "",
    out: Annotated[Path, typer.Option("--out", help="file of the certificate")] = Path("certificate.json"),
    key: KeyFiles = None,
    request: Annotated[int, typer.Option(help="number of a request of the ledger that is done", min=0)] = 0,
    valid_days: Annotated[int, typer.Option(help="days that the certificate is valid")] = 365,
    supersedes: Annotated[str, typer.Option(help="file of a certificate that this one replaces")] = "",
    ledger: Place = FOLDER,
    database: Database = "",
    by: By = "",
    quiet: options.Quiet = False,
) -> None:
    """Certify what an audit measured after a run, signed by one or several keys. A guard is never certified as a removal."""
    with usage():
        parsing.required(key=key)
        parsing.required(**({} if request else {"request, or the arguments RUN and AUDIT": run and audit}))
        if request and (run or audit):
            parsing.required(**{"request without RUN and AUDIT, which the ledger knows": ""})
    from expunge.service import certificates

    more = {"valid_days": valid_days, "supersedes": supersedes or None}
    if request:
        file = certificates.certify_request(opened_ledger(ledger, database), request, key or (), out, by=by, **more)
    else:
        file = certificates.certify(run, audit, key or (), out, **more)  # type: ignore[arg-type]
    Printer(quiet=quiet).say(f"the certificate is in {file}; next: expunge verify MODEL {file} --key PUBLIC_KEY")


def verify(
    model: Annotated[str, typer.Argument(help="folder of the model, or of its run")],
    certificate: Annotated[Path, typer.Argument(help="file of the certificate")],
    key: KeyFiles = None,
    threshold: Annotated[int, typer.Option(help="how many of the keys must have signed; 0: all", min=0)] = 0,
    rows: Annotated[str, typer.Option(help="rows that may be those of the request; needs --secret")] = "",
    where: options.Where = None,
    map: options.Map = None,
    secret: Annotated[str, typer.Option(help="file with the secret of the request (expunge request secret)")] = "",
    unpack: Annotated[Path | None, typer.Option(help="also write what openssl needs to check the signatures into this folder")] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Verify a certificate offline: its signatures by the keys that you trust, its dates, and every file of the model."""
    with usage():
        parsing.required(key=key)
        precheck.sources(rows)
    from expunge.service import verifying

    printer = Printer(as_json, quiet)
    result = verifying.verify(
        model, certificate, key or (), threshold=threshold, rows=rows or None, where=where or (), map=map, secret=secret or None
    )
    if unpack:
        verifying.unpack(certificate, unpack)
    for fault in result.faults:
        printer.say(fault, "[red]fault:[/] ")
    if result.predicate:
        printer.say(f"claim: {result.predicate['claim']}")
        printer.say(f"issued {result.predicate['issued_at']}, valid until {result.predicate['valid_until']}")
    printer.say(f"the certificate {'holds' if result.holds else 'does not hold'}; signed by {len(result.signers)} of the given keys")
    printer.result(lambda: {"holds": result.holds, "faults": result.faults, "signers": result.signers, **result.predicate})
    if not result.holds:
        raise SystemExit(int(ExitCode.VERDICT))
