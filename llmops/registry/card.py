"""The model card beside an artifact: what it is, what made it, how it scored, and how to make it again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llmops.files import write_text
from llmops.records import Report, RunManifest, Verdict
from llmops.registry import card_sections as sections
from llmops.registry.card_sections import listed, sources
from llmops.registry.connection import without_credentials
from llmops.registry.decisions import Decision
from llmops.registry.licence_chain import Chain, joint
from llmops.registry.markdown import code, fenced, table, text
from llmops.registry.task import scores, task_of

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Names the hub takes for licences (huggingface.co/docs/hub/repositories-licenses) that are an SPDX id or a
# `LicenseRef-` in small letters; any other is `other` with a name.
_HUB_LICENCES = frozenset({
    "afl-3.0", "apache-2.0", "artistic-2.0", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2",
    "gemma", "isc", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl",
    "ncsa", "ofl-1.1", "osl-3.0", "postgresql", "unlicense", "zlib",
})  # fmt: skip
_RELATION = {"adapter": "adapter", "full": "finetune", "merged": "merge", "quantized": "quantized"}


def write_card(artifact: Path, facts: CardFacts) -> Path:
    """Write `README.md` into the folder `artifact`; it is no part of the artifact's digest."""
    path = artifact / "README.md"
    write_text(path, card(facts))
    return path


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything a card is made of.

    Attributes:
        reports: the model's, each perhaps after that of its base on the same items.
        licences: what it rests on; None where nothing was recorded.
        verdicts, decisions: the oldest first.
        reference: the registered version; None for an artifact that is none (yet).
    """

    manifest: RunManifest
    reports: Sequence[Report] = ()
    licences: Chain | None = None
    verdicts: Sequence[Verdict] = ()
    decisions: Sequence[Decision] = ()
    reference: str | None = None


def card(facts: CardFacts) -> str:
    """The card as Markdown, with Hugging Face's metadata in front."""
    manifest = facts.manifest
    metadata = yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{metadata}---\n",
        f"# {text(manifest.name)}\n",
        f"{_what(facts)}\n",
        *sections.intended_use(manifest, facts.reports),
        *sections.evaluation(manifest, facts.reports),
        *sections.limitations(manifest, facts.reports),
        *sections.data(manifest),
        *sections.licences(facts.licences),
        "## Training\n",
        table(("", "value"), _facts(manifest)),
        *sections.footprint(manifest),
        *sections.judgement(facts.verdicts, facts.decisions),
        "## Make it again\n",
        *_again(facts),
    ]
    return "\n".join(parts)


def _metadata(facts: CardFacts) -> dict[str, Any]:
    manifest = facts.manifest
    base, revision = _base(manifest)
    metadata: dict[str, Any] = {
        "library_name": "peft" if manifest.kind == "adapter" else "transformers",
        "pipeline_tag": task_of(manifest),
        **_licence(facts.licences),
        "tags": _tags(manifest),
    }
    if base.startswith("builtin:"):
        metadata["language"] = "en"  # all that the embedded bases have read
    # The hub rejects a card whose base or data set is none of its own.
    if _HUB_ID.fullmatch(base):
        metadata["base_model"] = base
        metadata["base_model_relation"] = _RELATION[manifest.kind]
        if revision:
            metadata["base_model_revision"] = revision
    hub = [source.removeprefix("hub:") for source in sources(manifest) if source.startswith("hub:")]
    datasets = [name for name in dict.fromkeys(hub) if _HUB_ID.fullmatch(name)]
    if datasets:
        metadata["datasets"] = datasets
    results = [_result(report) for report in sections.of_model(manifest, facts.reports)]
    if results:
        metadata["model-index"] = [{"name": manifest.name or "unnamed", "results": results}]
    return metadata


def _licence(chain: Chain | None) -> dict[str, str]:
    """As the hub spells it: a name of its list in small letters, else `other` with the expression as its name."""
    whole = joint(chain)
    if whole is None:
        return {"license": "unknown"}
    name = whole.lower().removeprefix("licenseref-")
    return {"license": name} if name in _HUB_LICENCES else {"license": "other", "license_name": whole}


def _result(report: Report) -> dict[str, Any]:
    """A suite's scores for `model-index`; the interval is among a metric's arguments."""
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": report.suite or "unnamed", "name": report.suite or "unnamed"},
        "metrics": [
            {
                "type": score.metric,
                "value": score.value,
                "name": score.metric,
                "args": {"low": score.low, "high": score.high, "confidence": 0.95, "signature": score.signature},
            }
            for score in report.scores
        ],
    }


def _tags(manifest: RunManifest) -> list[str]:
    tags = ["llmops", str((manifest.recipe.get("method") or {}).get("kind", "sft"))]
    adapter = manifest.recipe.get("adapter") or {}
    if adapter.get("kind") == "lora":
        variant = adapter.get("variant", "plain")
        tags.append("lora" if variant == "plain" else str(variant))
    return tags


