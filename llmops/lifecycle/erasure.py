"""A rater is forgotten, and what was made of their ratings says so: exports on disk, and models trained on those."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.database import open_database
from llmops.feedback.erasing import erase_rater
from llmops.feedback.events import SERVICE, events, write_event
from llmops.feedback.items import Event
from llmops.feedback.tables import table
from llmops.feedback.writing import writing
from llmops.files import write_json
from llmops.lifecycle.exports import EXPORTED
from llmops.lifecycle.lineage import every_version
from llmops.records import RunManifest
from llmops.registry.decisions import chain
from llmops.registry.lineage import descendants
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
    # Found before anything is erased: what fails here can be run again.
    exports = [one for one in events(engine, kind=EXPORTED) if pseudonym in one.detail["raters"]]
    models = list(_trained_on(exports, workspace)) if exports else []
    done = erase_rater(engine, pseudonym, drop=drop, actor=actor)
    for one in exports:
        _mark_export(engine, one, pseudonym, drop=drop, actor=actor)
    for version in models:
        mark_erased(version, actor, reason=_reason(pseudonym, drop=drop), workspace=workspace)
    folders = tuple(dict.fromkeys(str(one.detail["folder"]) for one in exports))
    return Erasure(pseudonym, done.ratings, folders, tuple(one.reference for one in models))


def mark_new(version: ModelVersion, manifest: RunManifest, *, workspace: Workspace) -> tuple[str, ...]:
    """Mark a version that was trained on an export after raters in it were erased; their pseudonyms. Once for each,
    however often the version is registered."""
    engine = open_database(workspace)
    used = {source["digest"] for source in manifest.lineage.get("sources", ())}
    found: dict[str, str] = {}
    for exported in events(engine, kind=EXPORTED):
        if used & set(exported.detail["files"].values()):
            for mark in events(engine, kind=TOMBSTONED, subject=exported.subject):
                found[mark.detail["rater"]] = _reason(mark.detail["rater"], drop=mark.detail["dropped"])
    told = {
        link.reason for link in chain(engine, version.name) if (link.kind, link.version) == ("erase", version.version)
    }
    for reason in found.values():
        if reason not in told:
            mark_erased(version, SERVICE, reason=reason, workspace=workspace)
    return tuple(found)


def _reason(rater: str, *, drop: bool) -> str:
    return f"rater {rater}: ratings {'dropped' if drop else 'kept under the pseudonym'}"


def _pseudonym(engine: Engine, name: str) -> str:
    from sqlalchemy import select

    people = table("people")
    with engine.connect() as connection:
        return connection.execute(select(people.c.rater).where(people.c.login == name)).scalar() or name


def _mark_export(engine: Engine, exported: Event, rater: str, *, drop: bool, actor: str) -> None:
    folder = Path(exported.detail["folder"])
    if (folder / "export.json").is_file():
        known = [one.detail["rater"] for one in events(engine, kind=TOMBSTONED, subject=exported.subject)]
        write_json(folder / MARK, {"export": exported.subject, "raters": sorted({*known, rater})})
    with writing(engine, campaign=exported.campaign or ()) as connection:
        write_event(
            connection, TOMBSTONED, exported.subject, at=time.time(), campaign=exported.campaign, actor=actor,
            detail={"rater": rater, "dropped": drop},
        )  # fmt: skip


def _trained_on(exports: Collection[Event], workspace: Workspace) -> Iterator[ModelVersion]:
    """Versions whose runs read a file of these exports, and what was made from them."""
    files = {digest for one in exports for digest in one.detail["files"].values()}
    versions = every_version(workspace)
    digests = set()
    for version in versions:
        manifest = manifest_of(version, workspace=workspace)
        sources = () if manifest is None else manifest.lineage.get("sources", ())
        if any(source["digest"] in files for source in sources):
            digests.add(version.digest)
            yield version
    made = descendants({one for one in digests if one}, versions)
    yield from (one.version for root in made for one in root.every())
