"""The workspace's own database, `llmops.db` or `$LLMOPS_DATABASE_URL`: opened, and brought to this version's schema."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmops.errors import EnvironmentFault
from llmops.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.engine import ExceptionContext

Survives = Literal["kill", "power loss"]
SCHEMA = "0004"
"""The newest revision in `migrations/versions/`."""
_BUSY_MS = 10_000
_CACHE_KIB = 16_384
_CONNECT_S = 10
_SILENCE_MS = 30_000
_MIGRATING = 0x6C6C6D6F7073
"""Number of PostgreSQL's advisory lock: the bytes of `llmops`."""


def open_database(workspace: Workspace, *, keep: int | None = None, survives: Survives = "power loss") -> Engine:
    """The database, with all tables of this version.

    Args:
        keep: connections a service keeps open, as many as it has threads that ask at once; more are opened for a
            moment where they are needed. None, for a command, keeps none.
        survives: what a change survives once it is made, on SQLite. `kill` of this or any process costs nothing;
            surviving a power loss too, each change waits for the disk. A server has settings of its own for it.

    Raises:
        EnvironmentFault: it cannot be opened, its packages are missing, or a newer llmops has changed its schema.
    """
    try:
        from sqlalchemy import create_engine, event
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.pool import NullPool, QueuePool
    except ImportError as error:
        raise EnvironmentFault("SQLAlchemy is not installed", fix="run `pip install 'llmops[train]'`") from error
    url = _url(workspace)
    local = url.get_backend_name() == "sqlite"
    try:
        if keep is None:
            # A command makes a few short visits; a connection kept open would leave SQLite's side files behind.
            engine = create_engine(url, poolclass=NullPool)
        else:
            engine = create_engine(url, poolclass=QueuePool, pool_size=keep, max_overflow=keep)
        if local:
            event.listen(engine, "connect", _prepare_sqlite)
            if keep is not None:
                event.listen(engine, "connect", _prepare_service)
            if survives == "kill":
                event.listen(engine, "connect", _trust_the_system)
        event.listen(engine, "handle_error", _told, retval=True)
        with _alone(workspace) if local else nullcontext():
            _migrate(engine)
    except ImportError as error:
        extra = "postgresql" if url.get_backend_name() == "postgresql" else "train"
        raise EnvironmentFault(
            f"the database {_place(url)} needs a package that is not installed ({error})",
            fix=f"run `pip install 'llmops[{extra}]'`",
        ) from error
    except (SQLAlchemyError, OSError) as error:
        raise _fault(url, error) from error
    return engine


def _url(workspace: Workspace) -> URL:
    """Where the database is; plain `postgresql://` and `postgres://` mean the driver that llmops comes with."""
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    given = os.environ.get("LLMOPS_DATABASE_URL")
    if not given:
        return URL.create("sqlite", database=str(workspace.folder(".").resolve() / "llmops.db"))
    try:
        url = make_url(given)
    except (ArgumentError, ValueError) as error:
        raise EnvironmentFault(
            "LLMOPS_DATABASE_URL is no address of a database",
            fix="write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for an @ in the password",
        ) from error
    if url.drivername in {"postgres", "postgresql"}:
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername == "postgresql+psycopg":
        # Without them a machine that is off, or goes off, is waited for as long as the system likes.
        usual = {"connect_timeout": str(_CONNECT_S), "tcp_user_timeout": str(_SILENCE_MS)}
        url = url.update_query_dict({name: value for name, value in usual.items() if name not in url.query})
    return url


def _place(url: URL) -> str:
    """The database as people know it, without what its address may hold of secrets."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    port = f":{url.port}" if url.port else ""
    return f"{url.database} on {url.host or 'this machine'}{port}"


def _fault(url: URL, error: BaseException) -> EnvironmentFault:
    said = str(getattr(error, "orig", None) or error).strip().splitlines()
    return EnvironmentFault(
        f"the database {_place(url)} cannot be used: {said[0] if said else type(error).__name__}",
        fix="check LLMOPS_DATABASE_URL and that its server runs, or unset it to keep the database in the workspace",
    )


def _told(context: ExceptionContext) -> BaseException | None:
    """A server that went away, a full disk or a lock held too long, as two lines; a mistake of ours stays one."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    error = context.sqlalchemy_exception
    if context.engine is None or not isinstance(error, OperationalError | InterfaceError):
        return None
    return _fault(context.engine.url, error)


def _prepare_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # Readers never wait for a writer, and a writer waits for another instead of failing at once.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _prepare_service(connection: Any, _: Any) -> None:
    # Of a database of gigabytes, the pages that every request needs stay with the connection.
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    cursor.close()


def _trust_the_system(connection: Any, _: Any) -> None:
    # In WAL mode the log is then synced at checkpoints alone: what was written is in the system's hands, which a
    # killed process leaves whole; a power loss may cost the last changes, never a part of one.
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _migrate(engine: Engine) -> None:
    from sqlalchemy import inspect, text

    with engine.begin() as connection:
        # All or nothing, by one process at a time. SQLite's driver begins no transaction before a change of tables;
        # machines that share a PostgreSQL share no file that could be locked.
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATING})
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
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
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
