"""The embedded bases' tokenizer: byte-level BPE trained on generated text, with a chat template that marks
what the assistant says.

A conversation is `<|bos|>` and then, for each turn, the token of its role, its text and `<|end|>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from llmops.builtin.definition import CONTEXT, Definition
from llmops.builtin.domains import conversations
from llmops.builtin.words import COMMON

BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
ROLES = ("system", "user", "assistant", "tool")
SPECIAL = (BOS, END, PAD, *(f"<|{role}|>" for role in ROLES))
"""In the order of their ids, from 0."""

TEMPLATE = """\
{%- if messages[0].role == 'system' -%}
    {%- set system = messages[0].content -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{{- bos_token -}}
{%- if tools -%}
    {{- '<|system|>' + system + ('\\n\\n' if system else '') + 'Tools:' -}}
    {%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
    {{- eos_token -}}
{%- elif messages[0].role == 'system' -%}
    {{- '<|system|>' + system + eos_token -}}
{%- endif -%}
{%- for message in turns -%}
    {%- if message.role == 'assistant' -%}
        {{- '<|assistant|>' -}}
        {%- generation -%}
            {%- if message.reasoning_content -%}
                {{- '<think>' + message.reasoning_content + '</think>' -}}
            {%- endif -%}
            {{- message.content or '' -}}
            {%- for call in message.tool_calls or [] -%}
                {%- set function = call.function or call -%}
                {{- '<tool_call>{"name": ' + (function.name | tojson) -}}
                {{- ', "arguments": ' + (function.arguments | tojson) + '}</tool_call>' -}}
            {%- endfor -%}
            {{- eos_token -}}
        {%- endgeneration -%}
    {%- elif message.role in ['system', 'user', 'tool'] -%}
        {{- '<|' + message.role + '|>' + message.content + eos_token -}}
    {%- else -%}
        {{- raise_exception('no turn has the role ' + message.role + '; use system, user, assistant or tool') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

_COMMON_WEIGHT = 25
"""How often the tokenizer meets each everyday word: enough to be kept whole, too few to push out generated text."""


def train_tokenizer(definition: Definition) -> Any:
    """A `PreTrainedTokenizerFast` with exactly `definition.vocabulary` tokens, the same ones each time."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    # Digits stand alone, so that numbers never seen are spelt like those seen.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=definition.vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(definition), trainer)
    # Plain text starts with one BOS; the chat template writes its own and is encoded without this.
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    if len(tokenizer) != definition.vocabulary:
        raise ValueError(f"the generated text gives {len(tokenizer)} tokens instead of {definition.vocabulary}")
    return tokenizer


def _texts(definition: Definition) -> Iterable[str]:
    for turns in islice(conversations(definition.seed), definition.sampled):
        yield from (turn["content"] for turn in turns)
    everyday = [form for word in COMMON for form in (f" {word}", f" {word.capitalize()}", word)]
    for _ in range(_COMMON_WEIGHT):
        yield from everyday


def encode_turns(tokenizer: Any, turns: Sequence[Mapping[str, str]]) -> tuple[list[int], list[bool]]:
    """Ids of a conversation as the chat template writes it, and which of them the assistant says.

    Fifty times faster than rendering the template; a test holds both equal.
    """
    ids, said = [SPECIAL.index(BOS)], [False]
    for turn in turns:
        text = tokenizer.backend_tokenizer.encode(turn["content"], add_special_tokens=False).ids
        ids += [SPECIAL.index(f"<|{turn['role']}|>"), *text, SPECIAL.index(END)]
        said += [False] + [turn["role"] == "assistant"] * (len(text) + 1)
    return ids, said
