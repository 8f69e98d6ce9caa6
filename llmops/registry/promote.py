"""Who may decide what about a model version, and the aliases that follow from the decisions.

The chain of decisions is the truth; MLflow's aliases are drawn from it. A decision is written first and the aliases
after it, so that a command killed in between is finished by the next one.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmops.database import open_database
from llmops.errors import EnvironmentFault, InputError
from llmops.files import folder_digest
from llmops.records import ALIASES, Verdict
from llmops.registry import store
from llmops.registry.connection import connect, mlflow_faults
from llmops.registry.decisions import Decision, Kind, append, chain, check_chain
from llmops.registry.licence_chain import Chain, check_known, joint, of_version, unknown
from llmops.registry.run_records import manifest_of
from llmops.registry.store import ModelVersion
from llmops.registry.verdicts import attach, verdicts_of
from llmops.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Engine

_LAST_SEEN = "llmops.decisions"
_DRAW_AGAIN_S = (0.1, 0.5)


@dataclass(frozen=True, slots=True)
class Standing:
    """What follows from a chain of decisions.

    Attributes:
        champion, previous: versions; None where there is none.
        approved: the approval of each version that has one and was neither rejected nor gone back from since.
        authors: who trained each version, as its registration says.
    """

    champion: int | None = None
    previous: int | None = None
    approved: dict[int, Decision] = field(default_factory=dict)
    authors: dict[int, str] = field(default_factory=dict)

    @property
    def challenger(self) -> int | None:
        """The newest approved version that was not promoted yet."""
        waiting = [version for version in self.approved if self.champion is None or version > self.champion]
        return max(waiting, default=None)

    def aliases(self) -> dict[str, int]:
        named = {"champion": self.champion, "previous": self.previous, "challenger": self.challenger}
        return {alias: version for alias, version in named.items() if version is not None}


def standing(links: Sequence[Decision]) -> Standing:
    """Champion, predecessor and approvals after all decisions."""
    champion = previous = None
    approved: dict[int, Decision] = {}
    authors: dict[int, str] = {}
    for link in links:
        match link.kind:
            case "register":
                authors.setdefault(link.version, link.actor)
            case "approve":
                approved[link.version] = link
            case "reject":
                approved.pop(link.version, None)
            case "promote":
                champion, previous = link.version, champion
            case "rollback":
                # What was gone back from needs a new approval before it may return.
                if champion is not None:
                    approved.pop(champion, None)
                champion, previous = link.version, None
    return Standing(champion, previous, approved, authors)


def aliases_of(name: str, *, workspace: Workspace) -> dict[str, int]:
    """Versions of a model by the aliases that its decisions give them, whatever MLflow says.

    Raises:
        EnvironmentFault: the decisions were tampered with.
    """
    links = chain(open_database(workspace), name)
    check_chain(links)
    return standing(links).aliases()


# What may be decided: pure, from the chain and the facts of a version


def may_approve(
    version: ModelVersion, links: Sequence[Decision], verdicts: Sequence[Verdict], actor: str, *, override: str
) -> Verdict | None:
    """The verdict an approval by `actor` rests on; None for an override without a PASS.

    Raises:
        InputError: it is the author's own, nothing passed a gate, or the reason of an override is missing.
    """
    author = standing(links).authors.get(version.version)
    if author is None:
        raise InputError(
            f"{version.reference} was not registered by llmops, so nobody knows who trained it",
            fix="train it with `llmops finetune`, which registers it",
        )
    if actor == author:
        raise InputError(
            f"{version.reference} was trained by {author}, who cannot approve it too",
            fix="have another person approve it: llmops models approve … --as NAME",
        )
    newest = verdicts[-1] if verdicts else None
    if override:
        return newest if newest is not None and newest.result == "PASS" else None
    if newest is None:
        raise InputError(
            f"{version.reference} was never judged by a gate",
            fix=f"run `llmops eval {version.reference} SUITE --gate GATE`, or approve with --override REASON",
        )
    if newest.result != "PASS":
        raise InputError(
            f"the newest verdict on {version.reference} is {newest.result}, by {newest.gate}",
            fix="judge it again with more items, train a better one, or approve with --override REASON",
        )
    return newest


def may_promote(version: ModelVersion, links: Sequence[Decision], licences: Chain | None) -> Decision:
    """The approval a promotion rests on.

    Args:
        licences: what the version rests on; None where nothing was recorded.

    Raises:
        InputError: there is none for these bytes, the version is champion already, or a licence is unknown and the
            approval did not override that.
    """
    now = standing(links)
    if now.champion == version.version:
        raise InputError(f"{version.reference} is champion already", fix="there is nothing to do")
    approval = now.approved.get(version.version)
    if approval is None or approval.artifact != version.digest:
        raise InputError(
            f"{version.reference} is not approved",
            fix=f"have another person approve it: llmops models approve {version.reference} --as NAME",
        )
    if not approval.override:
        check_known(version, licences)
    return approval


# The commands


def approve(version: ModelVersion, actor: str, *, override: str = "", workspace: Workspace) -> Decision:
    """Record that `actor` approves a version; `override` is the reason for doing so without a PASS, or
    with licences that are not known."""
    engine, links = _begin(version.name, workspace)
    verdict = may_approve(version, links, verdicts_of(engine, _digest_of(version)), actor, override=override)
    return _decide(
        engine,
        links,
        "approve",
        version,
        actor,
        workspace=workspace,
        reason=override,
        verdict=verdict.digest if verdict else "",
        override=bool(override),
    )


def reject(version: ModelVersion, actor: str, *, reason: str, workspace: Workspace) -> Decision:
    """Record that a version must not be promoted; an approval it had is gone.

    Raises:
        InputError: it is champion, which only a rollback ends.
    """
    engine, links = _begin(version.name, workspace)
    if standing(links).champion == version.version:
        raise InputError(
            f"{version.reference} is champion", fix=f"roll back first: llmops models rollback {version.name}"
        )
    return _decide(engine, links, "reject", version, actor, workspace=workspace, reason=reason)


def mark_erased(version: ModelVersion, actor: str, *, reason: str, workspace: Workspace) -> Decision:
    """Record that somebody whose data a version was trained on has been erased since. It moves no alias: whether the
    version goes on being served is for people to decide, who see it with `llmops models show`."""
    engine, links = _begin(version.name, workspace)
    return _decide(engine, links, "erase", version, actor, workspace=workspace, reason=reason)


def promote(
    version: ModelVersion,
    actor: str,
    *,
    workspace: Workspace,
    written: Callable[[Decision], None] = lambda decision: None,
) -> Decision:
    """Make a version champion: its approval is asked for, its bytes are read and checked, the alias moves.

    Args:
        written: is told of the decision before the aliases move.
    """
    engine, links = _begin(version.name, workspace)
    licences = of_version(version, manifest_of(version, workspace))
    approval = may_promote(version, links, licences)
    check_bytes(version, workspace=workspace)
    return _decide(
        engine,
        links,
        "promote",
        version,
        actor,
        workspace=workspace,
        # A registry's tags can be changed by anybody; what they said of the licences now stays in the chain.
        reason=f"licences {joint(licences) or 'not known for ' + '; '.join(unknown(licences))}",
        verdict=approval.verdict,
        override=approval.override,
        written=written,
    )


def rollback(name: str, actor: str, *, reason: str = "", workspace: Workspace) -> Decision:
    """Make the champion's predecessor champion again.

    Raises:
        InputError: there is none.
    """
    engine, links = _begin(name, workspace)
    now = standing(links)
    if now.previous is None:
        raise InputError(
            f"{name} has no previous champion to go back to",
            fix=f"promote another approved version: llmops models promote models:/{name}/N",
        )
    version = store.find(name, str(now.previous), workspace=workspace)
    check_bytes(version, workspace=workspace)
    return _decide(engine, links, "rollback", version, actor, workspace=workspace, reason=reason)


def registered(version: ModelVersion, verdict: Verdict | None, *, workspace: Workspace) -> None:
    """Record who trained a version, once, and keep the verdict it was trained with."""
    engine, links = _begin(version.name, workspace)
    if verdict is not None:
        attach(engine, verdict)
    if not any(link.kind == "register" and link.version == version.version for link in links):
        append(
            engine,
            links,
            "register",
            model=version.name,
            version=version.version,
            artifact=_digest_of(version),
            actor=this_person(),
        )


def verify(name: str, *, workspace: Workspace) -> list[str]:
    """What was wrong with a model's aliases, each put back; bytes of aliased versions are read and checked.

    Raises:
        EnvironmentFault: the chain of decisions was tampered with, or bytes changed.
    """
    _, links = _begin(name, workspace)
    moved = project(name, links, workspace=workspace)
    for number in sorted(set(standing(links).aliases().values())):
        check_bytes(store.find(name, str(number), workspace=workspace), workspace=workspace)
    return moved


def project(name: str, links: Sequence[Decision], *, workspace: Workspace) -> list[str]:
    """Draw the aliases from the decisions; answers what had to be changed, in words.

    Of two who draw at one moment MLflow may refuse one: it looks for a row, and then inserts it. That one draws again.
    """
    changed: list[str] = []
    for wait_s in _DRAW_AGAIN_S:
        with suppress(EnvironmentFault):
            _draw(name, links, changed, workspace)
            return changed
        time.sleep(wait_s)
    _draw(name, links, changed, workspace)
    return changed


def _draw(name: str, links: Sequence[Decision], changed: list[str], workspace: Workspace) -> None:
    wanted = standing(links).aliases()
    client = connect(workspace.tracking_uri)
    with mlflow_faults(workspace.tracking_uri):
        found = {alias: int(one) for alias, one in client.get_registered_model(name).aliases.items()}
        for alias in ALIASES:
            if found.get(alias) == wanted.get(alias):
                continue
            if alias in wanted:
                client.set_registered_model_alias(name, alias, str(wanted[alias]))
            else:
                client.delete_registered_model_alias(name, alias)
            changed.append(
                f"{alias} was at {_named(name, found.get(alias))}, by the decisions it is at "
                f"{_named(name, wanted.get(alias))}"
            )
        if links:
            client.set_registered_model_tag(name, _LAST_SEEN, f"{links[-1].sequence}:{links[-1].digest}")


def _last_seen(name: str, workspace: Workspace) -> tuple[int, str]:
    """Number and digest of the last decision that aliases were drawn from, as MLflow remembers it."""
    client = connect(workspace.tracking_uri)
    with mlflow_faults(workspace.tracking_uri):
        number, _, digest = client.get_registered_model(name).tags.get(_LAST_SEEN, "0:").partition(":")
    return int(number), digest


def check_bytes(version: ModelVersion, *, workspace: Workspace) -> None:
    """Read a version's bytes, all of them, and compare their digest with the registered one.

    Raises:
        EnvironmentFault: they changed.
    """
    folder = store.fetch(version, workspace=workspace)
    if folder_digest(folder) != version.digest:
        raise EnvironmentFault(
            f"the bytes of {version.reference} in {folder} are not those that were registered",
            fix="move that folder away and run the recipe again, which registers the same artifact",
        )


def _decide(
    engine: Engine,
    links: Sequence[Decision],
    kind: Kind,
    version: ModelVersion,
    actor: str,
    *,
    workspace: Workspace,
    reason: str = "",
    verdict: str = "",
    override: bool = False,
    written: Callable[[Decision], None] = lambda decision: None,
) -> Decision:
    """Write the decision, then draw the aliases from it."""
    made = append(
        engine,
        links,
        kind,
        model=version.name,
        version=version.version,
        artifact=_digest_of(version),
        actor=actor,
        reason=reason,
        verdict=verdict,
        override=override,
    )
    written(made)
    drawn = [*links, made]
    project(version.name, drawn, workspace=workspace)
    # Who decided next may have drawn already, before us: the last to draw must know the last decision.
    while len(now := chain(engine, version.name)) > len(drawn):
        drawn = now
        project(version.name, drawn, workspace=workspace)
    return made


def this_person() -> str:
    """The operating system's user."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # containers without an entry for the user
        return "unknown"


def _begin(name: str, workspace: Workspace) -> tuple[Engine, list[Decision]]:
    engine = open_database(workspace)
    # A chain cannot show that its last links are gone, so MLflow remembers one. It is asked first: a decision made
    # by another person between the two questions then only makes the chain longer.
    number, digest = _last_seen(name, workspace)
    links = chain(engine, name)
    check_chain(links)
    if number and (number > len(links) or links[number - 1].digest != digest):
        raise EnvironmentFault(
            f"the decisions on {name} were tampered with: number {number} was seen before and is gone",
            fix="restore the database from a backup made before; nothing is decided until then",
        )
    return engine, links


def _digest_of(version: ModelVersion) -> str:
    if version.digest is None:
        raise InputError(
            f"{version.reference} has no digest: another tool registered it",
            fix="train it with `llmops finetune`, which registers it with its digest",
        )
    return version.digest


def _named(name: str, version: int | None) -> str:
    return "no version" if version is None else f"models:/{name}/{version}"
