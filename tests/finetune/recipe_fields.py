"""Every key of a recipe with another valid value than its default: a table that tests go through.

`changes()` takes the keys from the model, so a key that is added without a value here is a `KeyError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel

from llmops.config import models_in
from llmops.finetune.recipe import Recipe

ROWS: dict[str, dict[str, Any]] = {
    "PromptRows": {"source": "a.jsonl", "prompt": "{q}", "completion": "{a}"},
    "MessageRows": {"source": "a.jsonl", "messages": "turns"},
    "TextRows": {"source": "a.jsonl", "text": "body"},
    "PreferenceRows": {"source": "a.jsonl", "prompt": "{q}", "chosen": "{a}", "rejected": "{b}"},
    "LabelledRows": {"source": "a.jsonl", "prompt": "{q}", "completion": "{a}", "label": "good"},
}
METHODS = {"PreferenceRows": {"kind": "dpo"}, "LabelledRows": {"kind": "kto"}}
"""What trains on rows that next-token loss does not."""

BASE: dict[str, Any] = {
    "name": "plain",
    "base": "builtin:tiny",
    "data": {"train": [ROWS["PromptRows"]], "validation": 0.1},
}
"""A recipe in which every key that may be left out is."""

TAUGHT = {"kind": "distill", "teacher": {"model": "builtin:tiny"}}
SERVED = {"endpoint": "http://there:8000/v1", "model": "large"}
SQUAD: dict[str, Any] = {"squad_f1": {}}
LORA = {"adapter": {"kind": "lora"}}
PAIRS: dict[str, Any] = {"data": {"train": [ROWS["PreferenceRows"]], "validation": 0.1}}
MARGINS: dict[str, Any] = {"margin": "far"}
LABELLED: dict[str, Any] = {"data": {"train": [ROWS["LabelledRows"]], "validation": 0.1}}
FSDP = {"parallel": {"kind": "fsdp"}}

# Key less the alternatives it stands in → another value, as YAML writes it. Keys of rows are under `rows`.
_VALUES: dict[str, str] = {
    "name": "another",
    "base": "builtin:small",
    "rows.source": "b.csv",
    "rows.format": "tsv",
    "rows.split": "test",
    "rows.revision": "'3'",
    "rows.take": "7",
    "rows.weight": "2.0",
    "rows.licence": "CC-BY-4.0",
    "rows.prompt": "'Say {q}'",
    "rows.completion": "'{a}.'",
    "rows.system": "'Be brief.'",
    "rows.messages": "dialogue",
    "rows.tools": "tools",
    "rows.text": "content",
    "rows.chosen": "'{a}.'",
    "rows.rejected": "'{b}.'",
    "rows.label": "bad",
    "rows.margin": "near",
    "data.validation": "0.2",
    "data.checks.duplicates": "report",
    "data.checks.near_duplicates": "drop",
    "data.checks.similarity": "0.8",
    "data.checks.contamination": "[eval/suites/e2e.yaml]",
    "data.checks.personal_data": "redact",
    "method(sft).neftune": "5.0",
    "method(dpo).kind": "orpo",
    "method(dpo).beta": "0.5",
    "method(dpo).loss": "ipo",
    "method(dpo).label_smoothing": "0.2",
    "method(dpo).sft_weight": "0.5",
    "method(kto).beta": "0.5",
    "method(kto).desirable_weight": "1.5",
    "method(kto).undesirable_weight": "1.5",
    "method(reward).kind": "orpo",
    "method(reward).margin": "0.5",
    "method(reward).centering": "0.01",
    "method(orpo).kind": "reward",
    "method(orpo).beta": "0.5",
    "method(distill).teacher(model teacher).model": "builtin:small",
    "method(distill).teacher(model teacher).through": "vllm",
    "method(distill).teacher(model teacher).licence": "MIT",
    "method(distill).teacher(endpoint teacher).endpoint": "http://other:8000/v1",
    "method(distill).teacher(endpoint teacher).model": "another",
    "method(distill).teacher(endpoint teacher).licence": "MIT",
    "method(distill).teacher(endpoint teacher).api_key_env": "KEY",
    "method(distill).teacher(endpoint teacher).concurrency": "2",
    "method(distill).teacher(endpoint teacher).attempts": "2",
    "method(distill).teacher(endpoint teacher).usd_per_million_read": "1.0",
    "method(distill).teacher(endpoint teacher).usd_per_million_written": "1.0",
    "method(distill).answers.max_tokens": "20",
    "method(distill).answers.temperature": "0.5",
    "method(distill).answers.samples": "2",
    "method(distill).answers.seed": "5",
    "method(distill).answers.refusals": "keep",
    "method(distill).logits.alpha": "0.25",
    "method(distill).logits.temperature": "3.0",
    "method(distill).logits.divergence": "reverse",
    "method(grpo).rewards.scorer": "{chrf: {}}",
    "method(grpo).rewards.metric": "squad_exact_match",
    "method(grpo).rewards.weight": "2.0",
    "method(grpo).generations": "4",
    "method(grpo).max_tokens": "20",
    "method(grpo).temperature": "0.5",
    "method(grpo).beta": "0.1",
    "method(grpo).epsilon": "0.1",
    "method(grpo).iterations": "2",
    "method(grpo).loss": "grpo",
    "method(grpo).scale": "none",
    "method(grpo).generate": "transformers",
    "method(grpo).vllm_memory": "0.5",
    "adapter(none).kind": "lora",
    "adapter(none).freeze.embeddings": "true",
    "adapter(none).freeze.layers": "'0-1'",
    "adapter(lora).kind": "none",
    "adapter(lora).rank": "8",
    "adapter(lora).alpha": "8.0",
    "adapter(lora).dropout": "0.1",
    "adapter(lora).targets": "[q_proj, v_proj]",
    "adapter(lora).variant": "rslora",
    "adapter(lora).base_bits": "4",
    "adapter(lora).modules_to_save": "[lm_head]",
    "adapter(lora).merge": "true",
    "batch.sequences": "16",
    "batch.per_device": "2",
    "batch.max_length": "512",
    "batch.packing": "true",
    "optimizer.name": "adamw8bit",
    "optimizer.learning_rate": "1.0e-3",
    "optimizer.weight_decay": "0.1",
    "optimizer.clip": "0.5",
    "optimizer.betas": "[0.8, 0.9]",
    "optimizer.epsilon": "1.0e-6",
    "schedule.epochs": "3.0",
    "schedule.steps": "11",
    "schedule.warmup": "0.2",
    "schedule.shape": "linear",
    "schedule.floor": "0.1",
    "validation.every": "0.5",
    "validation.patience": "2",
    "validation.keep_best": "false",
    "checkpoints.every": "50",
    "checkpoints.keep": "3",
    "kernels.attention": "eager",
    "kernels.liger": "off",
    "kernels.checkpointing": "true",
    "kernels.compile": "true",
    "kernels.loss_chunk": "256",
    "parallel(ddp).kind": "fsdp",
    "parallel(fsdp).kind": "ddp",
    "parallel(fsdp).offload": "true",
    "precision": "fp32",
    "seed": "5",
    "evaluate.suites": "[eval/suites/e2e.yaml]",
    "evaluate.gate": "eval/gates/e2e.yaml",
}

# What else the recipe must hold for the key to stand in it.
_EXTRA: dict[str, dict[str, Any]] = {
    "adapter(none)": {"adapter": {"kind": "none"}},
    "adapter(lora)": LORA,
    "method(dpo)": {**PAIRS, "method": {"kind": "dpo"}},
    "method(kto)": {**LABELLED, "method": {"kind": "kto"}},
    "method(orpo)": {**PAIRS, "method": {"kind": "orpo"}},
    "method(distill).teacher(endpoint": {"method": {**TAUGHT, "teacher": SERVED, "answers": {}}},
    "method(distill).answers.samples": {"method": {**TAUGHT, "answers": {"temperature": 1.0}}},
    "method(distill).logits": {"method": {**TAUGHT, "logits": {}}},
    "method(distill)": {"method": {**TAUGHT, "answers": {}}},
    "method(grpo).rewards.metric": {"method": {"kind": "grpo", "rewards": [{"scorer": SQUAD, "metric": "squad_f1"}]}},
    "method(grpo)": {"method": {"kind": "grpo", "rewards": [{"scorer": {"bleu": {}}}]}},
    "method(reward).margin": {
        "data": {"train": [ROWS["PreferenceRows"] | MARGINS], "validation": 0.1},
        "method": {"kind": "reward", "margin": 1.0},
    },
    "method(reward)": {**PAIRS, "method": {"kind": "reward"}},
    "parallel(fsdp)": FSDP,
    "evaluate.suites": {"evaluate": {"suites": ["eval/suites/other.yaml"]}},
    "evaluate.gate": {"evaluate": {"suites": ["eval/suites/other.yaml"]}},
}

ALONE = {"method(sft).kind", "method(kto).kind", "method(distill).kind", "method(grpo).kind"}
"""Kinds whose rows no other kind trains on, or that need a teacher or rewards: with the rest as it is there is no
other value."""
REFUSED = {"data.validation.0.weight"}
"""Keys that a section shares with another and that mean nothing there: any value but the default is an error."""


class Leaf(NamedTuple):
    """A key that holds a value and no further keys.

    Attributes:
        path: dotted, each alternative of a union in brackets behind its key, as `llmops explain` writes it.
        key: as `--set` takes it: the first entry of a list stands for all.
        rows: which kind of rows the key belongs to, None outside of them.
    """

    path: str
    key: str
    rows: str | None


class Change(NamedTuple):
    """A recipe key with another valid value in YAML; `extra` is laid over `BASE` before the change."""

    key: str
    value: str
    extra: dict[str, Any]


def leaf_fields(model: type[BaseModel] = Recipe, path: str = "", key: str = "", rows: str | None = None) -> list[Leaf]:
    """Every key of `model` that holds a value, those of each alternative of a union included."""
    return list(_leaves(model, path, key, rows))


def _leaves(model: type[BaseModel], path: str, key: str, rows: str | None) -> Iterator[Leaf]:
    for name, field in model.model_fields.items():
        inner = list(dict.fromkeys(models_in(field.annotation)))
        here, at = f"{path}{name}", f"{key}{name}"
        if not inner or _may_be_plain(field.annotation):
            yield Leaf(here, at, rows)
        for found in inner:
            if found.__name__ in ROWS:
                yield from _leaves(found, f"{here}({found.__name__}).", f"{at}.0.", found.__name__)
                continue
            below = f"{at}.0." if get_origin(field.annotation) is list else f"{at}."
            yield from _leaves(found, f"{here}{_alternative(found) if len(inner) > 1 else ''}.", below, rows)


def _alternative(model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind")
    if kind is not None:
        return f"({get_args(kind.annotation)[0]})"
    return f"({re.sub('(?<=[a-z])(?=[A-Z])', ' ', model.__name__).lower()})"


def _may_be_plain(annotation: Any) -> bool:
    """Whether one alternative of a union is a plain value, as a share is beside a list of sources."""
    parts = [getattr(part, "__origin__", part) for part in get_args(annotation)]
    return any(part in (str, int, float, bool) for part in parts)


def changes() -> list[Change]:
    """One valid change of every key of a recipe, alternatives of unions included.

    Raises:
        KeyError: the recipe has a key that this table does not know.
    """
    return [_change(leaf) for leaf in leaf_fields() if leaf.path not in ALONE and leaf.key not in REFUSED]


def _change(leaf: Leaf) -> Change:
    if leaf.rows is not None:
        section = leaf.key.split(".")[1]
        # Splits and revisions are what a hub has.
        of_hub = leaf.key.endswith((".split", ".revision"))
        # A margin stands in all of them or in none.
        margins = MARGINS if leaf.key.endswith(".margin") else {}
        rows = [{**ROWS[leaf.rows], **({"source": "hub:org/name"} if of_hub else {}), **margins}]
        trained = ROWS[leaf.rows] | margins if leaf.rows in METHODS else ROWS["PromptRows"]
        extra = {"train": rows} if section == "train" else {"train": [trained], "validation": rows}
        method: dict[str, Any] = {"method": METHODS[leaf.rows]} if leaf.rows in METHODS else {}
        method = {"method": {"kind": "reward", "margin": 1.0}} if margins else method
        changed = {"data": {"validation": 0.1, **extra}, **method}
        return Change(leaf.key, _VALUES[f"rows.{leaf.key.split('.')[-1]}"], changed)
    extras = [extra for part, extra in _EXTRA.items() if leaf.path.startswith(part)]
    return Change(leaf.key, _VALUES[leaf.path], extras[0] if extras else {})


def recipe_with(change: Change) -> dict[str, Any]:
    """The recipe a change is made in, before it is made."""
    return {**BASE, **change.extra}
