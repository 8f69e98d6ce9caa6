"""The licences a model rests on: of its base, of all its base was made of, and of every source of its rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llmops.errors import InputError
from llmops.licences import OWN, of_folder
from llmops.records import ModelSource, RunManifest
from llmops.registry import store
from llmops.registry.connection import without_credentials
from llmops.registry.run_records import read_manifest
from llmops.registry.store import ModelVersion
from llmops.workspace import Workspace

TAG = "llmops.licences"


@dataclass(frozen=True, slots=True)
class Licensed:
    """Something a model was made of, and its licence.

    Attributes:
        name: the base or the source as the recipe names it.
        through: the version by which it came in; None for what the run itself took.
        licence: SPDX; None where nothing states it.
        stated: where it is stated.
    """

    role: Literal["base", "data", "teacher"]
    name: str
    licence: str | None
    stated: str
    through: str | None = None


Chain = Sequence[Licensed]
MERGED = "merge.json"
"""In a folder that `llmops merge` wrote: what it was made of."""


def chain_of(base: ModelSource, sources: Iterable[tuple[str, str | None]], *, workspace: Workspace) -> list[Licensed]:
    """The chain of a run.

    Args:
        sources: each as the recipe names it, with the licence stated there.
    """
    found = [*_of_base(base, workspace)]
    for source, stated in dict.fromkeys(sources):
        name = without_credentials(source)
        if stated is not None:
            found.append(Licensed("data", name, stated, "the recipe"))
        elif source.startswith("builtin:"):
            found.append(Licensed("data", name, OWN, "part of llmops"))
        else:
            found.append(Licensed("data", name, None, "nowhere"))
    return found


def of_teacher(name: str, source: ModelSource | None, stated: str | None, *, workspace: Workspace) -> list[Licensed]:
    """The chain of the answers of another model.

    Args:
        source: the model, where it is on this machine.
        stated: in the recipe; goes before everything.
    """
    plain = without_credentials(name)
    if stated is not None:
        return [Licensed("teacher", plain, stated, "the recipe")]
    if source is None:
        return [Licensed("teacher", plain, None, "nowhere")]
    return [
        replace(one, role="teacher") if (one.role, one.through) == ("base", None) else one
        for one in _of_base(source, workspace)
    ]


def of_version(version: ModelVersion, manifest: RunManifest | None = None) -> list[Licensed] | None:
    """The chain that a version was registered with, else that of its run; None where neither has one."""
    if TAG in version.tags:
        return from_plain(json.loads(version.tags[TAG]))
    if manifest is not None and "licences" in manifest.lineage:
        return from_plain(manifest.lineage["licences"])
    return None


def unknown(chain: Chain | None) -> list[str]:
    """What has no known licence, by name; of a version without a chain, or with an empty one, nothing is known."""
    if not chain:
        return ["its base and its data, of which no licence was recorded"]
    return [
        f"{one.role} {one.name}" + (f" (by {one.through})" if one.through else "") for one in chain if not one.licence
    ]


def joint(chain: Chain | None) -> str | None:
    """All licences of a chain as one SPDX expression; None where one is unknown. Each holds for the result."""
    if not chain or unknown(chain):
        return None
    each = sorted({str(one.licence) for one in chain})
    return " AND ".join(f"({one})" if len(each) > 1 and " OR " in one else one for one in each)


def check_known(version: ModelVersion, chain: Chain | None) -> None:
    """Raises InputError where a version rests on something without a known licence."""
    missing = unknown(chain)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"{version.reference} rests on unknown licences: {'; '.join(missing[:3])}{more}",
            fix="state `licence:` at the data source, or put the base's README.md or LICENSE into its folder, and run "
            "`llmops finetune` again (nothing is trained twice); or approve it again with --override REASON",
        )


def to_plain(chain: Chain) -> list[dict[str, Any]]:
    return [asdict(one) for one in chain]


def from_plain(written: Iterable[Mapping[str, Any]]) -> list[Licensed]:
    return [Licensed(**one) for one in written]


def _of_base(base: ModelSource, workspace: Workspace) -> list[Licensed]:
    name = without_credentials(base.reference)
    if base.reference.startswith("builtin:"):
        return [Licensed("base", name, OWN, "part of llmops")]
    if inherited := _inherited(base, workspace):
        through, chain = inherited
        return [Licensed(one.role, one.name, one.licence, one.stated, one.through or through) for one in chain]
    licence, stated = of_folder(base.folder)
    return [Licensed("base", name, licence, stated)]


def _inherited(base: ModelSource, workspace: Workspace) -> tuple[str, list[Licensed]] | None:
    """The chain of a base that was made here: of the version the recipe names, of the version whose adapter was merged
    into the folder, or of the run beside whose folder."""
    if base.reference.startswith("models:/") and base.revision is not None:
        name = base.reference.removeprefix("models:/").partition("@")[0].partition("/")[0]
        version = store.find(name, base.revision, workspace=workspace)
        manifest = read_manifest(base.folder / "manifest.json")
        return version.reference, of_version(version, manifest) or [
            Licensed("base", version.reference, None, "nowhere")
        ]
    if adapter := _merged_adapter(base.folder):
        for name in store.names(workspace=workspace):
            for version in store.versions(name, workspace=workspace):
                if version.digest == adapter and (known := of_version(version)):
                    return version.reference, known
    manifest = read_manifest(base.folder / "manifest.json")
    if manifest is None or manifest.artifact_digest != base.digest:
        return None
    chain = manifest.lineage.get("licences")
    return manifest.name, from_plain(chain) if chain else [Licensed("base", manifest.name, None, "nowhere")]


def _merged_adapter(folder: Path) -> str | None:
    """The digest of the adapter that `llmops merge` put into a folder; its chain names the base it was merged into."""
    try:
        return str(json.loads((folder / MERGED).read_bytes())["merged_from"]["adapter_digest"])
    except FileNotFoundError:
        return None
