"""Alembic runs this file: it takes the steps on a connection that is given, in the transaction of its owner."""

from __future__ import annotations

from alembic import context

from expunge.service.tables import metadata

if "config" in vars(context):  # whoever else imports this file gets nothing done
    context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
