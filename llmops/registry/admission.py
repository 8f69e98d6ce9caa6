"""Whether an engine may serve a model: its bytes, a PASS and an approval are asked for before anything is loaded.

With `require: promoted` a version of the registry is served only where

- its bytes are those that were registered (all of them are read),
- the newest verdict on them is PASS,
- and a person's approval of just these bytes stands: not rejected, not gone back from since.

An approval by override is a person's decision against a missing PASS; it counts, and is said aloud.

A quantized version speaks for an original. The two keys are asked of the ORIGINAL: it is what people approved, and
what an alias names. Of the quantized version itself its own verdict is asked, which is the one of its gate against
that original, and that nobody rejected it. So no approval is needed twice, and no quantization is served unjudged.

With `require: none` nothing is asked but whole bytes in safetensors, which is said aloud.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from llmops.database import open_database
from llmops.errors import EnvironmentFault, InputError
from llmops.files import folder_digest
from llmops.records import ModelSource
from llmops.registry import store
from llmops.registry.decisions import Decision, chain, check_chain
from llmops.registry.folder import cached_digest, check_answers
from llmops.registry.promote import aliases_of, check_bytes, standing
from llmops.registry.reference import registry_name, resolve
from llmops.registry.store import ModelVersion
from llmops.registry.verdicts import verdicts_of
from llmops.workspace import Workspace

Require = Literal["promoted", "none"]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A model that may be served.

    Attributes:
        reference: as the user wrote it.
        version: what it is called in the ledger: `models:/name/3`, or the folder.
        digest: of the bytes that are served, an adapter's own without its base.
        base, base_digest: an adapter's base; None for a whole model.
        original: the version that was asked for, of which a quantized one was made; None for a folder.
        said: what users must hear before it is served, one sentence each.
    """

    reference: str
    version: str
    digest: str
    folder: Path
    base: Path | None = None
    base_digest: str | None = None
    original: str | None = None
    said: tuple[str, ...] = ()


def required(reference: str, require: Require | None) -> Require:
    """What is asked where nobody said: everything of the registry's versions, nothing of folders."""
    return require or ("promoted" if registry_name(reference) else "none")


def admit(
    reference: str, *, quantization: str | None = None, require: Require | None = None, workspace: Workspace
) -> Admitted:
    """The model an engine serves for `reference`, once it may; its bytes are read and checked.

    Raises:
        InputError: there is no such model, or it was not judged, approved or quantized as asked.
        EnvironmentFault: its bytes changed, or the decisions were tampered with.
    """
    if registry_name(reference) is None:
        return _unregistered(reference, quantization, required(reference, require), workspace)
    chosen = _choose(reference, quantization, required(reference, require), workspace)
    for version in filter(None, (chosen.version, chosen.quantized)):
        if version.digest is not None:
            check_bytes(version, workspace=workspace)
    served, base = chosen.version, None
    if chosen.quantized is not None and chosen.beside:
        base = store.fetch(chosen.quantized, workspace=workspace)
    elif chosen.quantized is not None:
        served = chosen.quantized
    folder = store.fetch(served, workspace=workspace)
    return _with_base(
        Admitted(
            reference,
            served.reference,
            served.digest or folder_digest(folder),
            folder,
            base=base,
            original=chosen.version.reference,
            said=chosen.said,
        ),
        workspace,
    )


def may_serve(
    reference: str, *, quantization: str | None = None, require: Require | None = None, workspace: Workspace
) -> str:
    """The version that `admit` would serve, without reading its bytes: its original where it is quantized.

    Raises:
        InputError, EnvironmentFault: as `admit`.
    """
    if registry_name(reference) is None:
        return reference
    return _choose(reference, quantization, required(reference, require), workspace).version.reference


@dataclass(frozen=True, slots=True)
class _Choice:
    """Versions that may be served by the records; `beside`: the quantized one is the base that the other stands on."""

    version: ModelVersion
    quantized: ModelVersion | None
    beside: bool
    said: tuple[str, ...]


def _choose(reference: str, quantization: str | None, asked: Require, workspace: Workspace) -> _Choice:
    parts = registry_name(reference)
    assert parts is not None
    version = _named(*parts, workspace=workspace)
    if asked == "promoted":
        said = check_promoted(version, workspace=workspace)
    else:
        said = [f"{version.reference} is served without asking for a PASS and an approval (require: none)"]
    if quantization is None:
        return _Choice(version, None, False, tuple(said))
    quantized, beside = _quantized(version, quantization, workspace)
    if asked == "promoted":
        check_judged(quantized, original=version, workspace=workspace)
    return _Choice(version, quantized, beside, tuple(said))


def check_promoted(version: ModelVersion, *, workspace: Workspace) -> list[str]:
    """What must be said of a version that may be served.

    Raises:
        InputError: no PASS or no approval is on record for these bytes.
        EnvironmentFault: the decisions were tampered with.
    """
    engine = open_database(workspace)
    links = chain(engine, version.name)
    check_chain(links)
    approval = _approval(version, links)
    if approval.override:
        return [f"{version.reference} is served by override of {approval.actor}: {approval.reason}"]
    newest = verdicts_of(engine, approval.artifact)[-1:]
    if not newest or newest[0].result != "PASS":
        raise InputError(
            f"the newest verdict on {version.reference} is {newest[0].result}, by {newest[0].gate}"
            if newest
            else f"{version.reference} was never judged by a gate",
            fix=f"judge it with `llmops eval {version.reference} SUITE --gate GATE`, or serve another version",
        )
    return []


def _approval(version: ModelVersion, links: list[Decision]) -> Decision:
    """The approval that stands for these very bytes."""
    approval = standing(links).approved.get(version.version)
    if approval is None or version.digest is None or approval.artifact != version.digest:
        raise InputError(
            f"{version.reference} is not approved, and only approved versions are served",
            fix=f"have another person approve it: llmops models approve {version.reference} --as NAME; or write "
            "`require: none` for the engine",
        )
    return approval


