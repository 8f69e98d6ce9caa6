"""The one folder that holds all state: `$LLMOPS_HOME`, or `.llmops` in the current folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from llmops.errors import EnvironmentFault


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where things are kept; folders are made when first asked for."""

    home: Path

    @classmethod
    def current(cls) -> Workspace:
        return cls(Path(os.environ.get("LLMOPS_HOME") or ".llmops").expanduser().absolute())

    def folder(self, name: str) -> Path:
        """A folder inside the workspace, made if missing.

        Raises:
            EnvironmentFault: the workspace cannot be written.
        """
        path = self.home / name
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(
                f"the workspace folder {path} cannot be made ({error.strerror})",
                fix="set LLMOPS_HOME to a folder you may write, or free the path",
            ) from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise EnvironmentFault(
                f"the workspace folder {path} cannot be written", fix="set LLMOPS_HOME to a folder you may write"
            )
        return path

    @property
    def cache(self) -> Path:
        """What can be made again: embedded bases, token stores, file digests."""
        return self.folder("cache")

    @property
    def objects(self) -> Path:
        """Content by digest: dataset versions."""
        return self.folder("objects")

    @property
    def runs(self) -> Path:
        return self.folder("runs")

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and the registry: `$MLFLOW_TRACKING_URI`, or SQLite in the workspace."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.folder('.').resolve() / 'mlflow.db'}"

    @property
    def artifacts_uri(self) -> str:
        """Root of MLflow's artifacts when the workspace itself is the store."""
        return self.folder("artifacts").as_uri()
