"""The bill of materials of a model in CycloneDX 1.6: files, base, data sets and packages, with digests and licences.

The library writes everything but the model card, for which it has no classes; that part is laid into its JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from llmops.files import canonical_json, file_digest, is_model_file, write_text
from llmops.records import RunManifest
from llmops.registry import card_sections as sections
from llmops.registry.card import CardFacts
from llmops.registry.connection import without_credentials
from llmops.registry.footprint import energy, operations
from llmops.registry.licence_chain import Licensed, joint
from llmops.registry.task import task_of

NAME = "bom.cdx.json"
"""Beside the card; like it, no part of the artifact's digest."""
_HUB_ID = re.compile(r"(?:hub:)?(?P<space>[\w.-]+)/(?P<name>[\w.-]+)(?:@.*)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_PACKAGE = {"python", "machine", "device"}
_MODEL = "model"


def write_bom(artifact: Path, facts: CardFacts) -> Path:
    """Write `bom.cdx.json` into the folder `artifact`."""
    path = artifact / NAME
    write_text(path, bom(facts, files_of(artifact)))
    return path


def files_of(artifact: Path) -> dict[str, str]:
    """The digests of an artifact's own files, by name."""
    return {
        path.relative_to(artifact).as_posix(): file_digest(path)
        for path in sorted(artifact.rglob("*"))
        if is_model_file(path)
    }


def bom(facts: CardFacts, files: Mapping[str, str]) -> str:
    """The document as JSON, keys in CycloneDX's order.

    Args:
        files: sha256 of each file of the artifact, by name; may be empty where the bytes are not here.
    """
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType, Pedigree
    from cyclonedx.output.json import JsonV1Dot6

    manifest = facts.manifest
    model = _component(
        _MODEL,
        ComponentType.MACHINE_LEARNING_MODEL,
        manifest.name,
        number=(facts.reference or manifest.artifact_digest[:12]).rpartition("/")[2],
        digest=manifest.artifact_digest,
        licence=joint(facts.licences),
        components=[
            _component(f"file:{name}", ComponentType.FILE, name, digest=digest) for name, digest in files.items()
        ],
        properties={
            "llmops:run": manifest.digest,
            "llmops:digest": "sha256 over the sorted names and sha256 of the files named below",
            "llmops:dataset": str(manifest.lineage.get("dataset") or ""),
            "llmops:device": manifest.environment.get("device", ""),
        },
    )
    base = _base(facts)
    model.pedigree = Pedigree(ancestors=[base])
    data = list(_data(facts))
    packages = [
        _component(f"pkg:{name}", ComponentType.LIBRARY, name, number=number, purl=("pypi", None, name, number))
        for name, number in {**manifest.environment, "llmops": str(manifest.lineage.get("code_version") or "")}.items()
        if name not in _NO_PACKAGE and number
    ]
    made = Bom(
        components=[base, *data, *packages],
        serial_number=uuid5(NAMESPACE_URL, f"llmops:{facts.reference or ''}:{manifest.artifact_digest}"),
    )
    made.metadata.component = model
    made.metadata.timestamp = datetime.now(UTC)
    made.metadata.tools.components.add(
        Component(name="llmops", version=version("llmops"), type=ComponentType.APPLICATION)
    )
    made.register_dependency(model, [base, *data, *packages])
    for one in (base, *data, *packages):
        made.register_dependency(one)
    record = json.loads(JsonV1Dot6(made).output_as_string())
    record["metadata"]["component"]["modelCard"] = _model_card(facts, [str(one.bom_ref.value) for one in data])
    for one in record["components"]:
        if one["type"] == "data":
            one["data"] = [{"type": "dataset", "name": one["name"]}]
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _base(facts: CardFacts) -> Any:
    from cyclonedx.model.component import ComponentType

    manifest = facts.manifest
    name = without_credentials(str(manifest.recipe.get("base") or "unnamed"))
    revision = manifest.identity.get("base_revision")
    hub = _HUB_ID.fullmatch(name) if not name.startswith(("models:", "builtin:", "/", ".")) else None
    return _component(
        "base",
        ComponentType.MACHINE_LEARNING_MODEL,
        name.partition("@")[0] if hub else name,
        number=revision,
        digest=manifest.lineage.get("base_digest") or manifest.identity.get("base"),
        licence=joint([one for one in facts.licences or () if one.role == "base" or one.through]),
        purl=("huggingface", hub["space"], hub["name"].partition("@")[0], revision) if hub else None,
    )


def _data(facts: CardFacts) -> Iterable[Any]:
    """Each source once: what several entries of a recipe read is one."""
    from cyclonedx.model.component import ComponentType

    manifest = facts.manifest
    used = manifest.lineage.get("sources") or [{"source": one} for one in sections.sources(manifest)]
    stated: dict[str, list[Licensed]] = {}
    for one in facts.licences or ():
        if one.role == "data" and one.through is None:
            stated.setdefault(one.name, []).append(one)
    digests: dict[str, str] = {}
    for use in used:
        digests.setdefault(without_credentials(str(use["source"])), str(use.get("digest") or ""))
    for place, (name, digest) in enumerate(digests.items()):
        hub = _HUB_ID.fullmatch(name) if name.startswith("hub:") else None
        revision = digest.removeprefix("commit ").partition(" ")[0] or None
        yield _component(
            f"data:{place}",
            ComponentType.DATA,
            name,
            number=None if _SHA256.fullmatch(digest) else revision,
            digest=digest,
            licence=joint(stated.get(name)),
            purl=("huggingface", f"datasets/{hub['space']}", hub["name"], revision) if hub else None,
        )


def _component(
    ref: str,
    kind: Any,
    name: str,
    *,
    number: str | None = None,
    digest: str | None = None,
    licence: str | None = None,
    purl: tuple[str, str | None, str, str | None] | None = None,
    components: Iterable[Any] = (),
    properties: Mapping[str, str] | None = None,
) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import LicenseExpression
    from packageurl import PackageURL

    is_digest = digest is not None and _SHA256.fullmatch(digest)
    return Component(
        bom_ref=ref,
        type=kind,
        name=name or "unnamed",
        version=number,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=str(digest))] if is_digest else [],
        licenses=[LicenseExpression(licence)] if licence else [],
        purl=PackageURL(purl[0], purl[1], purl[2], purl[3]) if purl else None,
        components=components,
        properties=[Property(name=key, value=value) for key, value in (properties or {}).items() if value],
    )


