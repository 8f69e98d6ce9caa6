"""A recipe holds one fine-tuning run; what would fail late, or be read by nothing, is refused when it is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from llmops.config import load
from llmops.errors import FileFaults, InputError
from llmops.explain import keys
from llmops.finetune.method import METHODS, Sft
from llmops.finetune.recipe import Batch, Freeze, Fsdp, NoAdapter, Recipe
from tests.finetune.recipe_fields import ALONE, BASE, REFUSED, ROWS, Change, changes, recipe_with
from tests.finetune.recipe_fields import METHODS as METHODS_OF

LORA: dict[str, Any] = {"kind": "lora"}
EVALUATE: dict[str, Any] = {"suites": ["eval/suites/e2e.yaml"]}


def recipe(folder: Path, *overrides: str, **sections: Any) -> Recipe:
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**BASE, **sections}))
    return load(folder / "recipe.yaml", Recipe, what="recipe", overrides=overrides)


def refused(folder: Path, *overrides: str, **sections: Any) -> dict[str, str]:
    with pytest.raises(FileFaults) as caught:
        recipe(folder, *overrides, **sections)
    return {fault.key: fault.problem for fault in caught.value.faults}


# The least a recipe says.


def test_name_base_and_rows_are_enough(tmp_path: Path) -> None:
    least = recipe(tmp_path)
    assert least.adapter == NoAdapter()
    assert least.evaluate is None
    assert set(refused(tmp_path, "name=null", "base=null", "data=null")) == {"name", "base", "data"}


@pytest.mark.parametrize("name", ["E2E", "a b", "-a", "", "a" * 101, "ä", "a/b"])
def test_a_name_is_one_the_registry_takes(tmp_path: Path, name: str) -> None:
    assert set(refused(tmp_path, name=name)) == {"name"}


@pytest.mark.parametrize(
    "base", ["builtin:tiny", "Qwen/Qwen3-8B", "Qwen/Qwen3-8B@a1b2", "./models/mine", "models:/e2e-nlg@champion"]
)
def test_a_base_is_named_in_any_way_a_model_is(tmp_path: Path, base: str) -> None:
    assert recipe(tmp_path, base=base).base == base


@pytest.mark.parametrize("base", ["", "Qwen/Qwen3 8B", "a\n"])
def test_a_base_has_no_spaces(tmp_path: Path, base: str) -> None:
    assert set(refused(tmp_path, base=base)) == {"base"}


# Rows.


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        pytest.param({"prompt": "{q}", "completion": "{a}"}, "PromptRows", id="two templates"),
        pytest.param({"messages": "m", "tools": "t"}, "MessageRows", id="a conversation"),
        pytest.param({"text": "t"}, "TextRows", id="plain text"),
        pytest.param({"prompt": "{q}", "chosen": "{a}", "rejected": "{b}"}, "PreferenceRows", id="two answers"),
        pytest.param({"prompt": "{q}", "completion": "{a}", "label": "l"}, "LabelledRows", id="an answer and a label"),
    ],
)
def test_the_keys_of_a_source_say_what_its_rows_are(tmp_path: Path, rows: dict[str, str], kind: str) -> None:
    loaded = recipe(
        tmp_path, data={"train": [{"source": "a.jsonl", **rows}]}, method=METHODS_OF.get(kind, {"kind": "sft"})
    )
    assert type(loaded.data.train[0]).__name__ == kind


@pytest.mark.parametrize("kind", ["sft", "dpo", "orpo", "kto", "reward"])
@pytest.mark.parametrize("rows", ROWS)
def test_a_method_that_does_not_train_on_its_rows_is_refused_with_what_would_fit(
    tmp_path: Path, kind: str, rows: str
) -> None:
    data = {"train": [ROWS[rows]], "validation": [ROWS[rows]]}
    fits = {"PreferenceRows": {"dpo", "orpo", "reward"}, "LabelledRows": {"kto"}}.get(rows, {"sft"})
    if kind in fits:
        assert recipe(tmp_path, data=data, method={"kind": kind}).method.kind == kind
        return
    faults = refused(tmp_path, data=data, method={"kind": kind})
    assert faults.keys() == {"data.train[0]", "data.validation[0]"}
    for fault in faults.values():
        assert f"method {kind} does not train on rows with" in fault
        assert f"or set method.kind to {' or '.join(sorted(fits))}" in fault


def test_a_method_is_supervised_where_its_kind_is_not_said(tmp_path: Path) -> None:
    assert recipe(tmp_path, method={"neftune": 5}).method == Sft(neftune=5)


def test_a_margin_is_named_where_it_is_read_and_nowhere_else(tmp_path: Path) -> None:
    bare, with_margin = ROWS["PreferenceRows"], {**ROWS["PreferenceRows"], "margin": "far"}
    asked = {"kind": "reward", "margin": 1.0}
    recipe(tmp_path, data={"train": [with_margin], "validation": [with_margin]}, method=asked)
    missing = refused(tmp_path, data={"train": [with_margin, bare], "validation": [bare]}, method=asked)
    assert missing.keys() == {"data.train[1]", "data.validation[0]"}
    for method in ({"kind": "reward"}, {"kind": "dpo"}):
        assert refused(tmp_path, data={"train": [with_margin]}, method=method).keys() == {"data.train[0].margin"}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        pytest.param({"evaluate": {"suites": ["s.yaml"]}}, "evaluate", id="it answers no suite"),
        pytest.param({"adapter": {"kind": "lora", "merge": True}}, "adapter.merge", id="it is not merged"),
        pytest.param(
            {"adapter": {"kind": "lora", "modules_to_save": ["lm_head"]}}, "adapter.modules_to_save", id="whole head"
        ),
        pytest.param({"adapter": {"kind": "lora", "targets": ["lm_head"]}}, "adapter.targets", id="adapted head"),
    ],
)
def test_what_a_reward_model_cannot_do_is_refused(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    data = {"train": [ROWS["PreferenceRows"]]}
    recipe(tmp_path, data=data, method={"kind": "reward"}, adapter={"kind": "lora"})
    assert refused(tmp_path, data=data, method={"kind": "reward"}, **changes).keys() == {key}


def test_label_smoothing_goes_with_a_sigmoid(tmp_path: Path) -> None:
    pairs: dict[str, Any] = {"data": {"train": [ROWS["PreferenceRows"]]}}
    recipe(tmp_path, method={"kind": "dpo", "loss": "sigmoid_norm", "label_smoothing": 0.1}, **pairs)
    faults = refused(tmp_path, method={"kind": "dpo", "loss": "ipo", "label_smoothing": 0.1}, **pairs)
    assert faults.keys() == {"method.label_smoothing"}


@pytest.mark.parametrize(
    ("rows", "key"),
    [
        pytest.param({"prompt": "{q}"}, "data.train[0]", id="a prompt without a completion"),
        pytest.param({"messages": "m", "prompt": "{q}"}, "data.train[0].prompt", id="two kinds at once"),
        pytest.param({"text": "t", "sytem": "s"}, "data.train[0].sytem", id="a misspelt key"),
        pytest.param({"text": "t", "weight": 0}, "data.train[0].weight", id="rows that are never seen"),
        pytest.param({"text": "t", "take": 0}, "data.train[0].take", id="no rows"),
    ],
)
def test_a_source_that_cannot_be_read_so_is_refused(tmp_path: Path, rows: dict[str, Any], key: str) -> None:
    assert set(refused(tmp_path, data={"train": [{"source": "a.jsonl", **rows}]})) == {key}


def test_a_source_that_is_only_a_name_is_refused(tmp_path: Path) -> None:
    assert set(refused(tmp_path, data={"train": ["a.jsonl"]})) == {"data.train[0]"}


@pytest.mark.parametrize("share", [-0.1, 1.0, 2])
def test_the_share_held_out_is_less_than_all(tmp_path: Path, share: float) -> None:
    assert set(refused(tmp_path, f"data.validation={share}")) == {"data.validation"}


def test_held_out_rows_may_come_from_sources_of_their_own(tmp_path: Path) -> None:
    loaded = recipe(tmp_path, "data.validation=[{source: b.jsonl, text: t}]")
    assert isinstance(loaded.data.validation, list)
    assert loaded.data.validation[0].source == "b.jsonl"


# What fits together.


@pytest.mark.parametrize(
    ("overrides", "keys_named"),
    [
        pytest.param(["adapter.modules_to_save=[lm_head]"], {"adapter.modules_to_save"}, id="whole modules"),
        pytest.param(["adapter.variant=dora"], {"adapter.variant"}, id="dora"),
        pytest.param(
            ["adapter.variant=dora", "adapter.modules_to_save=[lm_head]"],
            {"adapter.variant", "adapter.modules_to_save"},
            id="both, named together",
        ),
    ],
)
def test_an_adapter_vllm_cannot_load_is_refused_where_it_is_to_be_evaluated(
    tmp_path: Path, overrides: list[str], keys_named: set[str]
) -> None:
    problems = refused(tmp_path, *overrides, adapter=LORA, evaluate=EVALUATE)
    assert set(problems) == keys_named
    assert all("set adapter.merge: true" in problem for problem in problems.values())
    recipe(tmp_path, *overrides, "adapter.merge=true", adapter=LORA, evaluate=EVALUATE)
    recipe(tmp_path, *overrides, adapter=LORA)


@pytest.mark.parametrize("variant", ["plain", "rslora"])
def test_other_adapters_may_be_evaluated(tmp_path: Path, variant: str) -> None:
    assert recipe(tmp_path, f"adapter.variant={variant}", adapter=LORA, evaluate=EVALUATE).evaluate is not None


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        pytest.param({"optimizer": {"name": "adamw8bit"}}, "optimizer.name", id="the 8-bit optimizer"),
        pytest.param({"adapter": {"kind": "lora", "base_bits": 8}}, "adapter.base_bits", id="an 8-bit base"),
    ],
)
def test_what_fsdp_cannot_split_is_refused_under_it_alone(tmp_path: Path, sections: dict[str, Any], key: str) -> None:
    assert set(refused(tmp_path, parallel={"kind": "fsdp"}, **sections)) == {key}
    recipe(tmp_path, parallel={"kind": "ddp"}, **sections)


def test_fsdp_splits_a_base_of_4_or_16_bits(tmp_path: Path) -> None:
    for bits in (4, 16):
        loaded = recipe(tmp_path, f"adapter.base_bits={bits}", adapter=LORA, parallel={"kind": "fsdp"})
        assert isinstance(loaded.parallel, Fsdp)


def test_early_stopping_needs_held_out_rows(tmp_path: Path) -> None:
    assert set(refused(tmp_path, "data.validation=0", "validation.patience=2")) == {"validation.patience"}
    assert recipe(tmp_path, "data.validation=0").validation.patience is None
    assert recipe(tmp_path, "data.validation=0.1", "validation.patience=2").validation.patience == 2


def test_broken_rules_carry_the_lines_of_their_keys(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "name: x\nbase: b\ndata: {train: [{source: a, text: t}]}\nadapter:\n  kind: lora\n  variant: dora\n"
        "evaluate: {suites: [s]}\nvalidation:\n  patience: 1\n"
    )
    with pytest.raises(FileFaults) as caught:
        load(tmp_path / "r.yaml", Recipe, what="recipe")
    assert [(fault.line, fault.key) for fault in caught.value.faults] == [
        (6, "adapter.variant"),
        (9, "validation.patience"),
    ]


def test_a_run_is_as_long_as_its_epochs_or_its_steps_say(tmp_path: Path) -> None:
    assert "epochs and steps are both given" in refused(tmp_path, schedule={"epochs": 1, "steps": 5})["schedule"]
    assert recipe(tmp_path, schedule={"steps": 5}).schedule.epochs is None


@pytest.mark.parametrize(
    "override",
    [
        "adapter.rank=0",
        "adapter.base_bits=2",
        "adapter.dropout=1.0",
        "adapter.targets=[]",
        "adapter.variant=vera",
        "adapter.alpha=.inf",
        "batch.sequences=0",
        "batch.max_length=-1",
        "optimizer.learning_rate=0",
        "optimizer.learning_rate=.inf",
        "optimizer.learning_rate=.nan",
        "optimizer.betas=[0.9]",
        "optimizer.betas=[0.9, 1.0]",
        "optimizer.clip=-1",
        "schedule.warmup=1",
        "schedule.epochs=0",
        "schedule.shape=sine",
        "validation.every=0",
        "checkpoints.keep=0",
        "kernels.loss_chunk=0",
        "precision=int8",
        "seed=-1",
        "evaluate.suites=[]",
    ],
)
def test_a_value_out_of_its_range_is_refused(tmp_path: Path, override: str) -> None:
    key = override.partition("=")[0]
    (faulty,) = {named.partition("[")[0] for named in refused(tmp_path, override, adapter=LORA)}
    assert faulty == key


# Frozen layers.


@pytest.mark.parametrize(
    ("layers", "numbers"),
    [(None, set()), ("0", {0}), ("0-3,8", {0, 1, 2, 3, 8}), ("2,1-2", {1, 2}), ("7-7", {7})],
)
def test_layers_that_keep_their_values_are_written_as_ranges(layers: str | None, numbers: set[int]) -> None:
    assert Freeze(layers=layers).frozen_layers() == numbers


@given(st.sets(st.integers(0, 40), min_size=1))
def test_any_set_of_layers_can_be_written(numbers: set[int]) -> None:
    assert Freeze(layers=",".join(map(str, numbers))).frozen_layers() == numbers


@pytest.mark.parametrize("layers", ["", "a", "1-", "-1", "1 - 2", "1,,2", "5-2", "0,5-2", "1.5"])
def test_what_is_no_range_of_layers_is_refused(layers: str) -> None:
    with pytest.raises(ValidationError):
        Freeze(layers=layers)


# One update split into passes.


@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 16))
def test_passes_times_processes_times_sequences_is_the_whole_update(passes: int, per_device: int, world: int) -> None:
    batch = Batch(sequences=passes * per_device * world, per_device=per_device)
    assert batch.passes(world) == passes


@given(st.integers(1, 200), st.integers(1, 16), st.integers(1, 16))
def test_an_update_that_cannot_be_split_names_the_nearest_that_can(sequences: int, per_device: int, world: int) -> None:
    at_once = per_device * world
    batch = Batch(sequences=sequences, per_device=per_device)
    if sequences % at_once == 0:
        assert batch.passes(world) * at_once == sequences
        return
    with pytest.raises(InputError) as caught:
        batch.passes(world)
    named = [int(word) for word in caught.value.fix.replace(",", " ").split() if word.isdigit()]
    below, above = sequences // at_once * at_once, (sequences // at_once + 1) * at_once
    assert set(named) == {one for one in (below, above) if one}


# The whole.


def test_a_resolved_recipe_is_a_recipe_again(tmp_path: Path) -> None:
    original = recipe(tmp_path, adapter=LORA, evaluate=EVALUATE, parallel={"kind": "fsdp"})
    assert Recipe.model_validate(json.loads(original.model_dump_json())) == original


def test_a_recipe_cannot_be_changed_after_it_was_checked(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        recipe(tmp_path).seed = 3  # type: ignore[misc]


def test_the_schema_for_editors_takes_a_recipe() -> None:
    schema = Recipe.model_json_schema()
    assert set(schema["required"]) == {"name", "base", "data"}
    assert not schema["additionalProperties"]
    assert schema["properties"]["seed"]["description"]


# The table of keys that other tests go through.


def every_key(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every key of the model without its alternatives, found in another way than the table's."""
    for key in keys(model, path):
        yield "".join(part.partition(")")[2] if index else part for index, part in enumerate(key.path.split("(")))