def _base(manifest: RunManifest) -> tuple[str, str | None]:
    base, _, written = str(manifest.recipe.get("base", "")).partition("@")
    if base.startswith("models:"):
        return without_credentials(str(manifest.recipe["base"])), None
    return without_credentials(base), manifest.identity.get("base_revision") or written or None


def _what(facts: CardFacts) -> str:
    manifest = facts.manifest
    base, _ = _base(manifest)
    how = {
        "adapter": "A reward model, which gives answers a number: a LoRA adapter for"
        if scores(manifest)
        else "A LoRA adapter for",
        "full": "A reward model, which gives answers a number, fine-tuned from"
        if scores(manifest)
        else "A model fine-tuned from",
        "merged": "A LoRA adapter merged into",
        "quantized": "A quantized model from",
    }[manifest.kind]
    which = f" This is {code(facts.reference)}." if facts.reference else ""
    by_us = f", trained by llmops on {listed(sources(manifest))}" if manifest.kind != "quantized" else ""
    return f"{how} {code(base)}{by_us}.{which}"


def _facts(manifest: RunManifest) -> Iterator[tuple[str, str]]:
    base, revision = _base(manifest)
    recipe = manifest.recipe
    yield "base", code(base) + (f" at {code(revision)}" if revision else "")
    if base_digest := manifest.identity.get("base"):
        yield "base digest", code(base_digest)
    yield "data", listed(sources(manifest))
    if dataset := manifest.identity.get("dataset"):
        yield "data digest", code(dataset)
    if (method := (recipe.get("method") or {}).get("kind")) not in (None, "sft"):
        yield "method", text(method)
    adapter = recipe.get("adapter") or {}
    if adapter.get("kind") == "lora":
        yield "adapter", f"{text(adapter.get('variant', 'plain'))} LoRA, rank {text(adapter.get('rank'))}"
    if manifest.kind == "quantized":
        yield "scheme", text((recipe.get("method") or {}).get("scheme"))
        yield "tuning", f"{manifest.steps:,} steps of each layer on {manifest.tokens:,} tokens"
    else:
        yield "updates", f"{manifest.steps:,}"
        yield "tokens", f"{manifest.tokens:,}, of which {manifest.trained_tokens:,} with loss"
        yield "loss at the end", f"{manifest.final_loss:.4f} {manifest.loss_unit}"
    if manifest.validation_loss is not None:
        yield "validation loss", f"{manifest.validation_loss:.4f} {manifest.loss_unit}"
    for name, value in manifest.validation_measures.items():
        yield f"validation {name.replace('_', ' ')}", f"{value:.4f}"
    yield "seed", text(recipe.get("seed", 0))
    yield "speed", f"{manifest.tokens_per_s:,.0f} tokens/s"
    if seconds := manifest.measured.get("seconds"):
        yield "time", f"{seconds:,.0f} s"
    if peak := manifest.measured.get("peak_bytes"):
        yield "peak memory", f"{peak / 2**30:.2f} GiB"
    yield "run digest", code(manifest.digest)
    yield "artifact digest", code(manifest.artifact_digest)


def _again(facts: CardFacts) -> Iterator[str]:
    manifest = facts.manifest
    quantized = manifest.kind == "quantized"
    yield (
        "Run\n"
        if quantized
        else "Save the recipe below as `recipe.yaml`, in a folder from which its paths are right, and run\n"
    )
    yield fenced(_quantize_command(manifest) if quantized else _command(manifest), "sh")
    yield "The same bytes come out on the same machine with the same versions:\n"
    yield table(("package", "version"), manifest.environment.items())
    if not quantized:
        yield fenced(yaml.safe_dump(_recipe(facts), sort_keys=False, allow_unicode=True), "yaml")


def _quantize_command(manifest: RunManifest) -> str:
    how = manifest.recipe.get("method") or {}
    base = without_credentials(str(manifest.recipe.get("base", "")))
    tuned = f"--iters {how['iters']} --samples {how['samples']}" if how.get("iters") else "--fast"
    return f"llmops quantize {base} --scheme {how.get('scheme')} {tuned} --seed {manifest.recipe.get('seed', 0)}\n"


def _command(manifest: RunManifest) -> str:
    world = int(manifest.identity.get("world", 1))
    return "llmops finetune recipe.yaml" + (f" --gpus {world}" if world > 1 else "") + "\n"


def _recipe(facts: CardFacts) -> Any:
    """The recipe as plain data, without user names and passwords in addresses, with the licences it stated."""
    recipe = json.loads(without_credentials(json.dumps(facts.manifest.recipe, default=str)))
    stated = {
        one.name: one.licence
        for one in facts.licences or ()
        if (one.role, one.stated, one.through) == ("data", "the recipe", None)
    }
    section = recipe.get("data") or {}
    for rows in (section.get("train"), section.get("validation")):
        for one in rows if isinstance(rows, list) else ():
            if one.get("source") in stated:
                one["licence"] = stated[one["source"]]
    return recipe