def _model_card(facts: CardFacts, data: list[str]) -> dict[str, Any]:
    manifest = facts.manifest
    own = sections.of_model(manifest, facts.reports)
    counted, used = operations(manifest), energy(manifest)
    properties = {
        "llmops:training_tokens": str(manifest.tokens),
        "llmops:training_flops": f"{counted.flops:.4g} ({counted.formula})" if counted else "",
        "llmops:training_kwh": f"{used.kwh:.4g} (assumes {'; '.join(used.assumptions)})" if used else "",
        "llmops:verdict": f"{facts.verdicts[-1].result} by {facts.verdicts[-1].gate}" if facts.verdicts else "",
    }
    worse = [
        f"{one.suite} {one.group}: {one.score.metric} {one.score.value:.4g} ({sections.interval(one.score)})"
        for one in sections.worse_slices(own)
    ]
    considerations: dict[str, Any] = {
        "useCases": [f"inputs like those of {', '.join(sections.sources(manifest)) or 'its training data'}"]
    }
    if worse:
        considerations["technicalLimitations"] = list(dict.fromkeys(worse))
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": task_of(manifest),
            "datasets": [{"ref": ref} for ref in data],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(manifest, facts))},
        "considerations": considerations,
        "properties": [{"name": name, "value": value} for name, value in properties.items() if value],
    }


def _metrics(manifest: RunManifest, facts: CardFacts) -> Iterable[dict[str, Any]]:
    """Scores of all items and of slices, each entry once, as the schema asks."""
    seen = set()
    for report in sections.of_model(manifest, facts.reports):
        for group, scores in {"": report.scores, **report.slices}.items():
            for score in scores:
                entry: dict[str, Any] = {"type": f"{report.suite}.{score.metric}", "value": f"{score.value:.6g}"}
                if group:
                    entry["slice"] = group
                bounds = {"lowerBound": score.low, "upperBound": score.high}
                if known := {key: f"{value:.6g}" for key, value in bounds.items() if value is not None}:
                    entry["confidenceInterval"] = known
                key = canonical_json(entry)
                if key not in seen:
                    seen.add(key)
                    yield entry
