"""How a conversation becomes token ids: the one way that training, evaluation and serving share.

The template is the tokenizer's own, and so are the special tokens: nothing is added behind its back.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmops.errors import InputError
from llmops.files import digest_of

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TemplateRefused(InputError):
    """The chat template does not take these messages; the problem is in the template's words."""


def encode_prompt(tokenizer: Any, messages: Messages, tools: Tools | None = None) -> list[int]:
    """Ids a model is asked with: the conversation so far and the beginning of the answer.

    Equal to the ids `encode_rendered(render(...))` gives in training up to the answer, and to what an
    OpenAI-compatible server makes of the same messages.

    Raises:
        TemplateRefused: the template does not take these messages.
        InputError: the tokenizer has no chat template, or the template writes BOS twice.
    """
    return encode_rendered(tokenizer, render(tokenizer, messages, tools, generation_prompt=True))


def encode_text(tokenizer: Any, text: str, *, end: bool = False) -> list[int]:
    """Ids of plain text: one BOS where the tokenizer has one, the text, with `end` one EOS where it has one."""
    ids = _ids(tokenizer, text)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and ids[:1] != [bos]:
        ids = [bos, *ids]
    if end and eos is not None and ids[-1:] != [eos]:
        ids = [*ids, eos]
    return ids


def render(tokenizer: Any, messages: Messages, tools: Tools | None = None, *, generation_prompt: bool) -> str:
    """The conversation as the tokenizer's chat template writes it.

    Raises:
        TemplateRefused: the template does not take these messages (roles, a system turn, a missing key).
        InputError: the tokenizer has no chat template.
    """
    from jinja2 import TemplateError

    template_of(tokenizer, tools)
    try:
        text: str = tokenizer.apply_chat_template(
            template_messages(messages),
            tools=template_tools(tools),
            add_generation_prompt=generation_prompt,
            tokenize=False,
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise _refused(error) from error
    return text


def render_with_marks(
    tokenizer: Any, messages: Messages, tools: Tools | None = None
) -> tuple[str, list[tuple[int, int]]]:
    """The conversation, and the character ranges its template puts between `{% generation %}` marks.

    Raises:
        TemplateRefused, InputError: as `render`.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    template = template_of(tokenizer, tools)
    try:
        texts, marks = render_jinja_template(
            conversations=[template_messages(messages)],
            tools=template_tools(tools),
            chat_template=template,
            return_assistant_tokens_mask=True,
            add_generation_prompt=False,
            **tokenizer.special_tokens_map,
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise _refused(error) from error
    return texts[0], [(start, end) for start, end in marks[0] if end > start]


def encode_rendered(tokenizer: Any, text: str) -> list[int]:
    """Ids of what a template wrote: special tokens are read from the text and none is added.

    Raises:
        InputError: the text begins with two BOS.
    """
    return one_bos(tokenizer, _ids(tokenizer, text))


def one_bos(tokenizer: Any, ids: list[int]) -> list[int]:
    """`ids` as they are; raises InputError where they begin with two BOS."""
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise InputError(
            f"the chat template writes {tokenizer.bos_token} and the tokenizer adds another one",
            fix="leave bos_token out of the template, or switch the tokenizer's own off (add_bos_token: false)",
        )
    return ids


def template_messages(messages: Messages) -> list[dict[str, Any]]:
    """Messages as templates take them: arguments of tool calls as mappings, as servers pass them on."""
    return [_with_parsed_calls(message) if message.get("tool_calls") else dict(message) for message in messages]


def template_tools(tools: Tools | None) -> list[dict[str, Any]] | None:
    """Tools as servers pass them on, since templates write them whole: known keys only, in one order, and null for a
    description or parameters that are not given (OpenAI's shape, as vLLM fills it in). None for no tools."""
    return [_served_tool(tool) for tool in tools] if tools else None


def template_of(tokenizer: Any, tools: Tools | None = None) -> str:
    """The template's text; where a tokenizer has several, the one it takes for a call with these tools.

    Raises:
        InputError: it has none.
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no chat template",
            fix="take the instruction-tuned variant of the model, put a chat_template.jinja beside tokenizer.json, "
            "or train on plain text (`text: column`)",
        )
    try:
        template: str = tokenizer.get_chat_template(tools=list(tools) if tools else None)
    except ValueError as error:
        raise InputError(
            f"the tokenizer has several chat templates and none is its default: {error}",
            fix="name one of them `default` in the tokenizer's folder",
        ) from error
    return template


def marks_answers(tokenizer: Any, tools: Tools | None = None) -> bool:
    """Whether the template says with `{% generation %}` what the assistant writes."""
    return bool(_GENERATION.search(template_of(tokenizer, tools)))


def template_digest(tokenizer: Any) -> str:
    """sha256 (hex) over the template's text and the special tokens it names; a tokenizer without one has a digest too.

    What is served must have the digest it was trained with.
    """
    template = tokenizer.chat_template or None
    text = json.dumps(template, sort_keys=True)
    used = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if name in text}
    return digest_of({"template": template, "special_tokens": used})


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 (hex) over everything that decides which ids a text gets."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        held = json.loads(backend.to_str())
        # What the last call asked for is kept in there too, and is no part of the tokenizer.
        rules = {key: value for key, value in held.items() if key not in ("truncation", "padding")}
    else:
        file = getattr(tokenizer, "vocab_file", None)
        content = Path(file).read_bytes() if file else b""
        rules = {
            "class": type(tokenizer).__name__,
            "vocabulary": tokenizer.get_vocab(),
            "file": hashlib.sha256(content).hexdigest(),
        }
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return digest_of({"rules": rules, "special_tokens": special})


def _ids(tokenizer: Any, text: str) -> list[int]:
    # `verbose` would warn of texts longer than the model; how long a row may be is for the caller to say.
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return list(ids)


def _with_parsed_calls(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = []
    for call in message["tool_calls"]:
        call = dict(call)
        if isinstance(call.get("function"), Mapping):
            call["function"] = _parsed(call["function"])
        else:
            call = _parsed(call)
        calls.append(call)
    return {**message, "tool_calls": calls}


def _parsed(function: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as a mapping and, as servers order them, before the name."""
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise TemplateRefused(
                f"the arguments of the tool call {function.get('name')} are not JSON", fix="write them as a JSON object"
            ) from error
    return {"arguments": arguments or {}, **{key: value for key, value in function.items() if key != "arguments"}}


def _served_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if not isinstance(function, Mapping):
        return dict(tool)
    served = {key: function.get(key) for key in ("name", "description", "parameters")}
    served |= {key: function[key] for key in ("strict", "defer_loading") if function.get(key) is not None}
    return {"type": tool.get("type", "function"), "function": served}


def _refused(error: Exception) -> TemplateRefused:
    return TemplateRefused(
        f"the chat template refuses the conversation: {error}",
        fix="shape the rows as the template wants them (roles in turn, a system turn only where it has one)",
    )
