"""The embedded tokenizer loses no text, and its chat template marks exactly what the assistant says."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmops.builtin import words
from llmops.builtin.definition import TINY
from llmops.builtin.domains import conversations
from llmops.builtin.tokenizer import BOS, END, PAD, SPECIAL, encode_turns, train_tokenizer

Turns = list[dict[str, Any]]
TOOL = {"type": "function", "function": {"name": "clock", "description": "The time.", "parameters": {}}}

CONVERSATIONS: list[Turns] = [
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello, Ada."}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2 plus 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And 3 plus 3?"},
        {"role": "assistant", "content": "6"},
    ],
    [
        {"role": "user", "content": "What time is it?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "clock", "arguments": {}}}],
        },
        {"role": "tool", "content": "9:30"},
        {"role": "assistant", "content": "Half past nine."},
    ],
]


def rendered(tokenizer: Any, turns: Turns, **more: Any) -> str:
    text = tokenizer.apply_chat_template(turns, tokenize=False, **more)
    assert isinstance(text, str)
    return text


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=st.text())
def test_any_text_comes_back_as_it_was(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_two_trainings_give_the_same_tokenizer(tokenizer: Any) -> None:
    again = train_tokenizer(TINY)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_it_comes_back_from_disk_as_it_was(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "The Blue Owl, 9:45, naïve 🦉\n\tend"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.decode(loaded(text, add_special_tokens=False)["input_ids"]) == text


def test_special_tokens_are_distinct_and_the_end_of_a_turn_ends_generation(tokenizer: Any) -> None:
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (BOS, END, PAD)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(len(SPECIAL)))
    config = TINY.config()
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    ]


def test_it_has_as_many_tokens_as_the_model_has_embeddings(tokenizer: Any) -> None:
    assert len(tokenizer) == TINY.config()["vocab_size"]


def test_names_of_the_domains_are_one_token_a_word_and_so_are_nearly_all_everyday_words(tokenizer: Any) -> None:
    names = {*words.FIRST, *words.LAST, *words.PLACE, *words.SPOT, *words.THING, *words.MONTH, *words.DAY}
    assert not [word for word in names if len(tokenizer.tokenize(f" {word}")) > 1]
    split = [word for word in words.COMMON if len(tokenizer.tokenize(f" {word}")) > 1]
    assert len(split) < 0.05 * len(words.COMMON), split


def test_plain_text_starts_with_one_bos(tokenizer: Any) -> None:
    assert tokenizer("Alder Bay")["input_ids"].count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("turns", CONVERSATIONS, ids=["one turn", "system and two turns", "a tool"])
@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["no tools", "tools"])
def test_a_conversation_has_one_bos_at_its_start(tokenizer: Any, turns: Turns, tools: Any) -> None:
    ids = tokenizer.apply_chat_template(turns, tools=tools, return_dict=True)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("turns", CONVERSATIONS, ids=["one turn", "system and two turns", "a tool"])
def test_the_mask_is_what_the_assistant_says_with_its_end(tokenizer: Any, turns: Turns) -> None:
    out = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    trained = [token for token, said in zip(out["input_ids"], out["assistant_masks"], strict=True) if said]
    expected = ""
    for turn in turns:
        if turn["role"] == "assistant":
            calls = ['<tool_call>{"name": "clock", "arguments": {}}</tool_call>' for _ in turn.get("tool_calls", [])]
            expected += turn["content"] + "".join(calls) + END
    assert tokenizer.decode(trained) == expected


@pytest.mark.parametrize("turns", CONVERSATIONS, ids=["one turn", "system and two turns", "a tool"])
@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["no tools", "tools"])
def test_what_is_asked_for_is_a_prefix_of_what_was_answered(tokenizer: Any, turns: Turns, tools: Any) -> None:
    for at, turn in enumerate(turns):
        if turn["role"] == "assistant":
            asked = rendered(tokenizer, turns[:at], tools=tools, add_generation_prompt=True)
            answered = rendered(tokenizer, turns[: at + 1], tools=tools)
            assert answered.startswith(asked)
            assert not asked.endswith(END)
            assert answered.endswith(END)
            assert rendered(tokenizer, turns, tools=tools).startswith(answered)


def test_tools_are_shown_after_the_system_text(tokenizer: Any) -> None:
    text = rendered(tokenizer, CONVERSATIONS[1], tools=[TOOL])
    assert text.startswith(f"{BOS}<|system|>Be brief.\n\nTools:\n")
    assert text.count("<|system|>") == 1
    assert text.count('"clock"') == 1


def test_thinking_is_trained_and_kept(tokenizer: Any) -> None:
    turns = [
        {"role": "user", "content": "2 plus 2?"},
        {"role": "assistant", "reasoning_content": "two and two", "content": "4"},
    ]
    assert rendered(tokenizer, turns).endswith(f"<|assistant|><think>two and two</think>4{END}")


def test_an_unknown_role_is_refused_by_name(tokenizer: Any) -> None:
    from jinja2.exceptions import TemplateError

    with pytest.raises(TemplateError, match="narrator"):
        rendered(tokenizer, [{"role": "narrator", "content": "Once"}])


def test_pretraining_encodes_as_the_template_writes(tokenizer: Any) -> None:
    for turns in islice(conversations(3), 60):
        ids, said = encode_turns(tokenizer, turns)
        out = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
        assert ids == out["input_ids"]
        assert [int(spoken) for spoken in said] == out["assistant_masks"]
