"""Rounding is tuned on rows as the model reads them, a choice that a seed decides and no order changes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmops.errors import InputError
from llmops.quantize.calibration import contents, encoded, from_dataset, from_file
from llmops.workspace import Workspace
from tests.finetune.small_models import make_tokenizer

TALKS = [
    {"messages": [{"role": "user", "content": f"what is {n}?"}, {"role": "assistant", "content": f"{n * 7} it is"}]}
    for n in range(30)
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def chosen(tokenizer: Any, rows: Any = TALKS, *, samples: int = 8, seed: int = 1, context: int | None = None) -> Any:
    return encoded(rows, tokenizer, samples=samples, seed=seed, context=context)


def test_a_row_is_what_the_template_writes_of_it(tokenizer: Any) -> None:
    texts = {tokenizer.decode(ids) for ids in chosen(tokenizer, samples=30)}
    assert "<|bos|><|user|>what is 3?<|end|><|assistant|>21 it is<|end|>" in texts
    assert len(texts) == 30


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=20)
@given(order=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_change_the_choice(tokenizer: Any, order: random.Random) -> None:
    mixed = list(TALKS)
    order.shuffle(mixed)
    assert chosen(tokenizer, mixed) == chosen(tokenizer)


def test_another_seed_takes_other_rows_and_so_many_at_most(tokenizer: Any) -> None:
    assert len(chosen(tokenizer)) == 8
    assert chosen(tokenizer) != chosen(tokenizer, seed=2)
    assert len(chosen(tokenizer, samples=100)) == 30


def test_a_row_is_cut_where_the_model_ends_and_one_of_a_few_tokens_is_left_out(tokenizer: Any) -> None:
    assert {len(ids) for ids in chosen(tokenizer, context=12)} == {12}
    with pytest.raises(InputError, match="no row of 8 tokens") as refused:
        chosen(tokenizer, [{"text": "ab"}])
    assert "--fast" in refused.value.fix


def test_a_file_holds_talks_pairs_or_texts(tokenizer: Any, tmp_path: Path) -> None:
    lines = [TALKS[0], {"prompt": "what is 0?", "completion": "0 it is"}, {"text": "a text of its own"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    rows = list(contents(from_file(file), Workspace(tmp_path)))
    assert rows[0] == rows[1] == TALKS[0]
    assert tokenizer.decode(chosen(tokenizer, rows[2:])[0]) == "<|bos|>a text of its own"


@pytest.mark.parametrize("line", ["{", "[1]", '{"question": "?"}'])
def test_a_line_of_another_form_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:2 is no"):
        list(contents(from_file(file), Workspace(tmp_path)))


def test_a_file_or_a_dataset_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        from_file(tmp_path / "rows.jsonl")
    assert from_dataset("0" * 64, Workspace(tmp_path)) is None
