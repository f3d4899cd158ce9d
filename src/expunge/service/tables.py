"""The tables of the ledger, in SQLite or PostgreSQL: events that nobody changes, and what follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from expunge.core.errors import UserError

FILE = "ledger.sqlite3"
STEPS = Path(__file__).with_name("migrations")  # one file for each step from the first tables to those below
LOCK = 0x6578_7075  # the advisory lock of PostgreSQL that writers take one after another
LARGEST = 2**31 - 1  # number of a request or run
BUSY = 60  # seconds that a writer waits for another one

metadata = MetaData()
About = Table("about", metadata, Column("name", String(20), primary_key=True), Column("value", Text, nullable=False))
Events = Table(
    "event",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("request", Integer, nullable=False, index=True),
    Column("at", String(32), nullable=False),
    Column("by", Text, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("body", Text, nullable=False),
    Column("before", String(64), nullable=False, unique=True),
    Column("hash", String(64), nullable=False, unique=True),
)
Requests = Table(
    "request",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    Column("received", String(32), nullable=False),
    Column("due", String(10), nullable=False),
    Column("rows", Integer, nullable=False),
    Column("commitment", String(64), nullable=False),
    Column("subject_hmac", String(64), nullable=False),
    Column("basis", Text, nullable=False),
    Column("key", Boolean, nullable=False),
    Column("run", Integer),
    Column("motive", String(16), nullable=False, server_default=""),
    Column("guarantee", String(16), nullable=False, server_default=""),
)
Runs = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("batch", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("folder", Text, nullable=False),
    Column("parent", Text, nullable=False),
    Column("parent_weights", String(64), nullable=False),
    Column("parent_destroyed", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    Column("receipt_sha256", String(64), nullable=False),
    Column("weights", String(64), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("summary", Text, nullable=False),
)
Serving = Table(
    "serving",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("source", Text, nullable=False),
    Column("run", Integer),
)
Certificates = Table(
    "certificate",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("run", Integer, nullable=False),
    Column("request", Integer, nullable=False),
    Column("head", String(64), nullable=False),
)
PROJECTED = (Requests, Runs, Serving, Certificates)
BACKENDS = ("sqlite", "postgresql")


def connect(folder: Path, database: str = "") -> Engine:
    """An engine for the database of a ledger.

    Args:
        folder: of the ledger, which holds the SQLite file.
        database: a URL of PostgreSQL; '': SQLite.

    Raises:
        UserError: for a URL that is none, a driver that is not installed, and a database that does not answer.
    """
    try:
        url = make_url(database) if database else URL.create("sqlite", database=str(folder / FILE))
    except ArgumentError:
        raise UserError("a database is given as postgresql://USER@HOST/NAME, and this is no such address") from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in BACKENDS:
        raise UserError(f"the ledger keeps its events in SQLite or PostgreSQL, and not in {url.get_backend_name()}")
    try:
        engine = create_engine(url)
    except (ModuleNotFoundError, NoSuchModuleError):
        raise UserError("PostgreSQL needs the package psycopg: pip install 'psycopg[binary]'") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    try:
        with engine.connect():
            return engine
    except DBAPIError as error:
        engine.dispose()
        raise UserError(f"the database {url.render_as_string(hide_password=True)} does not answer: {_first_line(error)}") from None


def create(engine: Engine, identity: str) -> None:
    """Make the tables of a new ledger. identity: what its folder says, too."""
    with engine.execution_options(writes=True).begin() as connection:
        lock(connection)
        if is_ledger(connection):
            raise UserError("the database holds a ledger already: name the folder that belongs to it with --ledger")
        command.upgrade(_steps(connection), "head")
        connection.execute(About.insert(), [{"name": "identity", "value": identity}])


def upgrade(engine: Engine) -> None:
    """Bring the tables of an older version up, in one transaction."""
    with engine.execution_options(writes=True).begin() as connection:
        lock(connection)
        steps = _steps(connection)
        if MigrationContext.configure(connection).get_current_revision() is None:
            command.stamp(steps, step_of(connection))  # the first version did not write its step down
        command.upgrade(steps, "head")


def check_identity(engine: Engine, identity: str, any_step: bool = False) -> None:
    """Check that a database is the one of a folder.

    Args:
        engine: of the database.
        identity: what the folder says.
        any_step: it may be of an older version.

    Raises:
        UserError: for another ledger or none, and one that another version wrote.
    """
    with engine.connect() as connection:
        known = {row.name: row.value for row in connection.execute(select(About))} if is_ledger(connection) else {}
        if known.get("identity") != identity:
            raise UserError(f"the database holds {'another ledger than this folder belongs to' if known else 'no ledger'}")
        step = step_of(connection)
        steps = [s.revision for s in ScriptDirectory.from_config(_steps(connection)).walk_revisions()]  # the last one first
    if step not in steps:
        raise UserError("the ledger was written by a newer version of expunge: install that one")
    if step != steps[0] and not any_step:
        raise UserError("the ledger was written by an older version of expunge: copy its folder, then run expunge request upgrade")


def step_of(connection: Connection) -> str:
    """The last step that made the tables."""
    return MigrationContext.configure(connection).get_current_revision() or "1"


def _steps(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(STEPS).replace("%", "%%"))
    return config


def is_ledger(connection: Connection) -> bool:
    """Whether the database has the tables of a ledger."""
    return inspect(connection).has_table("about")


def lock(connection: Connection) -> None:
    """Let one writer write at a time: in SQLite the transaction itself does, in PostgreSQL a lock that ends with it."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin where this file says so, and not where the driver thinks
    for pragma in (f"busy_timeout = {BUSY * 1000}", "journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def _first_line(error: DBAPIError) -> str:
    return (str(error.orig).strip().splitlines() or [type(error).__name__])[0]
