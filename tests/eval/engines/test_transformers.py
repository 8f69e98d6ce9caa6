"""Answers depend on the model, the item and the stated decoding, never on which items shared a batch."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from llmops.errors import EnvironmentFault, InputError
from llmops.eval.engines.engine import Answer
from llmops.eval.engines.transformers import answered, generate
from llmops.eval.items import Item
from llmops.eval.loading import load
from llmops.eval.suite import Generation
from tests.listener import Heard

MakeItem = Callable[..., Item]
GREEDY = Generation(max_tokens=24)


@pytest.fixture(scope="module")
def items(make_item: MakeItem) -> list[Item]:
    """Prompts of several lengths, neither ascending nor descending."""
    return [make_item("hello " * (1 + (5 * k) % 8) + "x" * k) for k in range(8)]


@pytest.fixture(scope="module")
def loaded(lively_model: Path) -> tuple[Any, Any]:
    return load(lively_model, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def greedy(lively_model: Path, items: list[Item]) -> tuple[Answer, ...]:
    return generate(lively_model, items, GREEDY, precision="fp32", batch=3).answers


def same(some: Sequence[Answer], others: Sequence[Answer]) -> bool:
    """Equal but for the time they took."""
    return [(a.item, a.text, a.tokens, a.finish) for a in some] == [
        (a.item, a.text, a.tokens, a.finish) for a in others
    ]


def by_hand(loaded: tuple[Any, Any], item: Item, limit: int) -> list[int]:
    """The likeliest token, again and again, without batch, padding or cache, until the end of the turn."""
    model, tokenizer = loaded
    ids = tokenizer.apply_chat_template(list(item.messages), add_generation_prompt=True, return_dict=False)
    written: list[int] = []
    while len(written) < limit and written[-1:] != [tokenizer.eos_token_id]:
        with torch.inference_mode():
            written.append(int(model(torch.tensor([ids + written])).logits[0, -1].argmax()))
    return written


def test_greedy_answers_are_the_likeliest_tokens_whatever_the_batch(
    lively_model: Path, loaded: tuple[Any, Any], items: list[Item], greedy: tuple[Answer, ...]
) -> None:
    tokenizer = loaded[1]
    for item, answer in zip(items, greedy, strict=True):
        written = by_hand(loaded, item, GREEDY.max_tokens)
        assert answer.item == item.id
        assert answer.tokens == len(written)
        assert answer.text == tokenizer.decode(written, skip_special_tokens=True)
        assert answer.finish == ("stop" if written[-1] == tokenizer.eos_token_id else "length")
    assert {answer.finish for answer in greedy} == {"stop", "length"}
    for batch in (1, 8):
        assert same(generate(lively_model, items, GREEDY, precision="fp32", batch=batch).answers, greedy)


def test_every_prompt_begins_with_one_bos_and_is_padded_on_the_left(
    loaded: tuple[Any, Any], items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    seen: list[dict[str, Any]] = []
    plain = model.generate

    def watched(**given: Any) -> Any:
        seen.append(given)
        return plain(**given)

    monkeypatch.setattr(model, "generate", watched)
    answered(model, tokenizer, items, Generation(max_tokens=1), batch=4)
    rows = [
        (ids, mask)
        for given in seen
        for ids, mask in zip(given["input_ids"].tolist(), given["attention_mask"].tolist(), strict=True)
    ]
    assert len(rows) == len(items)
    for ids, mask in rows:
        gap = mask.index(1)
        assert mask == [0] * gap + [1] * (len(ids) - gap)
        assert set(ids[:gap]) <= {tokenizer.pad_token_id}
        assert ids[gap] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1


def test_an_answer_ends_at_any_token_the_models_files_name_and_does_not_hold_it(
    lively_model: Path, loaded: tuple[Any, Any], items: list[Item], greedy: tuple[Answer, ...], tmp_path: Path
) -> None:
    tokenizer = loaded[1]
    chosen = next(index for index, answer in enumerate(greedy) if answer.finish == "length")
    written = by_hand(loaded, items[chosen], GREEDY.max_tokens)
    ending = written[5]
    folder = tmp_path / "model"
    shutil.copytree(lively_model, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [tokenizer.eos_token_id, ending]}))
    (answer,) = generate(folder, [items[chosen]], GREEDY, precision="fp32").answers
    until = written.index(ending)
    assert (answer.finish, answer.tokens) == ("stop", until + 1)
    assert answer.text == tokenizer.decode(written[:until], skip_special_tokens=True)


def test_the_models_own_generation_settings_are_not_taken(
    lively_model: Path, items: list[Item], greedy: tuple[Answer, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(lively_model, folder)
    own = {"do_sample": True, "temperature": 2.0, "top_k": 5, "repetition_penalty": 3.0, "no_repeat_ngram_size": 1}
    (folder / "generation_config.json").write_text(json.dumps(own | {"max_new_tokens": 2}))
    assert same(generate(folder, items, GREEDY, precision="fp32").answers, greedy)


def test_a_stop_text_ends_the_answer_and_is_cut_off(
    loaded: tuple[Any, Any], items: list[Item], greedy: tuple[Answer, ...]
) -> None:
    whole = max(greedy, key=lambda answer: len(answer.text))
    stop = whole.text[4:6]
    item = next(item for item in items if item.id == whole.item)
    ((answer,), _) = answered(*loaded, [item], Generation(max_tokens=24, stop=(stop, "never written")))
    assert answer.finish == "stop"
    assert answer.text == whole.text.partition(stop)[0]
    assert (answer.tokens or 0) < (whole.tokens or 0)


def test_samples_depend_on_seed_and_item_and_not_on_the_batch(loaded: tuple[Any, Any], items: list[Item]) -> None:
    sampled = Generation(max_tokens=12, temperature=1.0, seed=4)
    first, _ = answered(*loaded, items, sampled, batch=8)
    again, _ = answered(*loaded, list(reversed(items)), sampled, batch=3)
    assert same(first, list(reversed(again)))
    other, _ = answered(*loaded, items, sampled.model_copy(update={"seed": 5}), batch=8)
    assert not same(first, other)
    cold, _ = answered(*loaded, items, sampled.model_copy(update={"temperature": 1e-4}))
    likeliest, _ = answered(*loaded, items, Generation(max_tokens=12))
    assert same(cold, likeliest)


def test_samples_follow_the_softmax_at_the_temperature(loaded: tuple[Any, Any], make_item: MakeItem) -> None:
    model, tokenizer = loaded
    count, temperature = 600, 1.5
    asked = make_item("hello")
    many = [Item(str(number), asked.messages, asked.prompt, asked.references, {}) for number in range(count)]
    drawn, _ = answered(model, tokenizer, many, Generation(max_tokens=1, temperature=temperature), batch=count)
    ids = tokenizer.apply_chat_template(list(asked.messages), add_generation_prompt=True, return_dict=False)
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1]
    expected: Counter[str] = Counter()
    for token, chance in enumerate(torch.softmax(logits.double() / temperature, -1).tolist()):
        expected[tokenizer.decode([token], skip_special_tokens=True)] += chance
    found = Counter(answer.text for answer in drawn)
    for text, chance in expected.items():
        # Five standard deviations of a binomial share; the draws are fixed by their seed.
        assert abs(found[text] / count - chance) <= 5 * (chance * (1 - chance) / count) ** 0.5 + 1 / count, text


def test_an_answer_stops_where_the_models_context_does(loaded: tuple[Any, Any], make_item: MakeItem) -> None:
    # Bytes are tokens here: BOS, the user's mark, the text, its end, the assistant's mark make 4 + 120 of 128.
    near, short = make_item("y" * 120), make_item("hello")
    answers, _ = answered(*loaded, [near, short], Generation(max_tokens=10), batch=2)
    near_tokens, short_tokens = (answer.tokens or 0 for answer in answers)
    assert (near_tokens <= 4, short_tokens > 4) == (True, True)
    with pytest.raises(InputError, match="1 of 2 prompts fill the model's context of 128 tokens; the longest has 134"):
        answered(*loaded, [short, make_item("y" * 130)], Generation(max_tokens=10))


def test_where_memory_runs_out_fewer_rows_are_taken_and_the_answers_stay(
    loaded: tuple[Any, Any], items: list[Item], greedy: tuple[Answer, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    plain = model.generate
    room = 3

    def small(**given: Any) -> Any:
        if len(given["input_ids"]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(**given)

    monkeypatch.setattr(model, "generate", small)
    heard = Heard()
    answers, rows = answered(model, tokenizer, items, GREEDY, batch=8, listener=heard)
    assert same(answers, greedy)
    assert rows == 2
    assert [line for line in heard.lines if "out of memory" in line] == [
        "out of memory on cpu: going on with 4 rows at once",
        "out of memory on cpu: going on with 2 rows at once",
    ]
    room = 0
    with pytest.raises(EnvironmentFault, match="too small for one prompt"):
        answered(model, tokenizer, items, GREEDY, batch=8)


def test_what_is_needed_to_repeat_it_is_told_and_the_precision_with_its_reason(
    lively_model: Path, items: list[Item]
) -> None:
    heard = Heard()
    made = generate(lively_model, items, Generation(max_tokens=2), batch=5, listener=heard)
    assert heard.lines[0].startswith(f"answers in {made.engine['precision']}: the CPU has ")
    assert made.engine["batch"] == "5"
    assert {"name", "version", "torch", "device", "threads", "template"} <= set(made.engine)
    assert [(done, total) for _, done, total in heard.advances] == [(5, 8), (8, 8)]
    assert not heard.steps, "nothing is trained here"
    assert made.seconds >= max(answer.seconds or 0 for answer in made.answers) > 0
