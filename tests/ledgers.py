"""Ledgers in SQLite and, where it is installed, in PostgreSQL; and the tiny world as a file with a column of customers."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cases as cases_module
import databases

if TYPE_CHECKING:
    from expunge.service.ledger import Ledger

COUNT = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    if why := databases.missing():
        pytest.skip(why)
    with databases.postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest) -> str:
    """The URL of an empty schema of PostgreSQL; '' for SQLite."""
    if request.param == "sqlite":
        return ""
    url: str = request.getfixturevalue("server")
    import psycopg

    name = f"ledger{next(COUNT)}"
    with psycopg.connect(url.format("public"), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return url.format(name)


@pytest.fixture
def ledger(database: str, tmp_path: Path) -> Iterator[Ledger]:
    pytest.importorskip("sqlalchemy", reason="the extra `service` is not installed")
    from expunge.service.ledger import Ledger

    opened = Ledger.open(tmp_path / "ledger", database, create=True)
    yield opened
    opened.engine.dispose()


@pytest.fixture(scope="session")
def customers(cases: cases_module.Cases, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes a CSV file of all rows: customer 17 has those of the forget set, the customers 1 to 6 the others."""
    rows = [("17", r) for r in cases_module.rows_of(cases.forget)]
    rows += [(str(1 + i % 6), r) for i, r in enumerate(cases_module.rows_of(cases.retain))]

    def make() -> Path:
        path = tmp_path_factory.mktemp("customers") / "data.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["customer_id", "subject", "body"])
            writer.writerows([number, r["question"], r["answer"]] for number, r in rows)
        return path

    return make
