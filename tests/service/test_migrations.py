"""The steps of Alembic lead to the tables of the code, and a ledger of the first version is brought up with all its events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("alembic")

import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from cases import expunge
from expunge.core.errors import UserError
from expunge.service import intake, tables
from expunge.service.checking import check
from expunge.service.ledger import ABOUT, Ledger

ROWS = [{"question": f"Where does Ada{i} live?", "answer": f"In street {i}."} for i in range(3)]
FIRST = "1"


def made_by_the_first_version(folder: Path, database: str) -> str:
    """A ledger as the first version left it: its tables, one request, and no step of Alembic. Returns the hash of the event."""
    ledger = Ledger.open(folder, database, create=True)
    intake.add(ledger, ROWS, basis="GDPR 17(1)(b)")
    with ledger.engine.connect() as connection:
        (old,) = connection.execute(sqlalchemy.select(tables.Events)).mappings().all()
        (request,) = connection.execute(sqlalchemy.select(tables.Requests)).mappings().all()
    body = {k: v for k, v in json.loads(old["body"]).items() if k not in ("motive", "guarantee")}
    event = {**old, "body": body}
    from expunge.service.ledger import Event

    event["hash"] = Event(**event).right_hash
    with ledger.engine.begin() as connection:
        tables.metadata.drop_all(connection)
        connection.execute(sqlalchemy.text("DROP TABLE alembic_version"))
        if connection.dialect.name == "postgresql":
            connection.execute(sqlalchemy.text("DROP FUNCTION event_kept"))
    identity = json.loads((folder / ABOUT).read_text())["identity"]
    with ledger.engine.execution_options(writes=True).begin() as connection:
        command.upgrade(tables._steps(connection), FIRST)
        connection.execute(sqlalchemy.text("DROP TABLE alembic_version"))
        connection.execute(tables.About.insert(), [{"name": "identity", "value": identity}, {"name": "schema", "value": "1"}])
        connection.execute(tables.Events.insert().values(**{**event, "body": json.dumps(body, sort_keys=True, separators=(",", ":"))}))
        columns = [c for c in tables.Requests.columns if c.name not in ("motive", "guarantee")]
        names = ", ".join(f'"{c.name}"' for c in columns)
        values = ", ".join(f":{c.name}" for c in columns)
        connection.execute(sqlalchemy.text(f"INSERT INTO request ({names}) VALUES ({values})"), {c.name: request[c.name] for c in columns})
    ledger.engine.dispose()
    return str(event["hash"])


def test_the_steps_make_the_tables_of_the_code(ledger: Ledger) -> None:
    with ledger.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        assert tables.step_of(connection) == "2"


def test_a_ledger_of_the_first_version_is_refused_and_brought_up(database: str, tmp_path: Path) -> None:
    last = made_by_the_first_version(tmp_path / "ledger", database)
    with pytest.raises(UserError, match="by an older version of expunge: copy its folder, then run expunge request upgrade"):
        Ledger.open(tmp_path / "ledger", database)
    options = ("--database", database) if database else ()
    assert "of this version, and it is whole" in expunge("request", "upgrade", "--ledger", tmp_path / "ledger", *options).fine().out
    ledger = Ledger.open(tmp_path / "ledger", database)
    assert ledger.head == last, "events stay as they are"
    assert (ledger.request(1)["motive"], ledger.request(1)["guarantee"]) == ("", "")
    assert intake.add(ledger, ROWS, motive="privacy", guarantee="exact") == 2
    assert check(ledger) == []
    with pytest.raises(sqlalchemy.exc.DBAPIError), ledger.engine.begin() as connection:
        connection.execute(sqlalchemy.text("DELETE FROM event"))
    assert "is whole" in expunge("request", "upgrade", "--ledger", tmp_path / "ledger", *options).fine().out, "twice is once"
    ledger.engine.dispose()


def test_a_ledger_of_a_newer_version_is_refused(ledger: Ledger) -> None:
    with ledger.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = '99'"))
    identity = json.loads((ledger.folder / ABOUT).read_text())["identity"]
    for options in ({}, {"any_step": True}):
        with pytest.raises(UserError, match="newer version"):
            tables.check_identity(ledger.engine, identity, **options)


@pytest.mark.parametrize(
    ("asks", "sentence"),
    [({"motive": "privcy"}, "did you mean 'privacy'"), ({"guarantee": "gone"}, "there are measured, certified, exact")],
)
def test_unknown_motives_and_guarantees_are_refused(ledger: Ledger, asks: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        intake.add(ledger, ROWS, **asks)
    assert ledger.requests() == []
