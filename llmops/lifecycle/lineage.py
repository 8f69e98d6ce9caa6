"""Lineage both ways over a whole workspace: registry, runs, decisions and dataset versions put side by side."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmops.data.membership import Place, Wanted, folders, places, short
from llmops.data.versions import load_version, version_folder
from llmops.database import open_database
from llmops.errors import InputError
from llmops.files import file_digest
from llmops.records import Verdict
from llmops.registry import store
from llmops.registry.connection import without_credentials
from llmops.registry.decisions import Decision
from llmops.registry.decisions import chain as decisions_on
from llmops.registry.folder import cached_digest
from llmops.registry.licence_chain import MERGED, of_version, to_plain
from llmops.registry.lineage import Ancestor, Descendant, ancestry, descendants
from llmops.registry.run_records import RunRecord, in_folder, manifest_of, runs_of
from llmops.registry.store import ModelVersion, place_of
from llmops.registry.verdicts import verdicts_of
from llmops.workspace import Workspace

_DATASET_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Derived:
    """A folder with a model that names an artifact it was made from, such as `llmops merge` leaves."""

    folder: Path
    relation: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """A version's whole lineage.

    Attributes:
        runs: the runs of all ancestors, by reference of the version.
        datasets: by digest, the folder of each dataset version that is still there.
        tokenizer: digest of the artifact's `tokenizer.json`; None where the bytes are not here.
    """

    origin: Ancestor
    runs: Mapping[str, RunRecord]
    datasets: Mapping[str, Path]
    tokenizer: str | None
    verdicts: Sequence[Verdict]
    decisions: Sequence[Decision]
    made: Sequence[Descendant]
    derived: Sequence[Derived]


@dataclass(frozen=True, slots=True)
class Saw:
    """Where rows went.

    Attributes:
        places: each place of a wanted row in a dataset version.
        runs: those on these versions, finished or not, and their reproductions.
        models: registered versions from these runs.
        made: versions made from those, which saw the rows through them.
        derived: folders with models that name one of all these.
        deleted: dataset versions that runs or models name and whose rows are gone: nothing can be said of them.
        searched: dataset versions that were read.
    """

    places: Sequence[Place]
    runs: Sequence[RunRecord]
    models: Sequence[ModelVersion]
    made: Sequence[Descendant]
    derived: Sequence[Derived]
    deleted: Sequence[str]
    searched: int


def lineage_of(version: ModelVersion, *, workspace: Workspace) -> Lineage:
    """Everything a version was made of, and everything that was made of it or said about it."""
    versions = every_version(workspace)
    merged = _merged(workspace, versions)
    origin = _origin(version, versions, merged, workspace)
    made, derived = _made_of({version.digest or ""}, versions, merged)
    engine = open_database(workspace)
    tokenizer = place_of(workspace, version.digest) / "tokenizer.json" if version.digest else None
    known = {(one.digest, one.name): one for one in runs_of(workspace)}
    runs = {
        one.version.reference: known[key]
        for one in origin.line()
        if (key := (one.version.tags.get("llmops.run", ""), one.version.name)) in known
    }
    return Lineage(
        origin=origin,
        runs=runs,
        datasets={
            one.dataset: folder
            for one in origin.line()
            if one.dataset and (folder := rows_folder(workspace, one.dataset))
        },
        tokenizer=file_digest(tokenizer) if tokenizer is not None and tokenizer.is_file() else None,
        verdicts=verdicts_of(engine, version.digest) if version.digest else [],
        decisions=[link for link in decisions_on(engine, version.name) if link.version == version.version],
        made=made,
        derived=derived,
    )


def who_saw(wanted: Wanted, *, workspace: Workspace) -> Saw:
    """Dataset versions with the wanted rows, the runs and versions trained on them, and what was made of those."""
    found = list(places(workspace.objects, wanted))
    holding = {place.version for place in found}
    runs, versions = runs_of(workspace, reproductions=True), every_version(workspace)
    datasets = {one.dataset for one in runs} | {one.tags.get("llmops.data") for one in versions}
    there = {short(folder) for folder in folders(workspace.objects)}
    models = [one for one in versions if one.tags.get("llmops.data", "")[:_DATASET_DIGITS] in holding]
    digests = {one.digest for one in models if one.digest}
    made, derived = _made_of(digests, versions, _merged(workspace, versions))
    return Saw(
        places=found,
        runs=[one for one in runs if (one.dataset or "")[:_DATASET_DIGITS] in holding],
        models=sorted(models, key=lambda one: (one.name, one.version)),
        made=made,
        derived=derived,
        deleted=sorted(one for one in datasets if one and one[:_DATASET_DIGITS] not in there),
        searched=len(there),
    )


def ancestors_of(version: ModelVersion, *, workspace: Workspace) -> list[ModelVersion]:
    """The versions a version was made from, the nearest first, through merged folders that nobody registered too."""
    versions = every_version(workspace)
    line = _origin(version, versions, _merged(workspace, versions), workspace).line()
    return [one.version for one in line][1:]


def made_from(digests: Collection[str], *, workspace: Workspace) -> list[ModelVersion]:
    """The versions made of artifacts with these digests, and of those in turn, through merged folders too."""
    versions = every_version(workspace)
    made, _ = _made_of(digests, versions, _merged(workspace, versions))
    return [one.version for root in made for one in root.every()]


def every_version(workspace: Workspace) -> list[ModelVersion]:
    """All versions of all models."""
    return [one for name in store.names(workspace=workspace) for one in store.versions(name, workspace=workspace)]


def rows_folder(workspace: Workspace, dataset: str) -> Path | None:
    """Where the rows of a dataset version are; None where they were deleted or damaged."""
    folder = version_folder(workspace.objects, dataset)
    try:
        return folder if load_version(folder).digest == dataset else None
    except InputError:
        return None


@dataclass(frozen=True, slots=True)
class _Merged:
    """A merged folder of the workspace with the digests its record names."""

    folder: Path
    digest: str
    adapter: str
    base: str


def _origin(
    version: ModelVersion, versions: Sequence[ModelVersion], merged: Sequence[_Merged], workspace: Workspace
) -> Ancestor:
    adapters = {one.digest: one.adapter for one in merged}
    return ancestry(version, versions, partial(manifest_of, workspace=workspace), adapters)


def _merged(workspace: Workspace, versions: Sequence[ModelVersion]) -> list[_Merged]:
    """Those in the workspace, and those that a version was trained from, wherever they were put."""
    places = (workspace.objects / "models", workspace.runs)
    files = [file for place in places for file in sorted([*place.glob(f"*/{MERGED}"), *place.glob(f"*/*/{MERGED}")])]
    manifests = (manifest_of(one, workspace=workspace) for one in versions)
    files += [Path(one.lineage["base"]) / MERGED for one in manifests if one is not None and one.lineage.get("base")]
    found = []
    for file in {file.resolve(): file for file in files}.values():
        try:
            record = json.loads(file.read_text(encoding="utf-8")).get("merged_from") or {}
        except (OSError, ValueError):
            continue
        digest = cached_digest(file.parent, workspace.cache)
        found.append(
            _Merged(file.parent, digest, str(record.get("adapter_digest") or ""), str(record.get("base_digest") or ""))
        )
    return found


def _made_of(
    digests: Collection[str], versions: Sequence[ModelVersion], merged: Sequence[_Merged]
) -> tuple[tuple[Descendant, ...], list[Derived]]:
    """Versions and merged folders made from these artifacts, also one from the other in turn."""
    known = {digest for digest in digests if digest}
    while True:
        made = descendants(known, versions)
        reached = known | {one.version.digest or "" for top in made for one in top.every()}
        derived = [
            Derived(one.folder, _relation(one, digests))
            for one in merged
            if one.adapter in reached or one.base in reached
        ]
        more = {one.digest for one in merged if one.adapter in reached or one.base in reached} - reached
        if not more:
            return made, derived
        known |= more


def _relation(one: _Merged, digests: Collection[str]) -> str:
    if one.adapter in digests:
        return "merged from it and its base"
    return "an adapter merged into it" if one.base in digests else "merged from what was made of it"


# ── as plain data ──────────────────────────────────────────────────────────────────────────────────────────────────


def plain(lineage: Lineage) -> dict[str, Any]:
    """A lineage as JSON holds it; addresses without user names and passwords."""
    up = [_plain_ancestor(one, lineage) for one in lineage.origin.line()]
    record = {
        **up[0],
        "tokenizer": lineage.tokenizer,
        "ancestors": up[1:],
        "verdicts": [
            {"result": one.result, "gate": one.gate, "against": one.against, "digest": one.digest}
            for one in lineage.verdicts
        ],
        "decisions": [
            {key: getattr(one, key) for key in ("kind", "actor", "time", "reason", "override", "digest")}
            for one in lineage.decisions
        ],
        "made": [plain_descendant(one) for one in lineage.made],
        "derived": [{"folder": str(one.folder), "relation": one.relation} for one in lineage.derived],
    }
    clean: dict[str, Any] = json.loads(without_credentials(json.dumps(record)))
    return clean


def _plain_ancestor(one: Ancestor, lineage: Lineage) -> dict[str, Any]:
    run = lineage.runs.get(one.version.reference)
    manifest = one.manifest
    identity = dict(manifest.identity) if manifest else {}
    folder = lineage.datasets.get(one.dataset or "")
    return {
        "reference": one.version.reference,
        "digest": one.version.digest,
        "kind": one.version.kind,
        "aliases": list(one.version.aliases),
        "created": one.version.created.isoformat(),
        "run": {
            "digest": one.version.tags.get("llmops.run"),
            "folder": run.folder if run else None,
            "folder_is_there": bool(run and run.folder and in_folder(Path(run.folder))),
            "mlflow": one.version.run_id,
            "recorded": manifest is not None,
        },
        "recipe": dict(manifest.recipe) if manifest else None,
        "data": {
            "digest": one.dataset,
            "is_there": folder is not None,
            "rows": dict(load_version(folder).rows) if folder else None,
            "sources": list(manifest.lineage.get("sources", ())) if manifest else [],
            "validation": (manifest.recipe.get("data") or {}).get("validation") if manifest else None,
        },
        "base": {
            "reference": one.base_reference,
            "revision": one.base_revision,
            "digest": one.base_digest,
            "version": one.base.version.reference if one.base else one.seen,
        },
        "template": identity.get("template"),
        "tokens": identity.get("tokens"),
        "environment": dict(manifest.environment) if manifest else None,
        "world": identity.get("world"),
        "threads": identity.get("threads"),
        "kernels": identity.get("kernels"),
        "code_version": manifest.lineage.get("code_version") if manifest else None,
        "licences": None if (chain := of_version(one.version, manifest)) is None else to_plain(chain),
    }


def plain_descendant(one: Descendant) -> dict[str, Any]:
    """A version that was made, with what was made of it in turn."""
    return {
        "reference": one.version.reference,
        "digest": one.version.digest,
        "relation": one.relation,
        "made": [plain_descendant(child) for child in one.made],
    }
