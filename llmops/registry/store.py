"""Model versions in MLflow's registry: an artifact under its digest, with what made it and how it scored.

A version's bytes are copied into the workspace, so that the run's folder may go. Which version may be
served is not decided here.
"""

from __future__ import annotations

import errno
import fcntl
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmops.errors import EnvironmentFault, InputError, LlmopsError, nearest
from llmops.files import digest_of, folder_digest, new_folder
from llmops.records import Report, RunManifest
from llmops.registry.connection import connect, first_line, is_remote, mlflow_faults, without_credentials
from llmops.registry.folder import check_model_folder
from llmops.registry.task import REWARD_MODEL, scores
from llmops.workspace import Workspace

HELD_OUT = "held-out"
"""Stands for the suite in the names of scores that were measured while training."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model in the registry.

    Attributes:
        digest: of the artifact's bytes; None for a version that another tool registered.
        source: where MLflow says the bytes are.
        scores: value by `suite.metric`, of the run's own held-out rows by `held-out.measure`.
        tags: all tags; ours begin with `llmops.`, `score.` and `signature.`.
    """

    name: str
    version: int
    digest: str | None
    kind: str | None
    aliases: tuple[str, ...]
    run_id: str | None
    created: datetime
    description: str
    source: str
    scores: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def reference(self) -> str:
        return f"models:/{self.name}/{self.version}"