def check_judged(version: ModelVersion, *, original: ModelVersion, workspace: Workspace) -> None:
    """Raises InputError where a quantized version has no PASS against its original, or was rejected."""
    engine = open_database(workspace)
    links = chain(engine, version.name)
    check_chain(links)
    decided = [link for link in links if link.version == version.version and link.kind in {"approve", "reject"}]
    if decided and decided[-1].kind == "reject":
        raise InputError(
            f"{version.reference}, quantized from {original.reference}, was rejected by {decided[-1].actor}: "
            f"{decided[-1].reason}",
            fix="quantize it by another scheme, or leave `quantization` out",
        )
    judged = verdicts_of(engine, version.digest) if version.digest else []
    # A gate that compares it with nothing, or with something else, says nothing of what quantization did.
    newest = [verdict for verdict in judged if _names(verdict.against, original, workspace)][-1:]
    if not newest or newest[0].result != "PASS":
        state = f"has the verdict {newest[0].result}" if newest else "was never judged against it"
        raise InputError(
            f"{version.reference}, quantized from {original.reference}, {state}",
            fix="judge it with `llmops quantize`, which compares it with its original, or leave `quantization` out",
        )


def _names(reference: str | None, version: ModelVersion, workspace: Workspace) -> bool:
    """A verdict's `against` is this version, or another name of the same bytes."""
    if reference == version.reference:
        return True
    parts = registry_name(reference) if reference else None
    if parts is None:
        return False
    try:
        return store.find(*parts, workspace=workspace).digest == version.digest
    except InputError:  # it is no longer in the registry
        return False


def aliased(reference: str, *, workspace: Workspace) -> int | None:
    """The version that the decisions' alias of a reference names now; None where decisions do not say.

    Cheap, and without MLflow: it is asked every few seconds.

    Raises:
        EnvironmentFault: the decisions were tampered with, or cannot be read.
    """
    parts = registry_name(reference)
    if parts is None or parts[1] is None:
        return None
    return aliases_of(parts[0], workspace=workspace).get(parts[1])


def _named(name: str, which: str | None, *, workspace: Workspace) -> ModelVersion:
    """The version; an alias that decisions give is theirs, whatever MLflow says."""
    number = aliases_of(name, workspace=workspace).get(which or "")
    return store.find(name, which if number is None else str(number), workspace=workspace)


def _quantized(version: ModelVersion, scheme: str, workspace: Workspace) -> tuple[ModelVersion, bool]:
    """The version made from this one by a scheme, and whether it is a base that this one stands beside."""
    from llmops.registry.derived import made_beside, made_from

    digest = version.digest or ""
    if (whole := made_from(digest, scheme, workspace=workspace)) is not None:
        return whole, False
    if (base := made_beside(digest, scheme, workspace=workspace)) is not None:
        return base, True
    raise InputError(
        f"nothing was made from {version.reference} by {scheme}",
        fix=f"run `llmops quantize {version.reference} --scheme {scheme}`",
    )


def _unregistered(reference: str, quantization: str | None, asked: Require, workspace: Workspace) -> Admitted:
    if asked == "promoted":
        raise InputError(
            f"{reference} is no version of the registry, so no PASS and no approval of it can be on record",
            fix="name a version such as models:/name@champion, or write `require: none`",
        )
    if quantization is not None:
        raise InputError(
            f"{reference} is no version of the registry, where a model quantized from it would be found",
            fix="give the folder that `llmops quantize` left as `model`, and leave `quantization` out",
        )
    source: ModelSource = resolve(reference, workspace=workspace)
    said = f"{reference} is served unchecked: no PASS and no approval is asked for (require: none)"
    name = str(source.folder) if Path(reference).expanduser().exists() else reference
    return _with_base(Admitted(reference, name, source.digest, source.folder, said=(said,)), workspace)


def _with_base(found: Admitted, workspace: Workspace) -> Admitted:
    """With the base of an adapter, which must be the one it was trained on. Raises InputError for a reward model."""
    check_answers(found.folder, named=found.reference)
    if not (found.folder / "adapter_config.json").is_file():
        return replace(found, base=None)
    if found.base is not None:
        return replace(found, base_digest=cached_digest(found.base, workspace.cache))
    config = json.loads((found.folder / "adapter_config.json").read_text(encoding="utf-8"))
    lineage, recipe = _manifest(found.folder)
    named, recorded = config.get("base_model_name_or_path"), recipe.get("base")
    revision = f"@{config['revision']}" if config.get("revision") else ""
    here = bool(named) and (Path(named) / "config.json").is_file()
    reference = str(named) if here else str(recorded or f"{named or ''}{revision}")
    if not reference:
        raise InputError(
            f"the adapter {found.version} does not say which base it belongs to",
            fix="write the base's folder as base_model_name_or_path into its adapter_config.json",
        )
    try:
        source = resolve(reference, workspace=workspace)
    except InputError as error:
        raise InputError(f"the base of {found.version} is not to be had: {error.problem}", fix=error.fix) from error
    if lineage.get("base_digest") not in (None, source.digest):
        raise EnvironmentFault(
            f"{found.version} was trained on a base with digest {lineage['base_digest'][:12]}, "
            f"{source.folder} has {source.digest[:12]}",
            fix="put the base it was trained on back in its place",
        )
    return replace(found, base=source.folder, base_digest=source.digest)


def _manifest(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Lineage and recipe of the run that left an artifact; empty where it has no manifest."""
    try:
        written = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}, {}
    return written.get("lineage") or {}, written.get("recipe") or {}
