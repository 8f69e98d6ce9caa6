"""The loss is taken on what the assistant writes and on the token that ends its turn, in the context of serving."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.data.chat import encode_prompt
from llmops.errors import InputError
from llmops.finetune.masks import EXTENDED, NO_END, NO_OFFSETS, REWRITTEN, Encoded, Masker, Unmaskable
from llmops.finetune.tokens import marked_text
from tests.finetune import tokenizers_made as made

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
FIRST = [{"role": "user", "content": "Name a river"}, {"role": "assistant", "content": "The Seine."}]
SECOND = [{"role": "user", "content": "And in Peru?"}, {"role": "assistant", "content": "The Amazon."}]
THOUGHT = {"role": "assistant", "content": "The Amazon.", "reasoning_content": "Peru."}
TOOLS = [{"type": "function", "function": {"name": "weather"}}]
CALLING: list[dict[str, Any]] = [
    {"role": "user", "content": "Rain in Paris?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}],
    },
    {"role": "tool", "content": "rain"},
    {"role": "assistant", "content": "Yes."},
]


def masked(tokenizer: Any, messages: Any, tools: Any = None, notes: list[str] | None = None) -> list[Encoded]:
    masker = Masker(tokenizer)
    turns = masker.turns({"messages": messages, **({"tools": tools} if tools else {})})
    tokenized = masker.tokenize([text for turn in turns for text in (turn.prompt, turn.through)])
    sequences = masker.sequences(turns, tokenized)
    if notes is not None:
        notes += masker.notes
    return sequences


def shown(template: str, messages: Any, tools: Any = None) -> list[str]:
    tokenizer = made.make(template)
    return [marked_text(tokenizer, one) for one in masked(tokenizer, messages, tools)]


CALL = '<call>{"arguments": {"city": "Paris"}, "name": "weather"}'
SHOWN_TOOLS = '[{"type": "function", "function": {"name": "weather", "description": null, "parameters": null}}]'


@pytest.mark.parametrize(
    ("template", "messages", "tools", "golden"),
    [
        pytest.param(
            made.MARKED,
            [*FIRST, *SECOND],
            None,
            "<|bos|><|user|>Name a river<|end|><|assistant|>⟦The Seine.<|end|>⟧"
            "<|user|>And in Peru?<|end|><|assistant|>⟦The Amazon.<|end|>⟧",
            id="several turns, marks",
        ),
        pytest.param(
            made.CHATML,
            [*FIRST, *SECOND],
            None,
            "<|im_start|>user\nName a river<|im_end|>\n<|im_start|>assistant\n⟦The Seine.<|im_end|>⟧\n"
            "<|im_start|>user\nAnd in Peru?<|im_end|>\n<|im_start|>assistant\n⟦The Amazon.<|im_end|>⟧\n",
            id="several turns, no marks",
        ),
        pytest.param(
            made.LLAMA3,
            [SYSTEM, *FIRST],
            None,
            "<|bos|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful assistant.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nName a river<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦The Seine.<|eot_id|>⟧",
            id="a system turn, an end-of-turn token that is not EOS",
        ),
        pytest.param(
            made.MARKED,
            [SYSTEM, *FIRST],
            None,
            "<|bos|><|system|>You are a helpful assistant.<|end|><|user|>Name a river<|end|>"
            "<|assistant|>⟦The Seine.<|end|>⟧",
            id="a system turn, marks",
        ),
        pytest.param(
            made.MARKED,
            CALLING,
            TOOLS,
            f"<|bos|><|system|>tools: {SHOWN_TOOLS}<|end|><|user|>Rain in Paris?<|end|>"
            f"<|assistant|>⟦{CALL}<|end|>⟧<|tool|>rain<|end|><|assistant|>⟦Yes.<|end|>⟧",
            id="tools, marks",
        ),
        pytest.param(
            made.CHATML,
            CALLING,
            TOOLS,
            f"<|im_start|>system\nTools: {SHOWN_TOOLS}<|im_end|>\n<|im_start|>user\nRain in Paris?<|im_end|>\n"
            f"<|im_start|>assistant\n⟦{CALL}<|im_end|>⟧\n<|im_start|>tool\nrain<|im_end|>\n"
            "<|im_start|>assistant\n⟦Yes.<|im_end|>⟧\n",
            id="tools, no marks",
        ),
        pytest.param(
            made.MARKED,
            [*FIRST, SECOND[0], THOUGHT],
            None,
            "<|bos|><|user|>Name a river<|end|><|assistant|>⟦The Seine.<|end|>⟧"
            "<|user|>And in Peru?<|end|><|assistant|>⟦<think>Peru.</think>The Amazon.<|end|>⟧",
            id="thinking, marks",
        ),
        pytest.param(
            made.QWEN3,
            [SECOND[0], THOUGHT],
            None,
            "<|im_start|>user\nAnd in Peru?<|im_end|>\n<|im_start|>assistant\n"
            "⟦<think>\nPeru.\n</think>\n\nThe Amazon.<|im_end|>⟧\n",
            id="thinking, no marks",
        ),
        pytest.param(
            made.ALTERNATING,
            FIRST,
            None,
            "<|bos|>[INST] Name a river [/INST]⟦ The Seine.<|end|>⟧",
            id="no generation prompt",
        ),
        pytest.param(
            made.CHATML,
            [*FIRST, {"role": "user", "content": "And?"}],
            None,
            "<|im_start|>user\nName a river<|im_end|>\n<|im_start|>assistant\n⟦The Seine.<|im_end|>⟧\n",
            id="what follows the last answer is left out, nothing of it is trained",
        ),
        pytest.param(
            made.CHATML,
            [FIRST[0], {"role": "assistant", "content": ""}],
            None,
            "<|im_start|>user\nName a river<|im_end|>\n<|im_start|>assistant\n⟦<|im_end|>⟧\n",
            id="an empty answer trains its end",
        ),
        pytest.param(
            made.CHATML,
            [{"role": "user", "content": "naïve 🦅?"}, {"role": "assistant", "content": "日本 🦅 é"}],
            None,
            "<|im_start|>user\nnaïve 🦅?<|im_end|>\n<|im_start|>assistant\n⟦日本 🦅 é<|im_end|>⟧\n",
            id="characters of several tokens",
        ),
    ],
)
def test_golden(template: str, messages: Any, tools: Any, golden: str) -> None:
    assert shown(template, messages, tools) == [golden]


def test_where_earlier_thinking_is_stripped_each_answer_is_trained_as_it_is_served() -> None:
    tokenizer, notes = made.make(made.QWEN3), list[str]()
    thinking = [FIRST[0], {**FIRST[1], "reasoning_content": "Paris."}, SECOND[0], THOUGHT]
    assert [marked_text(tokenizer, one) for one in masked(tokenizer, thinking, notes=notes)] == [
        "<|im_start|>user\nName a river<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\nParis.\n</think>\n\nThe Seine.<|im_end|>⟧\n",
        "<|im_start|>user\nName a river<|im_end|>\n<|im_start|>assistant\nThe Seine.<|im_end|>\n"
        "<|im_start|>user\nAnd in Peru?<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\nPeru.\n</think>\n\nThe Amazon.<|im_end|>⟧\n",
    ]
    assert notes == [REWRITTEN]


def test_answers_of_one_turn_of_the_user_share_a_sequence_also_where_thinking_is_stripped() -> None:
    calling = [{"reasoning_content": "I call.", **turn} for turn in CALLING[:2]] + CALLING[2:]
    assert len(masked(made.make(made.QWEN3), calling)) == 1


def test_a_template_whose_generation_prompt_is_no_part_of_the_answer_cannot_be_masked() -> None:
    with pytest.raises(Unmaskable, match="<think>"):
        masked(made.make(made.R1), FIRST)


def test_an_answer_that_melts_with_the_generation_prompt_into_one_token_cannot_be_masked() -> None:
    tokenizer = made.make(made.CHATML)
    tokenizer.add_tokens(["\n\n"])
    assert masked(tokenizer, FIRST)
    with pytest.raises(Unmaskable, match="one token"):
        masked(tokenizer, [FIRST[0], {"role": "assistant", "content": "\nThe Seine."}])


def test_bos_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"<\|bos\|>"):
        masked(made.make("{{ bos_token }}" + made.MARKED), FIRST)


def test_marks_that_stop_before_the_end_of_turn_token_are_extended_to_it_and_it_is_said() -> None:
    short = made.MARKED.replace(
        "{{- '<|end|>' }}\n        {%- endgeneration %}", "{%- endgeneration %}{{- '<|end|>' }}"
    )
    assert short != made.MARKED
    tokenizer, notes = made.make(short), list[str]()
    (one,) = masked(tokenizer, [*FIRST, *SECOND], notes=notes)
    assert marked_text(tokenizer, one) == shown(made.MARKED, [*FIRST, *SECOND])[0]
    assert notes == [EXTENDED]


def test_marks_with_text_between_them_and_the_end_of_turn_token_cannot_be_masked() -> None:
    gap = made.CHATML_MARKED.replace(
        "{{- message.content + '<|im_end|>' }}{% endgeneration %}",
        "{{- message.content }}{% endgeneration %}{{- ' done<|im_end|>' }}",
    )
    assert gap != made.CHATML_MARKED
    with pytest.raises(Unmaskable, match="marks end before"):
        masked(made.make(gap), FIRST)


def test_marks_around_the_header_do_not_train_what_the_generation_prompt_supplies() -> None:
    wide = made.MARKED.replace(
        "{{- '<|assistant|>' }}\n        {%- generation %}", "{%- generation %}{{- '<|assistant|>' }}"
    )
    assert wide != made.MARKED
    assert shown(wide, FIRST) == shown(made.MARKED, FIRST)


def test_marks_that_hold_nothing_train_nothing() -> None:
    empty = made.CHATML + "{% generation %}{% endgeneration %}"
    (one,) = masked(made.make(empty), FIRST)
    assert not one.trained.any()


def test_a_template_without_end_of_turn_token_is_noted() -> None:
    notes: list[str] = []
    plain = "{% for m in messages %}{{ m.role + ':\\n' + m.content + '\\n' }}{% endfor %}"
    masked(made.make(plain + "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"), FIRST, notes=notes)
    assert notes == [NO_END]


def test_pad_equal_to_the_end_of_turn_token_still_trains_it() -> None:
    tokenizer = made.make(made.CHATML, pad="<|im_end|>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    (one,) = masked(tokenizer, FIRST)
    assert one.trained[one.ids == tokenizer.eos_token_id].tolist() == [False, True]


def test_a_tokenizer_that_does_not_know_its_characters_is_masked_by_prefixes_and_it_is_said() -> None:
    from transformers import ByT5Tokenizer

    tokenizer, notes = ByT5Tokenizer(extra_ids=0), list[str]()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role[0] + '>' }}{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
        "{% endfor %}{% if add_generation_prompt %}a>{% endif %}"
    )
    (one,) = masked(tokenizer, [*FIRST, *SECOND], notes=notes)
    assert marked_text(tokenizer, one) == ("u>Name a river</s>a>⟦The Seine.</s>⟧u>And in Peru?</s>a>⟦The Amazon.</s>⟧")
    assert notes == [NO_OFFSETS]


# What follows must hold for every conversation.

words = st.text(st.sampled_from("aeTh .,!\n🦅é日{}<>|/"), max_size=12)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": draw(words)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        messages.append({"role": "user", "content": draw(words)})
        messages.append({"role": "assistant", "content": draw(words)})
    return messages


@settings(max_examples=60)
@given(conversations())
def test_marks_and_prefixes_give_the_same_mask_on_a_template_that_allows_both(messages: Any) -> None:
    by_marks = masked(made.make(made.CHATML_MARKED), messages)
    by_prefixes = masked(made.make(made.CHATML), messages)
    assert [one.ids.tolist() for one in by_marks] == [one.ids.tolist() for one in by_prefixes]
    assert [one.trained.tolist() for one in by_marks] == [one.trained.tolist() for one in by_prefixes]


@settings(max_examples=60)
@given(conversations())
def test_our_mask_is_the_one_transformers_takes_from_the_same_marks(messages: Any) -> None:
    tokenizer = made.make(made.MARKED)
    (one,) = masked(tokenizer, messages)
    theirs = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True, tokenize=True)
    assert one.ids.tolist() == theirs["input_ids"]
    assert one.trained.tolist() == [bool(mark) for mark in theirs["assistant_masks"]]


@settings(max_examples=60)
@given(conversations(), st.sampled_from([made.MARKED, made.CHATML, made.LLAMA3, made.QWEN3]))
def test_what_stands_before_an_answer_is_what_the_model_is_asked_with_when_served(messages: Any, template: str) -> None:
    tokenizer = made.make(template)
    prompts = [
        encode_prompt(tokenizer, messages[:place])
        for place, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    begun = []
    for one in masked(tokenizer, messages):
        for place in range(1, len(one.ids)):
            if one.trained[place] and not one.trained[place - 1]:
                begun.append(one.ids[:place].tolist())
    assert begun == prompts


@settings(max_examples=40)
@given(conversations(), st.sampled_from([made.MARKED, made.CHATML, made.LLAMA3, made.QWEN3]))
def test_every_answer_is_trained_once_with_its_end(messages: Any, template: str) -> None:
    tokenizer = made.make(template)
    ends = {"<|end|>", "<|im_end|>", "<|eot_id|>"}
    answers = [message for message in messages if message["role"] == "assistant"]
    trained = [tokenizer.convert_ids_to_tokens(one.ids[one.trained].tolist()) for one in masked(tokenizer, messages)]
    assert sum(token in ends for tokens in trained for token in tokens) == len(answers)
