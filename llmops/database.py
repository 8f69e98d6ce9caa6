"""The workspace's own database, `llmops.db` or `$LLMOPS_DATABASE_URL`: opened, and brought to this version's schema."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.errors import EnvironmentFault
from llmops.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

SCHEMA = "0001"
"""The newest revision in `migrations/versions/`."""
_BUSY_MS = 10_000


def open_database(workspace: Workspace) -> Engine:
    """The database, with all tables of this version.

    Raises:
        EnvironmentFault: it cannot be opened, its packages are missing, or a newer llmops has changed its schema.
    """
    try:
        from sqlalchemy import create_engine, event
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.pool import NullPool
    except ImportError as error:
        raise EnvironmentFault("SQLAlchemy is not installed", fix="run `pip install 'llmops[train]'`") from error
    url = os.environ.get("LLMOPS_DATABASE_URL") or f"sqlite:///{workspace.folder('.').resolve() / 'llmops.db'}"
    try:
        # A command makes a few short visits; a connection kept open would leave SQLite's side files behind.
        engine = create_engine(url, poolclass=NullPool)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
        with _alone(workspace):
            _migrate(engine)
    except (SQLAlchemyError, ImportError, OSError) as error:
        # Only the name of the place: an address may hold a password.
        place = url if url.startswith("sqlite") else url.split("@")[-1]
        raise EnvironmentFault(
            f"the database {place} cannot be used: {str(error).splitlines()[0]}",
            fix="check LLMOPS_DATABASE_URL, or unset it to keep the database in the workspace",
        ) from error
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # Readers never wait for a writer, and a writer waits for another instead of failing at once.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _migrate(engine: Engine) -> None:
    from sqlalchemy import inspect, text

    with engine.begin() as connection:
        known = None
        if inspect(connection).has_table("alembic_version"):
            known = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        if known == SCHEMA:
            return
        if known is not None and known > SCHEMA:
            raise EnvironmentFault(
                f"the database has schema {known}, this version of llmops knows up to {SCHEMA}",
                fix="update llmops, or set LLMOPS_HOME to another workspace",
            )
        _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """One process at a time makes or changes tables."""
    from filelock import FileLock

    with FileLock(workspace.folder(".") / ".database.lock"):
        yield
