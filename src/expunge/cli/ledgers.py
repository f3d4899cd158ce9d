"""What commands on a ledger have in common: its options, and how it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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


def opened_ledger(folder: Path, database: str, create: bool = False, upgrade: bool = False) -> Ledger:
    """The ledger that the options name."""
    from expunge.service.ledger import Ledger

    return Ledger.open(folder, database, create, upgrade)
