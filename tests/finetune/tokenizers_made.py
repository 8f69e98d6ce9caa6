"""Tokenizers made here, with templates in the style of current models: byte-level BPE learned on a few sentences."""

from __future__ import annotations

from functools import cache
from typing import Any

TEXT = """
What is the capital of France? The capital of France is Paris. You are a helpful assistant.
Name a river in France, and one in Peru! The Seine. And in Peru? The Amazon.
A golden eagle eats fish near the river. The Eagle is a cheap pub near The Rice Boat.
<think> The user asks for the weather, so I call the tool. </think> 12 degrees and rain.
user system assistant tool reasoning weather in Paris {"name": "weather", "arguments": {"city": "Paris"}}
"""

MARKED = """\
{{- bos_token }}
{%- if tools %}{{- '<|system|>tools: ' + (tools | tojson) + '<|end|>' }}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|assistant|>' }}
        {%- generation %}
            {%- if message.reasoning_content %}{{- '<think>' + message.reasoning_content + '</think>' }}{% endif %}
            {{- message.content }}
            {%- for call in message.tool_calls or [] %}{{- '<call>' + (call.function | tojson) }}{% endfor %}
            {{- '<|end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- '<|' + message.role + '|>' + message.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{% endif %}"""
"""Role tokens, BOS, generation marks."""

CHATML = """\
{%- if tools %}{{- '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- for call in message.tool_calls or [] %}{{- '<call>' + (call.function | tojson) }}{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""
"""No BOS, no marks, a line end behind the end-of-turn token."""

CHATML_MARKED = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}
        {{- '\\n' }}
    {%- else %}{{- message.content + '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""
"""ChatML as above for messages without tools, with marks."""

LLAMA3 = """\
{{- bos_token }}
{%- if tools and messages[0].role == 'system' %}{{- raise_exception('tools replace the system turn') }}{% endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + (message.content | trim) + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
"""BOS, headers between two tokens, no marks; `<|eot_id|>` ends a turn while EOS is another token."""

QWEN3 = """\
{%- set asked = namespace(last=-1) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set asked.last = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' and loop.index0 > asked.last %}
        {{- '<think>\\n' + (message.reasoning_content or '') + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""
"""Thinking is shown after the last user turn only: earlier answers are rendered without it."""

R1 = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content.split('</think>')[-1] + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""
"""Cannot be masked: the generation prompt opens a thought that the rendered answer no longer has."""

ALTERNATING = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message.role == 'user' %}{{- '[INST] ' + message.content + ' [/INST]' }}
    {%- else %}{{- ' ' + message.content + eos_token }}{% endif %}
{%- endfor %}"""
"""Mistral's way: no generation prompt at all, and the template refuses a system turn."""

SPECIAL = (
    "<|bos|>",
    "<|end|>",
    "<|pad|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|tool|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
EOS = {MARKED: "<|end|>", CHATML: "<|im_end|>", CHATML_MARKED: "<|im_end|>", QWEN3: "<|im_end|>"}


@cache
def _raw() -> str:
    """A tokenizer of some 500 tokens as JSON, made once."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(TEXT.split("\n") * 20, trainer)
    text: str = raw.to_str()
    return text


def make(template: str | dict[str, str] | None, *, adds_bos: bool = False, pad: str = "<|pad|>") -> Any:
    """A fast tokenizer with this chat template; with `adds_bos` it puts BOS before plain text itself."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer.from_str(_raw())
    if adds_bos:
        raw.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|bos|>",
        eos_token=EOS.get(template, "<|end|>") if isinstance(template, str) else "<|end|>",
        pad_token=pad,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer
