"""What differs between two registered versions: recipe, rows, base, environment, scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.data.versions import Difference, diff, load_version
from llmops.lifecycle.evidence import own_reports, reports_of
from llmops.lifecycle.lineage import every_version, rows_folder
from llmops.records import Report, RunManifest, Score
from llmops.registry.lineage import ancestry
from llmops.registry.run_records import manifest_of
from llmops.registry.store import ModelVersion
from llmops.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Change:
    """A value that differs; None where one side has none."""

    key: str
    first: Any
    second: Any


@dataclass(frozen=True, slots=True)
class ScorePair:
    """One metric of both; `same_items` is None where a report is gone and it cannot be told."""

    suite: str
    metric: str
    first: Score | None
    second: Score | None
    same_items: bool | None


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """Everything in which two versions differ.

    Attributes:
        rows: which rows came and went; None where both saw the same ones, or `rows_gone` are deleted.
        rows_gone: digests of dataset versions that are no longer there.
        unrecorded: versions whose run left no manifest that is still there: for these only tags are compared.
    """

    first: ModelVersion
    second: ModelVersion
    recipe: Sequence[Change]
    data: Sequence[Change]
    rows: Difference | None
    rows_gone: Sequence[str]
    base: Sequence[Change]
    environment: Sequence[Change]
    scores: Sequence[ScorePair]
    unrecorded: Sequence[str]


def version_diff(first: ModelVersion, second: ModelVersion, *, workspace: Workspace) -> VersionDiff:
    """What changed from the first version to the second."""
    every = every_version(workspace)
    one, two = (ancestry(version, every, lambda each: manifest_of(each, workspace)) for version in (first, second))
    datasets = [digest for digest in (one.dataset, two.dataset) if digest]
    there = {digest: folder for digest in datasets if (folder := rows_folder(workspace, digest))}
    rows = None
    if one.dataset != two.dataset and one.dataset in there and two.dataset in there:
        rows = diff(load_version(there[one.dataset]), load_version(there[two.dataset]))
    reports = [own_reports(reports_of(side.version, side.manifest, workspace), side.version) for side in (one, two)]
    return VersionDiff(
        first=first,
        second=second,
        recipe=list(changes(_recipe(one.manifest), _recipe(two.manifest))),
        data=list(changes(_data(one.dataset, one.manifest), _data(two.dataset, two.manifest))),
        rows=rows,
        rows_gone=sorted(set(datasets) - there.keys()) if one.dataset != two.dataset else [],
        base=list(
            changes(
                {"reference": one.base_reference, "revision": one.base_revision, "digest": one.base_digest},
                {"reference": two.base_reference, "revision": two.base_revision, "digest": two.base_digest},
            )
        ),
        environment=list(changes(_environment(one.manifest), _environment(two.manifest))),
        scores=score_pairs(*reports),
        unrecorded=[side.version.reference for side in (one, two) if side.manifest is None],
    )


def changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Change]:
    """Every leaf in which two nested values differ, by its dotted key, in alphabetical order."""
    one, two = dict(leaves(first)), dict(leaves(second))
    for key in sorted({*one, *two}):
        if one.get(key) != two.get(key):
            yield Change(key, one.get(key), two.get(key))


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and lists with their keys, as `data.train[0].source`; empty ones are leaves."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple) and value:
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{prefix}[{place}]")
    elif prefix:
        yield prefix, value


def score_pairs(first: Sequence[Report], second: Sequence[Report]) -> list[ScorePair]:
    """The scores of two versions side by side, also those that only one of them has."""
    found: dict[tuple[str, str], list[tuple[Score, str] | None]] = {}
    for side, reports in enumerate((first, second)):
        for report in reports:
            for score in report.scores:
                found.setdefault((report.suite, score.metric), [None, None])[side] = (score, report.suite_digest)
    pairs = []
    for (suite, metric), (one, two) in sorted(found.items()):
        same = None
        if one and two and one[1] and two[1]:
            same = one[1] == two[1]
        pairs.append(ScorePair(suite, metric, one[0] if one else None, two[0] if two else None, same))
    return pairs


def _recipe(manifest: RunManifest | None) -> Mapping[str, Any]:
    return manifest.recipe if manifest else {}


def _data(digest: str | None, manifest: RunManifest | None) -> dict[str, Any]:
    sources = manifest.lineage.get("sources", ()) if manifest else ()
    return {"digest": digest, "sources": {str(one["source"]): one["digest"] for one in sources}}


def _environment(manifest: RunManifest | None) -> dict[str, Any]:
    if manifest is None:
        return {}
    identity = {key: manifest.identity.get(key) for key in ("world", "threads", "kernels", "template")}
    return {**identity, "packages": manifest.environment, "llmops": manifest.lineage.get("code_version")}
