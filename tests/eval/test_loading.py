"""A folder becomes a model that answers: whole, or an adapter on its base; nothing is fetched, nothing is guessed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import EnvironmentFault
from llmops.eval import loading
from llmops.eval.engines.transformers import generate
from llmops.eval.items import Item
from llmops.eval.loading import (
    base_of,
    checked_template,
    end_tokens,
    load,
    load_tokenizer,
    precision_for,
    rows_at_once,
    rows_for,
)
from llmops.eval.suite import Generation

GREEDY = Generation(max_tokens=16)


@pytest.fixture(scope="module")
def adapter(lively_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter that changes answers, as peft saves it, without a tokenizer of its own."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter")
    model, _ = load(lively_model, device="cpu", precision="fp32")
    model.name_or_path = model.config._name_or_path = str(lively_model)
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    for name, tensor in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, std=0.5)
    wrapped.save_pretrained(str(folder))
    return folder


def test_an_adapter_answers_as_its_merged_model_does(
    adapter: Path, lively_model: Path, make_item: Callable[..., Item], tmp_path: Path
) -> None:
    items = [make_item("hello" * k) for k in range(1, 5)]
    assert base_of(adapter) == str(lively_model)
    tuned = generate(adapter, items, GREEDY, precision="fp32").answers
    model, tokenizer = load(adapter, device="cpu", precision="fp32")
    model.merge_and_unload().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    merged = generate(tmp_path, items, GREEDY, precision="fp32").answers
    assert [answer.text for answer in tuned] == [answer.text for answer in merged]
    base = generate(lively_model, items, GREEDY, precision="fp32").answers
    assert [answer.text for answer in tuned] != [answer.text for answer in base]


def test_an_adapters_base_may_be_given(adapter: Path, lively_model: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(adapter, moved)
    settings = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "some/where"}))
    assert base_of(moved) == "some/where"
    with pytest.raises(EnvironmentFault, match="its base some/where is no folder"):
        load(moved, device="cpu", precision="fp32")
    model, _ = load(moved, base=lively_model, device="cpu", precision="fp32")
    assert any("lora_A" in name for name, _ in model.named_parameters())


def test_a_whole_model_has_no_base(lively_model: Path) -> None:
    assert base_of(lively_model) is None


def test_a_folder_without_a_model_or_with_half_of_one_is_refused(lively_model: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="holds no model"):
        load(tmp_path, device="cpu", precision="fp32")
    shutil.copytree(lively_model, tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").unlink()
    with pytest.raises(EnvironmentFault, match="cannot be loaded"):
        load(tmp_path / "half", device="cpu", precision="fp32")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_weights_are_in_the_precision_asked_for(lively_model: Path, precision: Any, dtype: torch.dtype) -> None:
    model, _ = load(lively_model, device="cpu", precision=precision)
    assert {tensor.dtype for tensor in model.parameters()} == {dtype}
    assert not model.training


def test_the_end_of_turn_of_the_chat_template_ends_an_answer_also_where_the_files_name_another_token(
    lively_model: Path,
) -> None:
    model, tokenizer = load(lively_model, device="cpu", precision="fp32")
    assert end_tokens(model, tokenizer) == {tokenizer.convert_tokens_to_ids("<|end|>")}
    tokenizer.eos_token = "<|tool|>"
    model.generation_config.eos_token_id = [11, 12]
    model.config.eos_token_id = None
    named = tokenizer.convert_tokens_to_ids(["<|tool|>", "<|end|>"])
    assert end_tokens(model, tokenizer) == {11, 12, *named}


def test_bf16_is_taken_where_the_cpu_computes_in_it() -> None:
    has = torch.cpu.get_capabilities()
    precision, reason = precision_for("cpu")
    assert precision == ("bf16" if has.get("amx_bf16") or has.get("avx512_bf16") else "fp32")
    assert reason.startswith("the CPU has ")


@given(st.integers(1, 1 << 20), st.integers(1, 1 << 16), st.integers(0, 1 << 40), st.integers(1, 256))
def test_rows_at_once_fill_at_most_half_of_what_is_free_but_are_never_none(
    per_token: int, tokens: int, free: int, most: int
) -> None:
    rows = rows_at_once(per_token, tokens, free, most=most)
    assert 1 <= rows <= most
    assert rows == 1 or rows * per_token * tokens <= free / 2
    assert rows == most or (rows + 1) * per_token * tokens > free / 2 - per_token * tokens


def test_a_small_model_takes_as_many_rows_as_help_on_a_cpu(lively_model: Path) -> None:
    model, _ = load(lively_model, device="cpu", precision="fp32")
    assert rows_for(model, 100, "cpu") == 128


def test_a_template_that_is_not_the_one_of_training_is_refused(lively_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(lively_model, folder)
    digest = checked_template(folder, load_tokenizer(folder))
    for lineage in ({"template": digest}, {"template": None}, {}):
        (folder / "manifest.json").write_text(json.dumps({"lineage": lineage}))
        assert checked_template(folder, load_tokenizer(folder)) == digest
    (folder / "manifest.json").write_text(json.dumps({"lineage": {"template": "0" * 64}}))
    with pytest.raises(EnvironmentFault, match=r"is not the one it was trained with .*its manifest says 000000000000"):
        generate(folder, [], Generation())


def test_a_plain_prompt_is_the_bare_text_with_one_bos(random_base: Path) -> None:
    tokenizer = loading.load_tokenizer(random_base)
    turns = [
        {"role": "user", "content": "Q: 1 + 1\nA:"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "Q: 1 + 2\nA:"},
    ]
    assert loading.plain_text(turns) == "Q: 1 + 1\nA: 2\n\nQ: 1 + 2\nA:"
    ids = loading.asked_ids(tokenizer, turns, "plain")
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == loading.plain_text(turns)
    assert loading.asked_ids(tokenizer, turns[:1], "chat") != ids
