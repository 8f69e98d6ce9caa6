"""A rater is forgotten, and what was made of their ratings says so: exports on disk, and models trained on those."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.database import open_database
from llmops.feedback.erasing import check_erasable, erase_rater
from llmops.feedback.events import SERVICE, events, write_event
from llmops.feedback.items import Event
from llmops.feedback.tables import table
from llmops.feedback.writing import writing
from llmops.files import write_json
from llmops.lifecycle.exports import EXPORTED
from llmops.lifecycle.lineage import ancestors_of, every_version, made_from
from llmops.records import RunManifest
from llmops.registry.decisions import chain
from llmops.registry.promote import mark_erased
from llmops.registry.run_records import manifest_of
from llmops.registry.store import ModelVersion
from llmops.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Engine

MARK = "ERASED.json"
"""Beside the rows of an export: which raters in it were erased since."""
TOMBSTONED = "tombstoned"
"""The kind of event that says so of an export."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What came of it.

    Attributes:
        ratings: of theirs, which stay under the pseudonym or are read no more.
        exports: folders of datasets with ratings of theirs, those that are gone included.
        models: references of versions trained on such a dataset, or made from one that was.
    """

    rater: str
    ratings: int
    exports: tuple[str, ...]
    models: tuple[str, ...]


def erase(rater: str, *, drop: bool, actor: str, workspace: Workspace) -> Erasure:
    """Forget a person; nothing of their identity is left, and every export and model with their ratings is marked.

    Args:
        rater: a pseudonym, or the login of an account.
        drop: their ratings are read no more either.

    Raises:
        NotThere: there is no such rater.
    """
    engine = open_database(workspace)
    pseudonym = _pseudonym(engine, rater)
    with engine.connect() as connection:
        check_erasable(connection, pseudonym, drop=drop)
    exports = [one for one in events(engine, kind=EXPORTED) if pseudonym in one.detail["raters"]]
    models = list(_trained_on(exports, workspace)) if exports else []
    # Marked before anything is erased: where this ends half-way, it can be run again.
    for one in exports:
        _mark_export(engine, one, pseudonym, drop=drop, actor=actor)
    for version in models:
        _mark_model(engine, version, [_reason(pseudonym, drop=drop)], actor, workspace)
    done = erase_rater(engine, pseudonym, drop=drop, actor=actor)
    folders = tuple(dict.fromkeys(str(one.detail["folder"]) for one in exports))
    return Erasure(pseudonym, done.ratings, folders, tuple(one.reference for one in models))


def mark_new(version: ModelVersion, manifest: RunManifest, *, workspace: Workspace) -> tuple[str, ...]:
    """Mark a version that was trained on an export after raters in it were erased, or made from a version that is
    marked; their pseudonyms. Once for each, however often the version is registered."""
    engine = open_database(workspace)
    marks = list(events(engine, kind=TOMBSTONED))
    if not marks:
        return ()
    used = _files_used(manifest)
    read = {one.subject for one in events(engine, kind=EXPORTED) if used & set(one.detail["files"].values())}
    found = {mark.detail["rater"]: mark.detail["dropped"] for mark in marks if mark.subject in read}
    reasons = [_reason(rater, drop=dropped) for rater, dropped in found.items()]
    for ancestor in ancestors_of(version, workspace=workspace):
        reasons += _marked(engine, ancestor)
    _mark_model(engine, version, list(dict.fromkeys(reasons)), SERVICE, workspace)
    return tuple(dict.fromkeys(_rater(reason) for reason in reasons))


def _files_used(manifest: RunManifest) -> set[str]:
    """Digests of the files a run was trained on."""
    sources = manifest.lineage.get("sources", ())
    return {digest for source in sources for digest in (source["digest"], *source.get("files", ()))}


def _marked(engine: Engine, version: ModelVersion) -> list[str]:
    """Why a version is marked."""
    links = chain(engine, version.name)
    return [link.reason for link in links if (link.kind, link.version) == ("erase", version.version)]


def _mark_model(
    engine: Engine, version: ModelVersion, reasons: Sequence[str], actor: str, workspace: Workspace
) -> None:
    told = _marked(engine, version)
    for reason in reasons:
        if reason not in told:
            mark_erased(version, actor, reason=reason, workspace=workspace)


def _reason(rater: str, *, drop: bool) -> str:
    return f"rater {rater}: ratings {'dropped' if drop else 'kept under the pseudonym'}"


def _rater(reason: str) -> str:
    """Whom a `_reason` names."""
    return reason.removeprefix("rater ").partition(":")[0]


def _pseudonym(engine: Engine, name: str) -> str:
    from sqlalchemy import select

    people = table("people")
    with engine.connect() as connection:
        return connection.execute(select(people.c.rater).where(people.c.login == name)).scalar() or name


def _mark_export(engine: Engine, exported: Event, rater: str, *, drop: bool, actor: str) -> None:
    folder = Path(exported.detail["folder"])
    before = [one.detail for one in events(engine, kind=TOMBSTONED, subject=exported.subject)]
    if _holds(folder, exported.subject):
        raters = sorted({*(one["rater"] for one in before), rater})
        write_json(folder / MARK, {"export": exported.subject, "raters": raters})
    mark = {"rater": rater, "dropped": drop}
    if mark not in before:
        with writing(engine, campaign=exported.campaign or ()) as connection:
            write_event(
                connection, TOMBSTONED, exported.subject, at=time.time(), campaign=exported.campaign, actor=actor,
                detail=mark,
            )  # fmt: skip


def _holds(folder: Path, digest: str) -> bool:
    """Whether the export is still what is in its folder, and no later one."""
    about = folder / "export.json"
    return about.is_file() and json.loads(about.read_bytes())["digest"] == digest


def _trained_on(exports: Collection[Event], workspace: Workspace) -> Iterator[ModelVersion]:
    """Versions whose runs read a file of these exports, and what was made from them."""
    files = {digest for one in exports for digest in one.detail["files"].values()}
    digests = set()
    for version in every_version(workspace):
        manifest = manifest_of(version, workspace=workspace)
        if manifest is not None and files & _files_used(manifest):
            digests.add(version.digest or "")
            yield version
    yield from made_from(digests, workspace=workspace)