def register(
    name: str,
    artifact: Path,
    manifest: RunManifest,
    reports: Sequence[Report] = (),
    *,
    workspace: Workspace,
    run_id: str | None = None,
    facts: Mapping[str, str] | None = None,
) -> ModelVersion:
    """The version of model `name` that is the folder `artifact`; made unless these bytes are one already.

    Args:
        reports: become scores of the version, beside what the manifest says of held-out rows; given again, they replace
            those of the same suite and metric.
        run_id: the MLflow run it came from; on a remote server the bytes are uploaded to that run.
        facts: more tags; given again, they replace those before, since they are stated and not measured.

    Raises:
        InputError: the folder is no model, or not the one the manifest describes.
        EnvironmentFault: the disk is full, or MLflow cannot be reached. Nothing is registered then.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be a model's name", fix="use letters, digits, `.`, `_` and `-`")
    check_model_folder(artifact, named=str(artifact))
    digest = folder_digest(artifact)
    if digest != manifest.artifact_digest:
        raise InputError(
            f"{artifact} is not what the run left: its digest is {digest[:12]}, "
            f"the manifest says {manifest.artifact_digest[:12]}",
            fix="run `llmops finetune` again, which rebuilds the artifact",
        )
    tags = _tags(digest, manifest)
    scores = _score_tags(reports) | _held_out_tags(manifest)
    uri = workspace.tracking_uri
    with _alone(workspace):
        held = _hold(artifact, digest, workspace)
        client = connect(uri)
        with mlflow_faults(uri):
            _ensure_model(client, name)
            for known in _versions(client, name):
                if known.digest == digest:
                    for key, value in {**scores, **(facts or {})}.items():
                        client.set_model_version_tag(name, str(known.version), key, value)
                    return _version(client.get_model_version(name, str(known.version)))
            source = held.as_uri()
            if is_remote(uri):
                run_id, source = _upload(client, held, name, run_id)
            made = client.create_model_version(
                name, source, run_id=run_id, tags=tags | scores | dict(facts or {}), description=_description(manifest)
            )
            return _version(client.get_model_version(name, str(made.version)))


def find(name: str, which: str | None = None, *, workspace: Workspace) -> ModelVersion:
    """The version `which` names: a number, an alias, `latest` or None for the newest.

    Raises:
        InputError: there is none; those that exist are named.
    """
    every = versions(name, workspace=workspace)
    if not every:
        raise InputError(f"the model {name!r} has no version", fix="train one with `llmops finetune`")
    wanted = which or "latest"
    # MLflow reserves `latest` and `v3` as aliases for just this meaning.
    number = wanted[1:] if re.fullmatch(r"[vV]\d+", wanted) else wanted
    for one in every:
        if wanted in one.aliases or number == str(one.version) or wanted.lower() == "latest":
            return one
    aliases = sorted({alias for one in every for alias in one.aliases})
    known = [*aliases, *(str(one.version) for one in every)]
    what = "version" if wanted.isdigit() else "alias"
    raise InputError(
        f"the model {name!r} has no {what} {wanted!r}{nearest(wanted, aliases)}",
        fix=f"use one of: {', '.join([*(f'models:/{name}@{alias}' for alias in aliases), every[0].reference])}"
        + (f" and {len(known) - len(aliases) - 1} older versions" if len(every) > 1 else ""),
    )


def versions(name: str, *, workspace: Workspace) -> list[ModelVersion]:
    """All versions of a model, newest first.

    Raises:
        InputError: no model has that name; the nearest is named.
    """
    known = names(workspace=workspace)
    if name not in known:
        listed = f"use one of: {', '.join(known[:20])}" if known else "train one with `llmops finetune`"
        raise InputError(f"no model is called {name!r}{nearest(name, known)}", fix=listed)
    client = connect(workspace.tracking_uri)
    with mlflow_faults(workspace.tracking_uri):
        return _versions(client, name)


def names(*, workspace: Workspace) -> list[str]:
    """Names of all models, sorted; a workspace without a registry has none."""
    uri = workspace.tracking_uri
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return []
    client = connect(uri)
    with mlflow_faults(uri):
        return sorted(model.name for model in pages(client.search_registered_models))


def fetch(version: ModelVersion, *, workspace: Workspace) -> Path:
    """The folder with a version's bytes on this machine, downloaded where needed.

    Raises:
        EnvironmentFault: the bytes are gone, or are not those that were registered.
    """
    if version.digest is not None and place_of(workspace, version.digest).is_dir():
        return place_of(workspace, version.digest)
    local = Path(version.source.removeprefix("file://"))
    if version.digest is None and local.is_dir():
        return local
    uri = workspace.tracking_uri
    connect(uri)
    from mlflow.artifacts import download_artifacts

    target = place_of(workspace, version.digest or digest_of([without_credentials(uri), version.source]))
    try:
        with new_folder(target) as fresh:
            download_artifacts(artifact_uri=version.source, dst_path=str(fresh / "download"), tracking_uri=uri)
            # Stores differ in whether the last part of the address becomes a folder of its own.
            found = sorted((fresh / "download").rglob("*config.json"), key=lambda path: len(path.parts))
            top = found[0].parent if found else fresh / "download"
            for path in list(top.iterdir()):
                path.rename(fresh / path.name)
            shutil.rmtree(fresh / "download")
            if version.digest is not None and folder_digest(fresh) != version.digest:
                raise EnvironmentFault(
                    f"the bytes of {version.reference} are not those that were registered",
                    fix="register the model again from its run",
                )
    except LlmopsError:
        raise
    except Exception as error:  # each artifact store has errors of its own
        raise EnvironmentFault(
            f"the bytes of {version.reference} cannot be had from {without_credentials(version.source)}: "
            f"{first_line(error)}",
            fix="register the model again from its run, or train it again from its recipe",
        ) from error
    return target


def place_of(workspace: Workspace, digest: str) -> Path:
    """Where the workspace keeps an artifact's bytes, if it has them."""
    return workspace.objects / "models" / digest


