"""The one way to MLflow: quiet, impatient, and with two-line errors instead of tracebacks.

A server that is down is noticed in seconds; MLflow's own patience is seven retries of two minutes.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from llmops.errors import EnvironmentFault

Value = TypeVar("Value")

PATIENCE_S = 3.0
"""How long a server may take to answer that it is there."""

_ALWAYS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
_UNLESS_SET = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


def connect(uri: str, *, patience_s: float = PATIENCE_S) -> Any:
    """An MLflow client for tracking and registry at `uri`; a new SQLite database is made first.

    Raises:
        EnvironmentFault: no server answers within `patience_s`, the database cannot be opened,
            or MLflow is not installed.
    """
    os.environ.update(_ALWAYS)
    for name, value in _UNLESS_SET.items():
        os.environ.setdefault(name, value)
    shown = without_credentials(uri)
    if is_remote(uri):
        _must_answer(uri, patience_s)
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise EnvironmentFault("MLflow is not installed", fix="run `pip install 'llmops[train]'`") from error
    try:
        # Two processes that migrate one new database at the same time would break it.
        with _alone(uri), mlflow_faults(uri):
            return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except EnvironmentFault:
        raise
    except Exception as error:  # drivers of databases raise what they like
        raise EnvironmentFault(
            f"the MLflow store {shown} cannot be opened: {first_line(error)}",
            fix="set MLFLOW_TRACKING_URI to a store that works, or unset it to keep runs in the workspace",
        ) from error


@contextmanager
def mlflow_faults(uri: str) -> Iterator[None]:
    """What MLflow refuses or cannot do, as an error of two lines."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        text = first_line(error)
        fix = "see the message; MLFLOW_TRACKING_URI says which store is used"
        if "schema" in text:
            fix = "run `mlflow db upgrade` on this store after a backup, or use the MLflow version that wrote it"
        raise EnvironmentFault(f"the MLflow store {without_credentials(uri)} says: {text}", fix=fix) from error


def is_remote(uri: str) -> bool:
    """Whether a server answers at `uri`; otherwise this process opens the database itself."""
    return uri.startswith(("http://", "https://"))


def within(seconds: float, function: Callable[[], Value]) -> Value:
    """What `function` returns, unless it takes longer: name look-ups know no timeout of their own.

    Raises:
        TimeoutError: it took longer; it is left behind in a daemon thread.
    """
    outcome: list[Value] = []
    failure: list[BaseException] = []

    def call() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # carried to the caller below
            failure.append(error)

    thread = threading.Thread(target=call, daemon=True, name="within")
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return outcome[0]


def without_credentials(text: str) -> str:
    """`text` with user and password taken out of every URL in it."""
    return re.sub(r"(?<=://)[^/\s@]+@", "", text)


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return without_credentials(lines[0][:limit]) if lines else type(error).__name__


def _must_answer(uri: str, patience_s: float) -> None:
    """Any answer will do, also a refusal: it shows that a server is there."""
    request = urllib.request.Request(without_credentials(uri).rstrip("/") + "/health")

    def ask() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=patience_s):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return True

    try:
        within(patience_s, ask)
    except (OSError, ValueError) as error:  # URLError, TimeoutError and bad addresses are among these
        reason = getattr(error, "reason", error)
        if "CERTIFICATE" in str(reason):
            return  # someone answered; which certificates to trust is MLflow's own setting
        raise EnvironmentFault(
            f"the MLflow server {without_credentials(uri)} does not answer ({reason})",
            fix="start it, or set MLFLOW_TRACKING_URI to one that runs, or unset it to keep runs in the workspace",
        ) from error


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time on a SQLite database that may have to be made."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    database = Path(uri.removeprefix("sqlite:///"))
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = database.with_name(f".{database.name}.lock").open("w")
    except OSError as error:
        raise EnvironmentFault(
            f"{database.parent} cannot be written ({error.strerror})", fix="set LLMOPS_HOME to a folder you may write"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
