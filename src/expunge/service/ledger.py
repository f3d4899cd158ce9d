"""The ledger of requests: events in a chain of hashes, and what follows from them, written in one transaction."""

from __future__ import annotations

import getpass
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.service import projection, tables
from expunge.service.states import check_step
from expunge.service.tables import Certificates, Events, Requests, Runs, Serving
from expunge.service.vault import Vault, canonical

START = "0" * 64  # what the first event has before it
ABOUT = "ledger.json"  # in the folder


@brief("seq", "request", "kind")
@dataclass(frozen=True)
class Event:
    """One line of the ledger. Its hash covers all other fields, and by `before` all earlier events."""

    seq: int
    request: int
    at: str
    by: str
    kind: str
    body: Mapping[str, Any]
    before: str
    hash: str

    @property
    def right_hash(self) -> str:
        """The hash that the other fields ask for."""
        fields = {"seq": self.seq, "request": self.request, "at": self.at, "by": self.by, "kind": self.kind, "body": dict(self.body)}
        return hashlib.sha256(self.before.encode() + canonical(fields)).hexdigest()


class Ledger:
    """A ledger: a folder with the rows, keys and runs, and a database with the events.

    Args:
        folder: of the ledger.
        engine: of its database.
        now: the clock.
    """

    def __init__(self, folder: Path, engine: Engine, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.folder, self.engine, self.now = folder, engine, now
        self.vault = Vault(folder)

    def __repr__(self) -> str:
        return f"Ledger({str(self.folder)!r}, {self.engine.dialect.name})"

    @classmethod
    def open(cls, folder: str | Path, database: str = "", create: bool = False, upgrade: bool = False, **clock: Any) -> Ledger:
        """Open the ledger in a folder.

        Args:
            folder: of the ledger.
            database: a URL of PostgreSQL; '': SQLite, in the folder.
            create: make a new ledger where there is none.
            upgrade: bring the tables of an older version up; without it such a ledger is refused.
            clock: `now`, for tests.

        Raises:
            UserError: where there is no ledger, where folder and database do not belong together, or where the database does not answer.
        """
        root = Path(folder).expanduser()
        if root.exists() and not root.is_dir():
            raise UserError(f"{root} is a file, and a ledger is a folder: choose another name")
        if not (root / ABOUT).exists():
            if not create:
                raise UserError(f"there is no ledger in {root}: expunge request add makes one, and --ledger names another folder")
            if root.exists() and any(root.iterdir()):
                raise UserError(f"{root} holds other files, so no ledger is made in it: give another folder")
            return cls._new(root, database, **clock)
        about = json.loads((root / ABOUT).read_text(encoding="utf-8"))
        if (about["database"] == "sqlite") is bool(database):
            raise UserError(
                f"the events of {root} are in {about['database']}: {'leave --database out' if database else 'name it with --database'}"
            )
        if not database and not (root / tables.FILE).exists():
            raise UserError(f"the events of the ledger are missing: {root / tables.FILE} is gone")
        ledger = cls(root, tables.connect(root, database), **clock)
        try:
            tables.check_identity(ledger.engine, about["identity"], any_step=upgrade)
            if upgrade:
                tables.upgrade(ledger.engine)
                tables.check_identity(ledger.engine, about["identity"])
        except UserError:
            ledger.engine.dispose()
            raise
        return ledger

    @classmethod
    def _new(cls, root: Path, database: str, **clock: Any) -> Ledger:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        identity = secrets.token_hex(16)
        engine = tables.connect(root, database)
        try:
            tables.create(engine, identity)
        except UserError:
            engine.dispose()
            raise
        about = {"identity": identity, "database": engine.dialect.name}
        (root / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")
        return cls(root, engine, **clock)

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """One transaction: all events that are appended in it are kept, or none."""
        try:
            with self.engine.execution_options(writes=True).begin() as connection:
                tables.lock(connection)
                yield Transaction(connection, self.now())
        except DBAPIError as error:
            raise UserError(f"the ledger cannot be written: {str(error.orig).strip().splitlines()[0]}") from None

    def append(self, request: int, kind: str, body: Mapping[str, Any] | None = None, by: str = "") -> Event:
        """Append one event. Raises: UserError where it may not follow."""
        with self.writing() as writer:
            return writer.append(request, kind, body or {}, by)

    def events(self, request: int | None = None) -> list[Event]:
        """All events, or those of one request, in their order."""
        wanted = select(Events).order_by(Events.c.seq)
        wanted = wanted if request is None else wanted.where(Events.c.request == request)
        with self.engine.connect() as connection:
            return [Event(**{**row, "body": json.loads(row["body"])}) for row in connection.execute(wanted).mappings()]

    @property
    def head(self) -> str:
        """The hash of the last event: whoever keeps it can tell that nothing was cut off."""
        with self.engine.connect() as connection:
            return connection.execute(select(Events.c.hash).order_by(Events.c.seq.desc()).limit(1)).scalar() or START

    def requests(self) -> list[dict[str, Any]]:
        """All requests as plain data, in the order in which they came."""
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(select(Requests).order_by(Requests.c.id)).mappings()]

    def request(self, number: int) -> dict[str, Any]:
        """One request. Raises: UserError for a number that none has."""
        with self.engine.connect() as connection:
            return request_in(connection, number)

    def runs(self) -> list[dict[str, Any]]:
        """All runs as plain data, in their order; `batch` lists the requests of a run."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(Runs).order_by(Runs.c.id)).mappings().all()
        return [{**row, "batch": json.loads(row["batch"]), "summary": json.loads(row["summary"])} for row in rows]

    def run(self, number: int) -> dict[str, Any]:
        """One run. Raises: UserError for a number that none has."""
        if not (matching := [r for r in self.runs() if r["id"] == number]):
            raise UserError(f"there is no run {number} in the ledger")
        return matching[0]

    def certificates(self) -> list[dict[str, Any]]:
        """All certificates that were issued, by request: digest, run, request, and the head of the ledger that they carry."""
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(select(Certificates).order_by(Certificates.c.request)).mappings()]

    def serving(self) -> tuple[str, int | None]:
        """The model that is served now, and its run; '' before the first run, and no run where it is the original."""
        with self.engine.connect() as connection:
            row = connection.execute(select(Serving)).mappings().first()
        return (self.place(row["source"]), row["run"]) if row else ("", None)

    def place(self, source: str) -> str:
        """The path of a model: those of runs are kept relative to the folder, so that it may move."""
        return str(self.folder / source) if source.startswith("runs/") else source


class Transaction:
    """A transaction that appends events."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.connection, self.now = connection, now

    def new_request(self) -> int:
        """The next number of a request."""
        return int(self.connection.execute(select(func.coalesce(func.max(Events.c.request), 0))).scalar_one()) + 1

    def new_run(self) -> int:
        """The next number of a run."""
        return int(self.connection.execute(select(func.coalesce(func.max(Runs.c.id), 0))).scalar_one()) + 1

    def append(self, request: int, kind: str, body: Mapping[str, Any], by: str = "") -> Event:
        """Append an event, and bring the tables up to it.

        Raises:
            UserError: where it may not follow, and for a request that does not exist.
        """
        if kind != "received":
            check_step(request, request_in(self.connection, request)["state"], kind)
        last = self.connection.execute(select(Events.c.seq, Events.c.hash).order_by(Events.c.seq.desc()).limit(1)).first()
        seq, before = (int(last.seq) + 1, str(last.hash)) if last else (1, START)
        at = self.now.astimezone(UTC).isoformat(timespec="microseconds")
        as_kept = json.loads(canonical(body))  # as a reader gets it: 1.0 is 1 in canonical JSON
        draft = Event(seq, request, at, by or getpass.getuser(), kind, as_kept, before, "")
        event = Event(seq, request, at, draft.by, kind, draft.body, before, draft.right_hash)
        self.connection.execute(Events.insert().values(**{**vars(event), "body": canonical(event.body).decode()}))
        projection.apply(self.connection, event)
        return event


def request_in(connection: Connection, number: int) -> dict[str, Any]:
    """One request, read in a transaction. Raises: UserError for a number that none has."""
    known = 0 < number <= tables.LARGEST  # a larger number is none that a database could look for
    row = connection.execute(select(Requests).where(Requests.c.id == number)).mappings().first() if known else None
    if row is None:
        raise UserError(f"there is no request {number} in the ledger: expunge request list shows those there are")
    return dict(row)


def numbered(numbers: Sequence[int]) -> str:
    """`request 3`, or `requests 3, 4`."""
    return f"request{'s' if len(numbers) != 1 else ''} {', '.join(map(str, numbers))}"