def _hold(artifact: Path, digest: str, workspace: Workspace) -> Path:
    """A copy of the artifact in the workspace, under its digest."""
    target = place_of(workspace, digest)
    if target.is_dir():
        return target
    size = sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file())
    free = shutil.disk_usage(workspace.objects).free
    full = EnvironmentFault(
        f"the registry needs {size / 1e9:.2f} GB in {workspace.objects}, {free / 1e9:.2f} GB are free",
        fix="free some space there, or set LLMOPS_HOME to a larger disk",
    )
    if size > free:
        raise full
    try:
        with new_folder(target) as fresh:
            shutil.copytree(artifact, fresh, dirs_exist_ok=True)
            if folder_digest(fresh) != digest:
                raise EnvironmentFault(f"{artifact} changed while it was copied", fix="run the command again")
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise full from error
        raise
    return target


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """One registration at a time in a workspace, so that equal bytes become one version."""
    with (workspace.objects / ".models.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ensure_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _upload(client: Any, folder: Path, name: str, run_id: str | None) -> tuple[str, str]:
    """Put the bytes where every user of a remote registry can read them: among the run's artifacts."""
    if run_id is None:
        experiment = client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
        run_id = str(client.create_run(experiment_id, run_name=f"register {name}").info.run_id)
        client.set_terminated(run_id)
    client.log_artifacts(run_id, str(folder), "artifact")
    return run_id, f"{client.get_run(run_id).info.artifact_uri}/artifact"


def pages(search: Any, **arguments: Any) -> Iterator[Any]:
    """Everything that one of MLflow's searches finds, page by page."""
    token = None
    while True:
        page = search(page_token=token, **arguments)
        yield from page
        token = page.token
        if not token:
            return


def _versions(client: Any, name: str) -> list[ModelVersion]:
    aliases: dict[int, list[str]] = {}
    for alias, number in client.get_registered_model(name).aliases.items():
        aliases.setdefault(int(number), []).append(alias)
    found = [
        _version(one, aliases.get(int(one.version), []))
        for one in pages(client.search_model_versions, filter_string=f"name='{name}'")
    ]
    return sorted(found, key=lambda one: -one.version)


def _version(one: Any, aliases: Sequence[str] | None = None) -> ModelVersion:
    tags = dict(one.tags)
    return ModelVersion(
        name=one.name,
        version=int(one.version),
        digest=tags.get("llmops.digest"),
        kind=tags.get("llmops.kind"),
        aliases=tuple(sorted(one.aliases if aliases is None else aliases)),
        run_id=one.run_id or None,
        created=datetime.fromtimestamp(one.creation_timestamp / 1000, UTC),
        description=one.description or "",
        source=one.source,
        scores={key.removeprefix("score."): float(value) for key, value in tags.items() if key.startswith("score.")},
        tags=tags,
    )


def _tags(digest: str, manifest: RunManifest) -> dict[str, str]:
    known = {
        "llmops.digest": digest,
        "llmops.run": manifest.digest,
        "llmops.kind": manifest.kind,
        "llmops.base": without_credentials(str(manifest.recipe.get("base", ""))),
        "llmops.base_revision": manifest.identity.get("base_revision"),
        "llmops.base_digest": manifest.identity.get("base"),
        "llmops.data": manifest.identity.get("dataset"),
    }
    return {key: str(value) for key, value in known.items() if value}


def _score_tags(reports: Sequence[Report]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for report in reports:
        for score in report.scores:
            key = re.sub(r"[^\w\-. /:]", "_", f"{report.suite}.{score.metric}")
            tags[f"score.{key}"] = repr(score.value)
            tags[f"interval.{key}"] = json.dumps([score.low, score.high])
            if score.signature:
                tags[f"signature.{key}"] = score.signature
    return tags


def _held_out_tags(manifest: RunManifest) -> dict[str, str]:
    """What a method tells of the rows that were held out while it trained, such as a reward model's accuracy."""
    return {f"score.{HELD_OUT}.{name}": repr(value) for name, value in manifest.validation_measures.items()}


def _description(manifest: RunManifest) -> str:
    base = without_credentials(str(manifest.recipe.get("base", "a base model")))
    if manifest.kind == "quantized":
        sizes = [manifest.measured.get(key, 0) / 1e6 for key in ("disk_bytes", "original_bytes")]
        size = f", {sizes[0]:,.1f} MB of weights instead of {sizes[1]:,.1f} MB" if all(sizes) else ""
        return f"{(manifest.recipe.get('method') or {}).get('scheme', 'quantized')} from {base}{size}"
    validation = "" if manifest.validation_loss is None else f", validation {manifest.validation_loss:.4f}"
    return (
        f"{REWARD_MODEL if scores(manifest) else ''}{manifest.kind} from {base}, {manifest.steps} steps on "
        f"{manifest.trained_tokens} trained tokens, loss {manifest.final_loss:.4f}{validation} {manifest.loss_unit}"
    )
