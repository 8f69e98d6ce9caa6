"""The model card beside an artifact: what it is, what made it, how it scored, and how to make it again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from llmops.files import write_text
from llmops.records import Report, RunManifest
from llmops.registry.connection import without_credentials

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_RELATION = {"adapter": "adapter", "full": "finetune", "merged": "merge", "quantized": "quantized"}


def write_card(
    artifact: Path, manifest: RunManifest, reports: Sequence[Report] = (), *, licence: str = "unknown"
) -> Path:
    """Write `README.md` into the folder `artifact`; it is no part of the artifact's digest.

    Args:
        licence: the hub's name of it (`apache-2.0`); nothing is guessed.
    """
    path = artifact / "README.md"
    write_text(path, card(manifest, reports, licence=licence))
    return path


def card(manifest: RunManifest, reports: Sequence[Report] = (), *, licence: str = "unknown") -> str:
    """The card as Markdown, with Hugging Face's metadata in front."""
    metadata = yaml.safe_dump(_metadata(manifest, licence), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{metadata}---\n",
        f"# {_text(manifest.name)}\n",
        f"{_what(manifest)}\n",
        "## Training\n",
        _table(("", "value"), _facts(manifest)),
        *_scores(reports),
        "## Make it again\n",
        "Save the recipe below as `recipe.yaml`, in a folder from which its paths are right, and run\n",
        _fenced(_command(manifest), "sh"),
        "The same bytes come out on the same machine with the same versions:\n",
        _table(("package", "version"), manifest.environment.items()),
        _fenced(yaml.safe_dump(_shareable(manifest.recipe), sort_keys=False, allow_unicode=True), "yaml"),
    ]
    return "\n".join(parts)


def _metadata(manifest: RunManifest, licence: str) -> dict[str, Any]:
    base, revision = _base(manifest)
    metadata: dict[str, Any] = {
        "library_name": "peft" if manifest.kind == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "license": licence,
        "tags": _tags(manifest),
    }
    # The hub rejects a card whose base or data set is none of its own.
    if _HUB_ID.fullmatch(base):
        metadata["base_model"] = base
        metadata["base_model_relation"] = _RELATION[manifest.kind]
        if revision:
            metadata["base_model_revision"] = revision
    hub = [source.removeprefix("hub:") for source in _sources(manifest) if source.startswith("hub:")]
    datasets = [name for name in dict.fromkeys(hub) if _HUB_ID.fullmatch(name)]
    if datasets:
        metadata["datasets"] = datasets
    return metadata


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


def _sources(manifest: RunManifest) -> list[str]:
    rows = (manifest.recipe.get("data") or {}).get("train") or []
    return [without_credentials(str(one["source"])) for one in rows if isinstance(one, Mapping) and "source" in one]


def _what(manifest: RunManifest) -> str:
    base, _ = _base(manifest)
    how = {
        "adapter": "A LoRA adapter for",
        "full": "A model fine-tuned from",
        "merged": "A LoRA adapter merged into",
        "quantized": "A quantized model from",
    }[manifest.kind]
    return f"{how} {_code(base)}, trained by llmops on {_listed(_sources(manifest))}."


def _facts(manifest: RunManifest) -> Iterator[tuple[str, str]]:
    base, revision = _base(manifest)
    recipe = manifest.recipe
    yield "base", _code(base) + (f" at {_code(revision)}" if revision else "")
    if base_digest := manifest.identity.get("base"):
        yield "base digest", _code(base_digest)
    yield "data", _listed(_sources(manifest))
    if dataset := manifest.identity.get("dataset"):
        yield "data digest", _code(dataset)
    adapter = recipe.get("adapter") or {}
    if adapter.get("kind") == "lora":
        yield "adapter", f"{_text(adapter.get('variant', 'plain'))} LoRA, rank {_text(adapter.get('rank'))}"
    yield "updates", f"{manifest.steps:,}"
    yield "tokens", f"{manifest.tokens:,}, of which {manifest.trained_tokens:,} with loss"
    yield "loss at the end", f"{manifest.final_loss:.4f} nats per token"
    if manifest.validation_loss is not None:
        yield "validation loss", f"{manifest.validation_loss:.4f} nats per token"
    yield "seed", _text(recipe.get("seed", 0))
    yield "speed", f"{manifest.tokens_per_s:,.0f} tokens/s"
    if seconds := manifest.measured.get("seconds"):
        yield "time", f"{seconds:,.0f} s"
    if peak := manifest.measured.get("peak_bytes"):
        yield "peak memory", f"{peak / 2**30:.2f} GiB"
    yield "run digest", _code(manifest.digest)
    yield "artifact digest", _code(manifest.artifact_digest)


def _scores(reports: Sequence[Report]) -> Iterator[str]:
    yield "## Scores\n"
    if not reports:
        yield "Not evaluated.\n"
        return
    yield _table(
        ("suite", "items", "metric", "value", "computed as"),
        (
            (_text(one.suite), f"{one.items:,}", _text(score.metric), f"{score.value:.4g}", _code(score.signature))
            for one in reports
            for score in one.scores
        ),
    )


def _command(manifest: RunManifest) -> str:
    world = int(manifest.identity.get("world", 1))
    return "llmops finetune recipe.yaml" + (f" --gpus {world}" if world > 1 else "") + "\n"


def _shareable(value: Any) -> Any:
    """The recipe as plain data, without user names and passwords in addresses."""
    return json.loads(without_credentials(json.dumps(value, default=str)))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_code(name) for name in names) or "unnamed data"


def _text(value: Any) -> str:
    """Any value as one line of Markdown that shows as it is."""
    line = " ".join(str(value).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~!])", r"\\\1", line)


def _code(value: Any) -> str:
    """Any value as code in one line, also inside a table; empty for an empty one."""
    line = " ".join(str(value).split()).replace("|", "\\|")
    if not line:
        return ""
    ticks = "`" * (_longest_run(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def _fenced(content: str, language: str) -> str:
    fence = "`" * max(3, _longest_run(content) + 1)
    return f"{fence}{language}\n{content.rstrip()}\n{fence}\n"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"
