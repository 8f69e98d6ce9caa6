"""From what a user writes for a model to a checked folder on this machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from llmops.errors import EnvironmentFault, InputError, nearest
from llmops.records import ModelSource
from llmops.registry.folder import cached_digest, check_model_folder
from llmops.workspace import Workspace

_BUILTIN = ("builtin:tiny", "builtin:small")
_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_REGISTRY = re.compile(r"models:/(?P<name>[^/@]+)([/@](?P<which>[^/@]+))?")
_FORMS = "builtin:tiny, a folder, models:/name@alias, models:/name/3, org/name or org/name@revision"


def resolve(
    reference: str,
    *,
    workspace: Workspace,
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    say: Callable[[str], None] = lambda line: None,
) -> ModelSource:
    """The model that `reference` names, on this machine's disk, checked and with its digest.

    Forms: `builtin:tiny`, a folder, `models:/name@alias`, `models:/name/3`, `org/name` and
    `org/name@revision` of the hub. A folder that exists wins over a hub model of the same name.

    Args:
        on_progress: hears (done, in all, what) while an embedded base is made.
        say: hears what was chosen and why, a line at a time.

    Raises:
        InputError: no such model, or nothing that can be trusted and loaded.
        EnvironmentFault: it cannot be had here: no network, no permission, no space, damaged bytes.
    """
    if reference.startswith("models:"):
        return _registered(reference, workspace)
    if reference.startswith("builtin:"):
        from llmops.builtin.bases import base

        folder = base(reference.removeprefix("builtin:"), cache=workspace.cache, on_progress=on_progress)
        return ModelSource(reference, folder, None, cached_digest(folder, workspace.cache))
    path = Path(reference).expanduser()
    if path.exists() or reference.startswith(("/", "./", "../", "~")) or reference in {".", ".."}:
        return _local(reference, path, workspace)
    match = _HUB.fullmatch(reference)
    if match is None or match["repo"].startswith("builtin/"):
        near = f"builtin:{reference}" if f"builtin:{reference}" in _BUILTIN else reference
        raise InputError(f"{reference!r} names no model{nearest(near, _BUILTIN)}", fix=f"write {_FORMS}")
    from llmops.registry.hub import snapshot

    folder, commit = snapshot(match["repo"], match["revision"], say=say)
    return ModelSource(reference, folder, commit, cached_digest(folder, workspace.cache))


def registry_name(reference: str) -> tuple[str, str | None] | None:
    """Name and alias or version of `models:/name@alias`, `models:/name/3` or `models:/name`; None for other text."""
    match = _REGISTRY.fullmatch(reference)
    return (match["name"], match["which"]) if match else None


def _local(reference: str, path: Path, workspace: Workspace) -> ModelSource:
    if not path.exists():
        beside = [other.name for other in path.parent.iterdir() if other.is_dir()] if path.parent.is_dir() else []
        raise InputError(f"there is no folder {reference}{nearest(path.name, beside)}", fix=f"write {_FORMS}")
    if not path.is_dir():
        raise InputError(f"{reference} is a file, a model is a folder", fix=f"give the folder it is in: {path.parent}")
    folder = path.resolve()
    check_model_folder(folder, named=reference)
    return ModelSource(reference, folder, None, cached_digest(folder, workspace.cache))


def _registered(reference: str, workspace: Workspace) -> ModelSource:
    from llmops.registry import store

    if (parts := registry_name(reference)) is None:
        raise InputError(f"{reference!r} names no model version", fix="write models:/name@alias or models:/name/3")
    version = store.find(*parts, workspace=workspace)
    folder = store.fetch(version, workspace=workspace)
    check_model_folder(folder, named=version.reference)
    digest = cached_digest(folder, workspace.cache)
    if version.digest is not None and digest != version.digest:
        raise EnvironmentFault(
            f"the bytes of {version.reference} in {folder} changed since they were registered",
            fix="move that folder away and register the artifact again from its run",
        )
    return ModelSource(reference, folder, str(version.version), digest)
