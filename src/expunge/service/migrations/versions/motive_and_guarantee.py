"""Requests say why somebody asks, and what the removal has to be."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Add the columns; requests that came before say neither."""
    for name in ("motive", "guarantee"):
        op.add_column("request", sa.Column(name, sa.String(16), nullable=False, server_default=""))
