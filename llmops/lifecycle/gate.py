"""Whether what was trained may be promoted: the gate's verdict, against the version that the gate names."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmops.database import open_database
from llmops.errors import EnvironmentFault, InputError
from llmops.eval.compare import compare
from llmops.eval.gates import COMPARING, ContaminatedAtMost, Gate, ServedEquals
from llmops.eval.items import suite_digest
from llmops.eval.measured import Measured, read
from llmops.eval.pages.comparison_page import comparison_page, file_name
from llmops.eval.verdict import judge
from llmops.events import Listener
from llmops.files import digest_of, write_json, write_text
from llmops.lifecycle.contamination import contaminated_shares
from llmops.lifecycle.measure import Suites, loaded, measure
from llmops.lifecycle.serving_parity import served_parity
from llmops.records import ALIASES, ModelSource, Report, Verdict
from llmops.registry import store
from llmops.registry.folder import check_answers
from llmops.registry.promote import aliases_of
from llmops.registry.reference import registry_name
from llmops.registry.store import ModelVersion
from llmops.registry.verdicts import attach, plain, verdict_from
from llmops.workspace import Workspace

NOTHING = "none"
"""Given as what to compare with, it leaves out the rules that compare."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a gate judges.

    Attributes:
        name: under which its versions are registered; None for what has none.
        served: the artifact.
        trained: what training left, where the artifact is what became of it (merged, quantized); else the same.
        suites: that it answered.
    """

    name: str | None
    served: ModelSource
    trained: ModelSource
    suites: Suites


def verdict_of(
    gate: Gate,
    judged: Judged,
    *,
    named: str,
    reports: Sequence[Report],
    folder: Path,
    workspace: Workspace,
    listener: Listener,
) -> Verdict:
    """What `gate` says of the model of `reports`; the other version answers the same items now.

    Asked again with nothing changed, the verdict that was written is given.

    Args:
        named: the gate's file.
        reports: the model's own, with their files.
        folder: gets the other version's reports, the pages that compare it, and `verdict.json`.
    """
    artifacts = {report.model_digest for report in reports}
    other = None if judged.name is None else other_version(gate, judged.name, artifacts, workspace, listener)
    asked = digest_of(
        {
            "gate": gate.model_dump(mode="json"),
            "reports": [report.digest for report in reports],
            "suites": [suite_digest(suite, items) for suite, items in judged.suites],
            "trained": judged.trained.digest,
            "against": None if other is None else other.digest or other.reference,
        }
    )
    known = folder / f"verdict-{asked[:12]}.json"
    if known.is_file():
        return _written(known)
    others: dict[str, Measured] = {}
    if other is not None:
        wanted = {rule.suite for rule in gate.rules}
        listener.say(f"gate: {other.reference} answers {', '.join(sorted(wanted))}, to be compared with")
        asked_of = [(suite, items) for suite, items in judged.suites if suite.name in wanted]
        others = measure(
            loaded(other.reference, workspace, listener),
            asked_of,
            folder=folder,
            listener=listener,
            judged=workspace.cache / "judged",
        )
    own = {report.suite: read(report.file) for report in reports if report.file is not None}
    against = None if other is None else other.reference
    verdict = verdict_on(
        gate, judged, own, others, named=named, against=against, workspace=workspace, listener=listener
    )
    for file in (folder / "verdict.json", known):
        write_json(file, plain(verdict))
    for suite in own.keys() & others.keys():
        found = compare(others[suite], own[suite])
        write_text(folder / file_name(found.first, found.second), comparison_page(found, verdict))
    return verdict


def _written(file: Path) -> Verdict:
    try:
        return verdict_from(json.loads(file.read_text(encoding="utf-8")))
    except (InputError, ValueError) as error:
        problem = error.problem if isinstance(error, InputError) else "this is no JSON"
        raise InputError(f"{file}: {problem}", fix="delete the file, and the same command judges again") from error


def verdict_on(
    gate: Gate,
    judged: Judged,
    reports: Mapping[str, Measured],
    others: Mapping[str, Measured],
    *,
    named: str,
    against: str | None,
    workspace: Workspace,
    listener: Listener,
) -> Verdict:
    """The gate's verdict; what its rules ask beside the reports is measured now.

    Args:
        reports, others: by the suite's name, of the model and of the one it is compared with.
    """
    apart = {rule.suite for rule in gate.rules if isinstance(rule, ServedEquals)}
    held = {rule.suite for rule in gate.rules if isinstance(rule, ContaminatedAtMost)}
    if apart:
        check_answers(judged.served.folder, named=judged.served.reference)
    parities = {
        suite: served_parity(
            reports[suite], trained=judged.trained, served=judged.served, workspace=workspace, listener=listener
        )
        for suite in sorted(apart)
    }
    contaminated = contaminated_shares(
        judged.served, [suite for suite, _ in judged.suites if suite.name in held], workspace, listener
    )
    return judge(gate, reports, others, name=named, against=against, parities=parities, contaminated=contaminated)


def kept(verdict: Verdict, reference: str, *, workspace: Workspace) -> bool:
    """Keep the verdict beside the version that `reference` names, where it names one of the registry."""
    if registry_name(reference) is None:
        return False
    attach(open_database(workspace), verdict)
    return True


def other_version(
    gate: Gate, model: str, artifacts: Collection[str], workspace: Workspace, listener: Listener
) -> ModelVersion | None:
    """The version of `model` the gate compares with; None where there is none yet, or it is one of `artifacts`.

    Raises:
        EnvironmentFault: the registry cannot be reached; or its alias was set on this artifact without a decision,
            which would spare it every comparison.
    """
    if gate.against is None:
        return None
    decided = aliases_of(model, workspace=workspace).get(gate.against)
    try:
        found = store.find(model, str(decided or gate.against), workspace=workspace)
    except InputError:  # no such model, version or alias; a registry that cannot be reached is no InputError
        listener.say(f"gate: {model} has no version `{gate.against}` yet: only the rules with a fixed bound count")
        return None
    if found.digest not in artifacts:
        return found
    if decided is None and gate.against in ALIASES:
        raise EnvironmentFault(
            f"{gate.against} of {model} is this very artifact, and nobody decided that",
            fix=f"run `llmops models verify {model}`, which puts its aliases back",
        )
    listener.say(f"gate: {found.reference} is this very artifact, so there is nothing to compare it with")
    return None


def compared_with(
    gate: Gate, model: ModelSource, given: str | None, workspace: Workspace, listener: Listener
) -> str | None:
    """What `llmops eval --gate` compares `model` with: a reference, or a report's file; None for nothing.

    Args:
        given: as the user says; None takes the version that the gate names, `none` leaves out the rules that compare.

    Raises:
        InputError: there are such rules, and what the gate names is of no model that is registered.
    """
    if given is not None:
        return None if given == NOTHING else given
    if gate.against is None or not any(isinstance(rule, COMPARING) for rule in gate.rules):
        return None
    registered = registry_name(model.reference)
    if registered is None:
        raise InputError(
            f"the gate compares with `{gate.against}`, and {model.reference} is no name in the registry that has one",
            fix=f"say with what: --against MODEL-OR-REPORT, or --against {NOTHING} to leave those rules out",
        )
    other = other_version(gate, registered[0], {model.digest}, workspace, listener)
    return None if other is None else other.reference
