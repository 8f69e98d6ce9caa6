"""What is on record about a registered version beside its tags: its run, and the reports of its scores."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from llmops.errors import InputError
from llmops.eval.measured import read, summary
from llmops.records import Report, RunManifest, Score
from llmops.registry.run_records import RunRecord, runs_of
from llmops.registry.store import ModelVersion
from llmops.workspace import Workspace


def run_of(version: ModelVersion, workspace: Workspace) -> RunRecord | None:
    """The run a version is from, as far as it is recorded."""
    wanted = version.tags.get("llmops.run")
    return next((one for one in runs_of(workspace) if (one.digest, one.name) == (wanted, version.name)), None)


def reports_of(version: ModelVersion, manifest: RunManifest | None, workspace: Workspace) -> list[Report]:
    """One report a suite of a version, after that of its base where there is one on the same items.

    Those its own run made come first, then the newest that `llmops eval` left. Of suites whose reports are gone
    there is what the registry holds: values with their intervals, without slices.
    """
    if version.digest is None:
        return []
    run = run_of(version, workspace)
    places = ([Path(run.folder) / "report"] if run and run.folder else []) + [workspace.home / "reports"]
    base = None if manifest is None else manifest.lineage.get("base_digest")
    every = [report for place in places for report in _reports_on(place, {version.digest, base or version.digest})]
    found: list[Report] = []
    known: set[str] = set()
    for own in every:
        if own.model_digest != version.digest or own.suite in known:
            continue
        known.add(own.suite)
        beneath = [one for one in every if one.model_digest == base and one.suite_digest == own.suite_digest]
        found += [*beneath[:1], own]
    return found + [one for one in from_tags(version) if one.suite not in known]


def own_reports(reports: Sequence[Report], version: ModelVersion) -> list[Report]:
    """Those of the version itself, without those of its base."""
    return [one for one in reports if one.model_digest == version.digest]


def from_tags(version: ModelVersion) -> list[Report]:
    """The scores a version was registered with, as a report a suite; how many items it had is not known (0)."""
    suites: dict[str, list[Score]] = {}
    for name, value in sorted(version.scores.items()):
        suite, _, metric = name.rpartition(".")
        low, high = _interval(version.tags.get(f"interval.{name}", ""))
        suites.setdefault(suite, []).append(Score(metric, value, version.tags.get(f"signature.{name}", ""), low, high))
    return [
        Report(suite, version.reference, "", 0, tuple(scores), {}, model_digest=version.digest or "")
        for suite, scores in suites.items()
    ]


def _reports_on(folder: Path, artifacts: Collection[str]) -> Iterator[Report]:
    """The reports in a folder on one of these artifacts, the newest first.

    What is no report of this version of llmops is left out; what does not even name an artifact is not parsed.
    """
    files = [path for path in folder.glob("*.json") if not path.name.startswith(("verdict", "summary"))]
    for file in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        content = file.read_bytes()
        if not any(one.encode() in content for one in artifacts):
            continue
        try:
            yield summary(read(file))
        except InputError:
            continue


def _interval(written: str) -> tuple[float | None, float | None]:
    bounds = json.loads(written) if written else (None, None)
    return bounds[0], bounds[1]
