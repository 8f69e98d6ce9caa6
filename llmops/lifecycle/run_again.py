"""What a run was made of, as its record names it: recipe, base and rows, found again or said to have changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from llmops.data.sources import source_digest
from llmops.data.versions import load_version
from llmops.errors import EnvironmentFault, InputError, LlmopsError
from llmops.events import Listener
from llmops.files import folder_digest
from llmops.finetune.method import Distill
from llmops.finetune.recipe import Recipe
from llmops.lifecycle.lineage import every_version, rows_folder
from llmops.lifecycle.teacher import dataset_of, teacher_of
from llmops.records import DatasetVersion, ModelSource, RunManifest
from llmops.registry import store
from llmops.registry.reference import registry_name, resolve
from llmops.registry.run_records import manifest_of, read_manifest, runs_of
from llmops.registry.store import place_of
from llmops.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Origin:
    """The run to make again: its manifest, and where its artifact may still be."""

    manifest: RunManifest
    folder: Path | None

    @property
    def name(self) -> str:
        return f"{self.manifest.name} {self.manifest.digest[:12]}"


def find_run(named: str, *, workspace: Workspace) -> Origin:
    """The run that a folder, the start of a run's digest, or a registered version names.

    Raises:
        InputError: there is none, or several.
        EnvironmentFault: it is known, but its manifest is gone.
    """
    if (Path(named) / "manifest.json").is_file():
        manifest = read_manifest(Path(named) / "manifest.json")
        if manifest is not None:
            return Origin(manifest, Path(named))
    found = [one for one in runs_of(workspace) if len(named) >= 6 and one.digest.startswith(named)]
    if len({one.digest for one in found}) > 1:
        raise InputError(
            f"{len(found)} runs have a digest that starts with {named}",
            fix=f"give more of it: {', '.join(one.digest[:20] for one in found[:5])}",
        )
    for one in found:
        if one.folder and (manifest := read_manifest(Path(one.folder) / "manifest.json")):
            return Origin(manifest, Path(one.folder))
    if found:
        for version in every_version(workspace):
            if version.tags.get("llmops.run") == found[0].digest and (manifest := manifest_of(version, workspace)):
                return Origin(manifest, None)
        raise EnvironmentFault(
            f"the run {named} did not leave a manifest, or its folder is gone",
            fix="run its recipe again: llmops finetune RECIPE",
        )
    parts = registry_name(named if named.startswith("models:/") else f"models:/{named}")
    if parts is None or (not named.startswith("models:/") and parts[0] not in store.names(workspace=workspace)):
        raise InputError(
            f"{named!r} names no run",
            fix="give a run's folder, the first 6 digits or more of its digest, or models:/NAME/VERSION",
        )
    version = store.find(*parts, workspace=workspace)
    found_manifest = manifest_of(version, workspace)
    if found_manifest is None:
        raise EnvironmentFault(
            f"the record of the run that made {version.reference} is gone",
            fix="run its recipe again: llmops finetune RECIPE",
        )
    folder = next((one.folder for one in runs_of(workspace) if one.digest == found_manifest.digest), None)
    return Origin(found_manifest, Path(folder) if folder else None)


def recipe_of(manifest: RunManifest) -> Recipe:
    try:
        return Recipe.model_validate(dict(manifest.recipe))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"the recipe of {manifest.name} {manifest.digest[:12]} is none for this version of llmops: "
            f"{where}: {first['msg']}",
            fix=f"reproduce it with llmops {manifest.lineage.get('code_version', 'of its time')}",
        ) from error


def base_of(manifest: RunManifest, workspace: Workspace, listener: Listener, notes: list[str]) -> ModelSource:
    """The base of the record; another one only where these bytes are nowhere to be found."""
    lineage = manifest.lineage
    reference, revision = str(lineage["base"]), lineage.get("base_revision")
    wanted = reference
    if revision and (registered := registry_name(reference)):
        wanted = f"models:/{registered[0]}/{revision}"  # an alias may have moved since
    elif revision:
        wanted = f"{reference.partition('@')[0]}@{revision}"
    held = place_of(workspace, str(lineage["base_digest"]))
    try:
        found = resolve(
            wanted,
            workspace=workspace,
            on_progress=lambda done, total, what: listener.advance(what, done, total),
            say=listener.say,
        )
        folder, digest = found.folder, found.digest
        problem = "has other bytes than it had"
    except LlmopsError as error:
        if not held.is_dir():
            raise
        folder, digest, problem = held, "", f"cannot be had ({error.problem})"
    if digest != lineage["base_digest"]:
        kept = held.is_dir() and folder_digest(held) == lineage["base_digest"]
        notes.append(f"the base {wanted} {problem}" + (f"; its bytes are those kept in {held}" if kept else ""))
        if kept:
            folder, digest = held, str(lineage["base_digest"])
    return ModelSource(reference, folder, revision, digest)


def rows_of_record(
    manifest: RunManifest, recipe: Recipe, workspace: Workspace, listener: Listener, notes: list[str]
) -> DatasetVersion:
    """The rows of the record where they were kept, else those that its sources give today."""
    wanted = str(manifest.lineage["dataset"])
    kept = rows_folder(workspace, wanted)
    if kept is not None:
        notes += [
            f"{line}; the rows are those kept in {kept}" for line in _changed_sources(manifest, recipe, workspace)
        ]
        return load_version(kept)
    listener.say(f"the rows of dataset {wanted[:16]} were deleted; they are read from their sources again")
    teacher = teacher_of(recipe.method.teacher, workspace, listener) if isinstance(recipe.method, Distill) else None
    dataset = dataset_of(recipe, teacher, workspace, listener)
    if dataset.digest != wanted:
        notes += _changed_sources(manifest, recipe, workspace) or ["the same sources give other rows than they gave"]
    return dataset


def _changed_sources(manifest: RunManifest, recipe: Recipe, workspace: Workspace) -> list[str]:
    """Each source that is no longer what it was; one that cannot be read says so."""
    digests: dict[str, list[str]] = {}
    for use in manifest.lineage.get("sources", ()):
        digests.setdefault(use["source"], []).append(use["digest"])
    found = []
    for spec in recipe.data.sources:
        if spec.source not in digests or spec.source.startswith("hub:"):
            continue  # a hub data set is named by its commit, which does not change
        try:
            now = source_digest(spec, workspace.cache)
        except InputError as error:
            found.append(f"the source {spec.source} cannot be read any more ({error.problem})")
            continue
        if now not in digests[spec.source]:
            found.append(f"the source {spec.source} changed: {digests[spec.source][0][:12]} → {now[:12]}")
    return list(dict.fromkeys(found))
