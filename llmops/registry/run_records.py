"""Where a run is recorded: its folder in the workspace, MLflow, and the manifest beside the artifact it left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import LlmopsError
from llmops.files import digest_of
from llmops.records import RunManifest
from llmops.registry.connection import connect, mlflow_faults
from llmops.registry.store import ModelVersion, pages, place_of
from llmops.workspace import Workspace

RUN_TAG, FOLDER_TAG, DATASET_TAG = "llmops.run_digest", "llmops.folder", "llmops.dataset"
"""Of a run in MLflow: its digest, its folder on the machine that trained, and its dataset version."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as far as it is recorded.

    Attributes:
        digest: of its identity.
        folder: where it was trained; it may be gone, or on another machine.
        mlflow_run: None where MLflow does not know it.
        finished: whether it left an artifact.
    """

    name: str
    digest: str
    dataset: str | None
    folder: str | None
    mlflow_run: str | None
    finished: bool


def runs_of(workspace: Workspace, *, reproductions: bool = False) -> list[RunRecord]:
    """All runs that the workspace or MLflow knows, unfinished ones too; each once, by name and digest.

    Args:
        reproductions: those that `llmops reproduce` made too, each as a run of its own.
    """
    found: dict[tuple[str, str], RunRecord] = {}
    for record in (*_in_mlflow(workspace), *_in_folders(workspace.runs)):
        before = found.get((record.name, record.digest))
        found[record.name, record.digest] = record if before is None else _joined(before, record)
    again = list(_in_folders(workspace.home / "reproductions")) if reproductions else []
    return sorted([*found.values(), *again], key=lambda one: (one.name, one.digest))


def _in_folders(parent: Path) -> Iterator[RunRecord]:
    for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
        if (record := in_folder(folder)) is not None:
            yield record


def in_folder(folder: Path) -> RunRecord | None:
    """The run whose folder this is, finished or not; None for any other folder."""
    identity = _json(folder / "identity.json")
    manifest = _json(folder / "manifest.json")
    parts = identity or manifest.get("identity")
    if not isinstance(parts, Mapping):
        return None
    return RunRecord(
        name=str((parts.get("recipe") or {}).get("name", folder.name)),
        digest=str(manifest.get("digest") or digest_of(dict(parts))),
        dataset=parts.get("dataset"),
        folder=str(folder.absolute()),
        mlflow_run=_json(folder / "mlflow.json").get("run_id"),
        finished=bool(manifest),
    )


def manifest_of(version: ModelVersion, workspace: Workspace) -> RunManifest | None:
    """The manifest of the run that a version is from; None where no place has it any more.

    Bytes that several runs left are held once, with the manifest of the first: each place is asked whose it is.
    """
    wanted = version.tags.get("llmops.run")
    if wanted is None:
        return None
    places = [place_of(workspace, version.digest)] if version.digest else []
    for folder in (*places, *sorted(workspace.runs.iterdir())):
        manifest = read_manifest(folder / "manifest.json")
        if manifest is not None and manifest.digest == wanted:
            return manifest
    return _sent(version, wanted, workspace)


def read_manifest(file: Path) -> RunManifest | None:
    """The manifest in a file; None where there is none that can be read."""
    written = _json(file)
    try:
        return RunManifest(**written) if written else None
    except TypeError:
        return None


def _sent(version: ModelVersion, wanted: str, workspace: Workspace) -> RunManifest | None:
    """The manifest that was sent to MLflow with the run."""
    if version.run_id is None:
        return None
    uri = workspace.tracking_uri
    try:
        client = connect(uri)
        with mlflow_faults(uri):
            if not any(one.path == "manifest.json" for one in client.list_artifacts(version.run_id)):
                return None
            manifest = read_manifest(Path(client.download_artifacts(version.run_id, "manifest.json")))
    except (LlmopsError, OSError):
        return None
    return manifest if manifest is not None and manifest.digest == wanted else None


def _in_mlflow(workspace: Workspace) -> Iterator[RunRecord]:
    uri = workspace.tracking_uri
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return
    client = connect(uri)
    with mlflow_faults(uri):
        experiments = {one.experiment_id: one.name for one in pages(client.search_experiments)}
        if not experiments:
            return
        for run in pages(client.search_runs, experiment_ids=list(experiments), filter_string=f"tags.`{RUN_TAG}` != ''"):
            tags = run.data.tags
            yield RunRecord(
                name=experiments[run.info.experiment_id],
                digest=tags[RUN_TAG],
                dataset=tags.get(DATASET_TAG),
                folder=tags.get(FOLDER_TAG),
                mlflow_run=run.info.run_id,
                finished=run.info.status == "FINISHED",
            )


def _joined(one: RunRecord, other: RunRecord) -> RunRecord:
    """Two records of the same run; what lies in a folder here counts before what MLflow was told."""
    return RunRecord(
        name=one.name,
        digest=one.digest,
        dataset=other.dataset or one.dataset,
        folder=other.folder or one.folder,
        mlflow_run=other.mlflow_run or one.mlflow_run,
        finished=one.finished or other.finished,
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return written if isinstance(written, dict) else {}
