"""Whether what was trained may be promoted: the gate's verdict, against the version that the gate names."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from llmops.errors import InputError
from llmops.eval.gates import Gate
from llmops.eval.items import suite_digest
from llmops.eval.measured import Measured, read
from llmops.eval.verdict import judge
from llmops.events import Listener
from llmops.files import digest_of, write_json
from llmops.lifecycle.measure import Suites, measure
from llmops.records import Report, Verdict
from llmops.registry import store
from llmops.registry.store import ModelVersion
from llmops.registry.verdicts import plain, verdict_from
from llmops.workspace import Workspace


def verdict_of(
    gate: Gate,
    *,
    named: str,
    model: str,
    suites: Suites,
    reports: Sequence[Report],
    folder: Path,
    workspace: Workspace,
    listener: Listener,
) -> Verdict:
    """What `gate` says of the model of `reports`; the other version answers the same items now.

    Asked again with nothing changed, the verdict that was written is given.

    Args:
        named: the gate's file.
        model: the name under which the other version is registered.
        reports: the model's own, with their files.
        folder: gets the other version's reports, and `verdict.json`.
    """
    other = other_version(gate, model, {report.model_digest for report in reports}, workspace, listener)
    asked = digest_of(
        {
            "gate": gate.model_dump(mode="json"),
            "reports": [report.digest for report in reports],
            "suites": [suite_digest(suite, items) for suite, items in suites],
            "against": None if other is None else other.digest or other.reference,
        }
    )
    known = folder / f"verdict-{asked[:12]}.json"
    if known.is_file():
        return verdict_from(json.loads(known.read_text(encoding="utf-8")))
    others: dict[str, Measured] = {}
    if other is not None:
        wanted = {rule.suite for rule in gate.rules}
        listener.say(f"gate: {other.reference} answers {', '.join(sorted(wanted))}, to be compared with")
        asked_of = [(suite, items) for suite, items in suites if suite.name in wanted]
        others = measure(other.reference, asked_of, folder=folder, workspace=workspace, listener=listener)
    own = {report.suite: read(report.file) for report in reports if report.file is not None}
    verdict = judge(gate, own, others, name=named, against=None if other is None else other.reference)
    for file in (folder / "verdict.json", known):
        write_json(file, plain(verdict))
    return verdict


def other_version(
    gate: Gate, model: str, artifacts: Collection[str], workspace: Workspace, listener: Listener
) -> ModelVersion | None:
    """The version of `model` the gate compares with; None where there is none yet, or it is one of `artifacts`."""
    if gate.against is None:
        return None
    try:
        found = store.find(model, gate.against, workspace=workspace)
    except InputError:  # no such model, version or alias; a registry that cannot be reached is no InputError
        listener.say(f"gate: {model} has no version `{gate.against}` yet: only the rules with a fixed bound count")
        return None
    if found.digest in artifacts:
        listener.say(f"gate: {found.reference} is this very artifact, so there is nothing to compare it with")
        return None
    return found
