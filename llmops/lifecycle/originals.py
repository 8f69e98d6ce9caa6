"""What is to be quantized: found by its reference, with what is known of it; an adapter is merged first."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmops.eval.loading import base_of
from llmops.events import Listener
from llmops.files import digest_of
from llmops.quantize.run import check_plain
from llmops.records import ModelSource, RunManifest
from llmops.registry.folder import cached_digest, check_answers
from llmops.registry.licence_chain import Chain, chain_of
from llmops.registry.reference import registry_name, resolve
from llmops.registry.run_records import manifest_of, read_manifest
from llmops.registry.store import find
from llmops.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Original:
    """What is to be quantized, as far as it is known before any weights are read.

    Attributes:
        source: the model as the user named it.
        base: what it is an adapter of; None for a whole model.
        manifest: of the run that made it; None where nobody knows.
        licences: what it rests on.
    """

    name: str
    source: ModelSource
    base: ModelSource | None
    manifest: RunManifest | None
    licences: Chain
    config: Mapping[str, Any]


def look(reference: str, *, workspace: Workspace, listener: Listener) -> Original:
    """The model that a reference names, its base where it is an adapter, and what is on record about it.

    Raises:
        InputError: it is quantized already, or a reward model, which no engine would serve.
    """

    def making(done: int, total: int, what: str) -> None:
        listener.advance(what, done, total)

    source = resolve(reference, workspace=workspace, on_progress=making, say=listener.say)
    check_answers(source.folder, named=reference)
    named = base_of(source.folder)
    base = resolve(named, workspace=workspace, on_progress=making, say=listener.say) if named else None
    config = json.loads(((base or source).folder / "config.json").read_text(encoding="utf-8"))
    check_plain(config, named=reference)
    parts = registry_name(reference)
    manifest = read_manifest(source.folder / "manifest.json")
    if parts is not None:
        # An alias moves; what was made of what does not.
        version = find(parts[0], source.revision, workspace=workspace)
        source = replace(source, reference=version.reference)
        manifest = manifest_of(version, workspace) or manifest
    if manifest and base and manifest.lineage.get("base_digest") == base.digest:
        base = replace(base, reference=str(manifest.lineage["base"]))  # the adapter itself knows it by its folder
    name = parts[0] if parts else manifest.name if manifest else _name_of(reference)
    return Original(name, source, base, manifest, chain_of(source, [], workspace=workspace), config)


def whole_of(original: Original, workspace: Workspace, listener: Listener) -> ModelSource:
    """The model itself, or an adapter merged into its base; merged once for all schemes."""
    if original.base is None:
        return original.source
    from transformers.utils.logging import disable_progress_bar

    from llmops.finetune.merge import merge

    disable_progress_bar()  # the caller shows progress in its own way
    key = digest_of([original.source.digest, original.base.digest])
    out = workspace.cache / "merged" / key[:16]
    if not (out / "config.json").is_file():
        listener.say(f"{original.source.reference} is an adapter: it is merged into {original.base.reference} first")
        out.parent.mkdir(parents=True, exist_ok=True)
        merge(original.source.folder, base=original.base.folder, out=out, on_progress=listener.say)
    return ModelSource(f"{original.source.reference}, merged", out, None, cached_digest(out, workspace.cache))


def _name_of(reference: str) -> str:
    """What a model without a name of ours is called: the last part of its hub id, or its folder."""
    last = Path(reference.partition("@")[0].removeprefix("builtin:")).expanduser().absolute().name
    return re.sub(r"[^A-Za-z0-9._-]", "-", last).lstrip("._-") or "model"
