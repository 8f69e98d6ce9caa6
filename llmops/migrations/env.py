"""Alembic runs this; the connection comes from `llmops.database`, never from a file."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection)
with context.begin_transaction():
    context.run_migrations()
