"""Perplexity and choices come from the model's own forward pass over given texts; no answer is made for them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import InputError
from llmops.eval.engines.likelihood import Likelihoods
from llmops.eval.items import items_of
from llmops.eval.loading import asked_ids, load_tokenizer
from llmops.eval.measured import Measured, read
from llmops.eval.run import evaluate
from llmops.eval.suite import Suite
from llmops.events import Silent
from llmops.records import ModelSource

ROWS: list[dict[str, Any]] = [
    {"q": "what is it?", "a": "hello", "options": ["hello", "world a number", "it"]},
    {"q": "and then?", "a": "seven", "options": ["is", "seven"]},
    {"q": "why?", "a": "ünïcode", "options": ["a", "ünïcode", "what"]},
]


def suite(folder: Path, *scorers: str, **generation: Any) -> Suite:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    items = {"source": str(rows), "prompt": "{q}", "references": "{a}", "choices": "{options}"}
    return Suite.model_validate(
        {"name": "s", "items": items, "scorers": [{name: {}} for name in scorers], "generation": generation}
    )


def nats(model: Path, question: str, text: str, prompt: Any) -> tuple[float, int]:
    """One pass over one sequence, summed token by token."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(model)
    before = asked_ids(tokenizer, [{"role": "user", "content": question}], prompt)
    after = tokenizer((" " if prompt == "plain" else "") + text, add_special_tokens=False)["input_ids"]
    whole = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = torch.log_softmax(whole(torch.tensor([before + after])).logits[0].double(), -1)
    return sum(float(logits[len(before) + n - 1, token]) for n, token in enumerate(after)), len(after)


def measured(one: Suite, model: Path, out: Path) -> Measured:
    def nobody(*_: Any, **__: Any) -> Any:
        raise AssertionError("no answer is needed")

    report = evaluate(
        one,
        items_of(one),
        ModelSource("m", model, None, "d"),
        generate=nobody,
        out=out,
        likelihoods=Likelihoods(model, precision="fp32"),
    )
    assert report.file is not None
    return read(report.file)


@pytest.mark.parametrize("prompt", ["chat", "plain"])
def test_perplexity_is_of_all_tokens_and_all_bytes_of_the_references(
    random_base: Path, tmp_path: Path, prompt: str
) -> None:
    found = measured(suite(tmp_path, "perplexity", prompt=prompt), random_base, tmp_path)
    each = [nats(random_base, row["q"], row["a"], prompt) for row in ROWS]
    total = -sum(one for one, _ in each)
    scores = {score.metric: score for score in found.scores}
    assert scores["perplexity"].value == pytest.approx(math.exp(total / sum(count for _, count in each)), rel=1e-4)
    written = sum(len(row["a"].encode()) for row in ROWS)
    assert scores["byte_perplexity"].value == pytest.approx(math.exp(total / written), rel=1e-4)
    assert scores["perplexity"].better == "lower"
    assert scores["perplexity"].low is not None
    assert found.measures == {}


def test_the_likeliest_choice_is_the_answer(random_base: Path, tmp_path: Path) -> None:
    found = measured(suite(tmp_path, "multiple_choice"), random_base, tmp_path)
    for row, item in zip(ROWS, found.items, strict=True):
        likely = {one: nats(random_base, row["q"], one, "chat")[0] for one in row["options"]}
        assert item.answer == max(likely, key=lambda one: likely[one])
        sized = {one: value / len(one.encode()) for one, value in likely.items()}
        assert item.scores["choice"] == float(item.answer == row["a"])
        assert item.scores["choice_per_byte"] == float(max(sized, key=lambda one: sized[one]) == row["a"])
        assert item.choices == tuple(row["options"])


def test_the_right_choice_must_be_among_them_before_anything_is_read(tmp_path: Path) -> None:
    for wrong, says in (({"a": "other"}, "is none of its choices"), ({"options": ["hello"]}, "no two choices")):
        one = suite(tmp_path, "multiple_choice")
        (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0] | wrong) + "\n")
        with pytest.raises(InputError, match=says):
            measured(one, tmp_path, tmp_path)


def test_answers_alone_do_not_tell(tmp_path: Path) -> None:
    one = suite(tmp_path, "perplexity")
    with pytest.raises(InputError, match="only its answers can be had"):
        evaluate(one, items_of(one), ModelSource("m", tmp_path, None, "d"), generate=lambda *_, **__: None)  # type: ignore[arg-type]


def test_a_text_that_does_not_fit_is_named(random_base: Path) -> None:
    asked = [([{"role": "user", "content": "hi"}], "word " * 500)]
    with pytest.raises(InputError, match="does not fit into the model's context"):
        Likelihoods(random_base, precision="fp32")(asked, prompt="chat", listener=Silent())
