"""What is written down of a quantized model: the manifest of how it was made, and its version in the registry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version as version_of
from typing import Any

from llmops.errors import EnvironmentFault, InputError, LlmopsError
from llmops.hardware import Machine, device_of
from llmops.lifecycle.erasure import mark_new
from llmops.lifecycle.originals import Original
from llmops.quantize.run import Quantized, Request, packages, weights_bytes
from llmops.quantize.schemes import Forecast
from llmops.records import ModelSource, RunManifest, Verdict
from llmops.registry.derived import FROM_TAG, SCHEME_TAG, VERSION_TAG, beside_tag
from llmops.registry.licence_chain import TAG, to_plain
from llmops.registry.promote import registered
from llmops.registry.store import ModelVersion, register
from llmops.workspace import Workspace


def manifest_for(
    called: str,
    request: Request,
    told: ModelSource,
    whole: ModelSource,
    original: Original,
    found: Quantized,
    expected: Forecast,
    machine: Machine,
) -> RunManifest:
    """What was made of what; lineage, card and licences read it as they read that of a run."""
    template = original.manifest.lineage.get("template") if original.manifest else None
    tuned = None
    if request.source is not None:
        tuned = {"rows": found.rows, "tokens": found.tokens, "from": request.source.what}
    recipe = {
        "name": called,
        "base": told.reference,
        "method": {"kind": "quantize", "scheme": request.scheme, "iters": request.iters, "samples": request.samples},
        # What the original was trained on is what this was trained on.
        "data": (original.manifest.recipe.get("data") if original.manifest else None) or {"train": []},
        "seed": request.seed,
    }
    device = device_of(machine)
    return RunManifest(
        name=called,
        digest=request.digest,
        identity={**request.identity, "recipe": recipe},
        recipe=recipe,
        kind="quantized",
        artifact_digest=found.digest,
        steps=request.iters,
        tokens=found.tokens,
        trained_tokens=0,
        final_loss=0.0,
        validation_loss=None,
        tokens_per_s=found.tokens / found.seconds,
        predicted={"peak_bytes": expected.memory, "disk_bytes": expected.disk},
        measured={
            "peak_bytes": found.peak_bytes,
            "disk_bytes": found.disk_bytes,
            "original_bytes": weights_bytes(whole.folder),
            "seconds": found.seconds,
        },
        environment={
            **packages(),
            "device": device.name if device.kind == "cuda" else f"CPU, {machine.threads} threads",
        },
        lineage={
            "base": told.reference,
            "base_digest": told.digest,
            "base_revision": told.revision,
            "whole_digest": whole.digest,
            "adapter_digest": original.source.digest if original.base is not None else None,
            "scheme": request.scheme,
            "calibration": tuned,
            "code_version": version_of("llmops"),
            "licences": to_plain(original.licences),
            **({"template": template} if template else {}),
        },
    )


def enter(
    made: ModelSource,
    manifest: RunManifest,
    reports: Sequence[Any],
    verdict: Verdict,
    original: Original,
    told: ModelSource,
    scheme: str,
    *,
    beside: bool,
    workspace: Workspace,
) -> tuple[ModelVersion | None, LlmopsError | None]:
    """The version with its verdict; a registry that is away loses nothing, the same command later registers it."""
    facts = {
        TAG: json.dumps(to_plain(original.licences)),
        SCHEME_TAG: scheme,
        FROM_TAG: told.digest,
        VERSION_TAG: told.reference,
        **({beside_tag(original.source.digest): scheme} if beside else {}),
    }
    try:
        version = register(manifest.name, made.folder, manifest, reports, workspace=workspace, facts=facts)
        registered(version, verdict, workspace=workspace)
        mark_new(version, manifest, workspace=workspace)
        return version, None
    except InputError:
        raise
    except LlmopsError as error:
        missing = EnvironmentFault(
            f"{manifest.name} is made, but not registered: {error.problem}",
            fix=f"{error.fix}; then run the same command again: it registers {made.folder}",
        )
        return None, missing
