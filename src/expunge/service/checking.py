"""Is the ledger whole? Every hash, every table, every file that it speaks of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, create_engine, select

from expunge.core.errors import UserError
from expunge.service import projection
from expunge.service.files import digest_of_model, sha256
from expunge.service.ledger import START, Event, Ledger
from expunge.service.tables import PROJECTED, metadata
from expunge.service.undo import purge
from expunge.service.vault import commitment


def check(ledger: Ledger, head: str = "") -> list[str]:
    """Look for everything that does not fit.

    Args:
        ledger: to check.
        head: a hash that the ledger once ended with, from a certificate or a note: only so can one see that its end was cut off.

    Returns:
        A sentence for each fault; none where the ledger is whole.
    """
    events = ledger.events()
    return [*_chain(events, head), *_tables(ledger, events), *_rows(ledger), *_runs(ledger)]


def _chain(events: list[Event], head: str) -> Iterator[str]:
    before = START
    for place, event in enumerate(events, 1):
        if event.seq != place:
            yield f"event {place} is missing: the next one has the number {event.seq}"
            return
        if event.before != before:
            yield f"event {event.seq} does not follow the one before it"
        if event.right_hash != event.hash:
            yield f"event {event.seq} (request {event.request}, {event.kind}) was changed after it was written"
        before = event.hash
    if head and head not in {event.hash for event in events}:
        yield f"no event has the hash {head}: the end of the ledger was cut off, or this hash belongs to another ledger"


def _tables(ledger: Ledger, events: list[Event]) -> Iterator[str]:
    """The tables beside those that the events make anew."""
    engine = create_engine("sqlite://")
    with engine.begin() as anew, ledger.engine.connect() as present:
        metadata.create_all(anew)
        try:
            for event in events:
                projection.apply(anew, event)
        except (LookupError, TypeError, ValueError):
            yield f"event {event.seq} cannot be read: its fields are not those of its kind"
            return
        for table in PROJECTED:
            expected, actual = _contents(anew, table), _contents(present, table)
            for key in sorted({*expected, *actual}):
                if expected.get(key) != actual.get(key):
                    yield f"the table {table.name} differs from the events at {key}"
    engine.dispose()


def _contents(connection: Connection, table: Any) -> dict[str, Any]:
    key = next(iter(table.primary_key.columns)).name
    return {str(row[key]): json.loads(json.dumps(dict(row))) for row in connection.execute(select(table)).mappings()}


def _rows(ledger: Ledger) -> Iterator[str]:
    """The rows of requests, which must decrypt to what was committed to; what a crash left of deleted ones is deleted now."""
    yield from _orphans(ledger)
    for request in ledger.requests():
        number = request["id"]
        if not request["key"]:
            if ledger.vault.has_key(number):
                purge(ledger, number)
                yield f"the key of request {number} was to be deleted and still lay there: it is deleted now"
            continue
        try:
            content = ledger.vault.get(number)
            if commitment(ledger.vault.secret(number), content["rows"]) != request["commitment"]:
                yield f"the rows of request {number} are not those that it came with"
        except UserError as error:
            yield str(error)


def _orphans(ledger: Ledger) -> Iterator[str]:
    """Rows that a crash left before their request was written: nobody waits for them, and they are deleted."""
    with ledger.writing() as transaction:  # no request is being added meanwhile
        known = transaction.new_request()
        for path in [p for folder in (ledger.vault.keys, ledger.vault.rows) for p in folder.glob(".*")]:
            path.unlink()  # a file that a crash left half written
        left = {
            int(path.name) for folder in (ledger.vault.keys, ledger.vault.rows) for path in folder.glob("[0-9]*") if path.name.isdecimal()
        }
        for number in sorted(n for n in left if n >= known):
            ledger.vault.delete(number)
            yield f"the rows of a request that was never written lay there: they are deleted now ({number})"


def _runs(ledger: Ledger) -> Iterator[str]:
    served, run_number = ledger.serving()
    for run in ledger.runs():
        if run["state"] != "done":
            continue
        file = ledger.folder / run["folder"] / "receipt.json"
        if not file.exists():
            yield f"the receipt of run {run['id']} is missing: {file} is gone"
        elif sha256(file) != run["receipt_sha256"]:
            yield f"the receipt of run {run['id']} was changed: {file}"
    if run_number is not None:
        try:
            if digest_of_model(served) != ledger.run(run_number)["weights"]:
                yield f"the served model was changed since run {run_number} made it: {served}"
        except UserError as error:
            yield str(error)