def test_the_table_changes_every_key_that_holds_a_value() -> None:
    sections = {
        "data", "data.train", "data.checks", "method", "adapter", "adapter.freeze", "batch", "optimizer", "schedule",
        "validation", "checkpoints", "kernels", "parallel", "evaluate",
        "method.teacher", "method.answers", "method.logits", "method.rewards",
    }  # fmt: skip
    changed = {change.key.replace(".0.", ".") for change in changes()}
    refused = {key.replace(".0.", ".") for key in REFUSED}
    assert changed == set(every_key(Recipe)) - sections - refused


def test_a_key_is_left_out_of_the_table_only_when_it_has_one_value_beside_its_rows() -> None:
    kinds = {get_args(one.model_fields["kind"].annotation)[0]: one for one in METHODS}
    needy = {"distill", "grpo"}  # a teacher, rewards
    for path in ALONE:
        kind = path.removeprefix("method(").removesuffix(").kind")
        others = [other for name, other in kinds.items() if name not in {kind, *needy} and kind not in needy]
        assert not any(set(kinds[kind].rows) & set(other.rows) for other in others)


@pytest.mark.parametrize("change", changes(), ids=lambda change: f"{change.key}-{change.value}")
def test_every_change_of_the_table_is_valid_and_a_change(tmp_path: Path, change: Change) -> None:
    before = recipe(tmp_path, **recipe_with(change))
    after = recipe(tmp_path, f"{change.key}={change.value}", **recipe_with(change))
    assert isinstance(after, Recipe)
    assert before != after


def test_what_a_source_does_not_have_is_refused(tmp_path: Path) -> None:
    train = [ROWS["PromptRows"]]
    faults = refused(tmp_path, data={"train": [{**ROWS["PromptRows"], "split": "test"}]})
    assert "split 'test' names a split of a `hub:` data set, which a.jsonl is not" in "".join(faults.values())
    faults = refused(tmp_path, data={"train": [{**ROWS["TextRows"], "revision": "3"}]})
    assert "revision '3' names a version of a `hub:` data set or a Delta table" in "".join(faults.values())
    faults = refused(tmp_path, data={"train": train, "validation": [{**ROWS["PromptRows"], "weight": 2}]})
    assert "every held-out row counts once" in "".join(faults.values())
    table = {**ROWS["PromptRows"], "source": "delta:rows", "revision": "3"}
    assert recipe(tmp_path, data={"train": [table]}).data.train[0].revision == "3"
