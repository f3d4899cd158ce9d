"""The events, which nobody changes, and the tables that follow from them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

COUNTER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
APPEND_ONLY = {
    "sqlite": [
        f"CREATE TRIGGER event_no_{verb} BEFORE {verb} ON event BEGIN SELECT RAISE(ABORT, 'events are never changed'); END"
        for verb in ("update", "delete")
    ],
    "postgresql": [
        "CREATE FUNCTION event_kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'events are never changed'; END $$",
        "CREATE TRIGGER event_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON event FOR EACH STATEMENT EXECUTE FUNCTION event_kept()",
    ],
}


def upgrade() -> None:
    """Make the tables."""
    op.create_table("about", sa.Column("name", sa.String(20), primary_key=True), sa.Column("value", sa.Text, nullable=False))
    op.create_table(
        "event",
        sa.Column("seq", COUNTER, primary_key=True, autoincrement=False),
        sa.Column("request", sa.Integer, nullable=False, index=True),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("before", sa.String(64), nullable=False, unique=True),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
    )
    op.create_table(
        "request",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("received", sa.String(32), nullable=False),
        sa.Column("due", sa.String(10), nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("commitment", sa.String(64), nullable=False),
        sa.Column("subject_hmac", sa.String(64), nullable=False),
        sa.Column("basis", sa.Text, nullable=False),
        sa.Column("key", sa.Boolean, nullable=False),
        sa.Column("run", sa.Integer),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("batch", "method", "folder", "parent")),
        sa.Column("parent_weights", sa.String(64), nullable=False),
        sa.Column("parent_destroyed", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("receipt_sha256", sa.String(64), nullable=False),
        sa.Column("weights", sa.String(64), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
    )
    op.create_table(
        "serving",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("run", sa.Integer),
    )
    op.create_table(
        "certificate",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("request", sa.Integer, nullable=False),
        sa.Column("head", sa.String(64), nullable=False),
    )
    for statement in APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)
