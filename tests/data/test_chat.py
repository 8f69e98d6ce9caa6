"""A conversation has the same ids in training, evaluation and serving, with one BOS at most."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmops.data.chat import (
    TemplateRefused,
    encode_prompt,
    encode_rendered,
    encode_text,
    marks_answers,
    render,
    render_with_marks,
    template_digest,
    tokenizer_digest,
)
from llmops.errors import InputError
from tests.finetune import tokenizers_made as made

ASK = [{"role": "user", "content": "Name a river in France"}]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Weather of a city", "parameters": {"type": "object"}},
    }
]
TEMPLATES = {
    name: getattr(made, name) for name in ("MARKED", "CHATML", "CHATML_MARKED", "LLAMA3", "QWEN3", "R1", "ALTERNATING")
}
every_template = pytest.mark.parametrize("template", [pytest.param(text, id=name) for name, text in TEMPLATES.items()])


@every_template
@pytest.mark.parametrize("adds_bos", [False, True], ids=["plain tokenizer", "tokenizer that adds BOS itself"])
def test_a_prompt_has_the_ids_of_the_template_applied_by_transformers(template: str, adds_bos: bool) -> None:
    tokenizer = made.make(template, adds_bos=adds_bos)
    theirs = tokenizer.apply_chat_template(ASK, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert encode_prompt(tokenizer, ASK) == theirs


@every_template
def test_a_server_that_renders_first_and_tokenizes_then_gets_the_same_ids(template: str) -> None:
    tokenizer = made.make(template, adds_bos=True)
    text = tokenizer.apply_chat_template(ASK, add_generation_prompt=True, tokenize=False)
    assert encode_prompt(tokenizer, ASK) == tokenizer.encode(text, add_special_tokens=False)


@every_template
def test_a_prompt_has_as_many_bos_as_its_template_writes_which_is_one_or_none(template: str) -> None:
    tokenizer = made.make(template, adds_bos=True)
    assert encode_prompt(tokenizer, ASK).count(tokenizer.bos_token_id) == int("bos_token" in template)


def test_a_template_that_writes_bos_twice_is_refused() -> None:
    tokenizer = made.make("{{ bos_token }}" + made.MARKED)
    with pytest.raises(InputError, match=r"<\|bos\|>"):
        encode_prompt(tokenizer, ASK)


def test_tools_are_shown_as_the_template_shows_them() -> None:
    tokenizer = made.make(made.CHATML)
    theirs = tokenizer.apply_chat_template(
        ASK, tools=TOOLS, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert encode_prompt(tokenizer, ASK, TOOLS) == theirs
    assert encode_prompt(tokenizer, ASK, []) == encode_prompt(tokenizer, ASK)


def test_arguments_of_a_call_may_be_json_text_as_clients_send_them_or_a_mapping() -> None:
    def conversation(arguments: Any) -> list[dict[str, Any]]:
        call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
        return [*ASK, {"role": "assistant", "content": "", "tool_calls": [call]}]

    tokenizer = made.make(made.CHATML)
    held = {"city": "Paris"}
    as_text = render(tokenizer, conversation(json.dumps(held)), generation_prompt=False)
    assert as_text == render(tokenizer, conversation(held), generation_prompt=False)
    with pytest.raises(TemplateRefused, match="weather"):
        render(tokenizer, conversation("{city"), generation_prompt=False)


def test_what_the_template_refuses_is_told_in_its_own_words() -> None:
    with pytest.raises(TemplateRefused, match="roles must alternate"):
        encode_prompt(made.make(made.ALTERNATING), [{"role": "system", "content": "Be kind."}, *ASK])
    with pytest.raises(TemplateRefused, match="system turn"):
        encode_prompt(made.make(made.LLAMA3), [{"role": "system", "content": "Be kind."}, *ASK], TOOLS)


def test_a_message_without_content_is_refused_and_not_rendered_as_none() -> None:
    with pytest.raises(TemplateRefused):
        encode_prompt(made.make(made.CHATML), [{"role": "user", "content": None}])


def test_a_tokenizer_without_template_says_what_to_do() -> None:
    with pytest.raises(InputError, match="no chat template") as caught:
        encode_prompt(made.make(None), ASK)
    assert "chat_template.jinja" in caught.value.fix


def test_several_templates_of_one_tokenizer_are_chosen_by_the_presence_of_tools() -> None:
    tokenizer = made.make({"default": made.CHATML_MARKED, "tool_use": made.CHATML})
    assert marks_answers(tokenizer)
    assert not marks_answers(tokenizer, TOOLS)
    assert "Tools:" in render(tokenizer, ASK, TOOLS, generation_prompt=True)


def test_marks_are_the_characters_between_them() -> None:
    messages = [*ASK, {"role": "assistant", "content": "The Seine."}]
    text, marks = render_with_marks(made.make(made.CHATML_MARKED), messages)
    assert [text[begin:end] for begin, end in marks] == ["The Seine.<|im_end|>"]
    assert text == render(made.make(made.CHATML_MARKED), messages, generation_prompt=False)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_plain_text_gets_one_bos_and_if_asked_one_eos(adds_bos: bool) -> None:
    tokenizer = made.make(None, adds_bos=adds_bos)
    inner = tokenizer.encode("The Seine.", add_special_tokens=False)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert encode_text(tokenizer, "The Seine.") == [bos, *inner]
    assert encode_text(tokenizer, "The Seine.", end=True) == [bos, *inner, eos]
    assert encode_text(tokenizer, "<|bos|>The Seine.<|end|>", end=True) == [bos, *inner, eos]
    assert encode_text(tokenizer, "", end=True) == [bos, eos]


def test_a_tokenizer_without_bos_starts_with_the_text() -> None:
    tokenizer = made.make(None)
    tokenizer.bos_token = None
    assert encode_text(tokenizer, "river") == encode_rendered(tokenizer, "river")


def test_the_template_digest_changes_with_the_text_and_with_the_special_tokens_it_names_only() -> None:
    digest = template_digest(made.make(made.LLAMA3))
    assert digest == template_digest(made.make(made.LLAMA3))
    assert len(digest) == 64
    assert digest != template_digest(made.make(made.LLAMA3 + " "))
    other = made.make(made.LLAMA3)
    other.bos_token = "<|pad|>"
    assert template_digest(other) != digest
    unused = made.make(made.LLAMA3)
    unused.pad_token = "<|tool|>"
    assert template_digest(unused) == digest
    assert template_digest(made.make(None)) != digest


def test_the_tokenizer_digest_changes_with_its_rules_and_not_with_how_it_was_last_called() -> None:
    tokenizer = made.make(made.CHATML)
    digest = tokenizer_digest(tokenizer)
    tokenizer("The Seine.", truncation=True, max_length=2)
    tokenizer(["The Seine.", "The"], padding=True)
    assert tokenizer_digest(tokenizer) == digest
    tokenizer.add_tokens(["Seine"])
    assert tokenizer_digest(tokenizer) != digest


def test_a_tokenizer_written_in_python_has_a_digest_too() -> None:
    from transformers import ByT5Tokenizer

    digest = tokenizer_digest(ByT5Tokenizer(extra_ids=0))
    assert digest == tokenizer_digest(ByT5Tokenizer(extra_ids=0))
    assert digest != tokenizer_digest(ByT5Tokenizer(extra_ids=1))
