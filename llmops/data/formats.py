"""Columns become canonical rows: conversations, plain text, preferences. What cannot is rejected with its reason."""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmops.data.section import Kind, LabelledRows, MessageRows, PreferenceRows, PromptRows, Rows, TextRows
from llmops.data.sources import read, with_columns_checked
from llmops.data.templates import UnusableCell, cell_text, fill, whole_column
from llmops.files import canonical_json, ordered_json
from llmops.records import Row

ROLES = ("system", "user", "assistant", "tool")
_TEXT_KEYS = ("name", "tool_call_id", "reasoning_content")
ANSWERS = ("chosen", "rejected", "completion")
"""Keys of a row's content that hold an answer beside its `messages`: a text, or turns."""
_KNOWN_KEYS = {"role", "content", "tool_calls", *_TEXT_KEYS}
_LINE_END = re.compile(r"\r\n?")

Note = Callable[[str, int, str], None]
"""Called with (what was done, line, why) where a row is kept but its text is not exactly what was read."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be trained on; `content` is what was read, `check` what it did not pass."""

    source: str
    line: int
    reason: str
    content: Mapping[str, Any]
    check: str = "unusable rows"


def rows(
    spec: Rows,
    records: Iterable[tuple[int, Mapping[str, Any]]] | None = None,
    *,
    on_note: Note = lambda check, line, why: None,
    prompts: bool = False,
) -> Iterator[Row | Rejected]:
    """Every row of a source in canonical form, in its order, those that cannot be used as `Rejected`.

    Args:
        records: `(line, columns)` as `sources.read` gives them; None reads `spec` itself.
        prompts: take of each row what stands before its last answer, to be answered by another; it need not have one.

    Raises:
        InputError: as `sources.read`; or the source lacks a column `spec` names.
    """
    if records is None:
        records = with_columns_checked(spec, read(spec))
    for line, columns in records:
        found: list[tuple[str, str]] = []
        try:
            kind, content = _asked(spec, columns, found) if prompts else _shaped(spec, columns, found)
            identity = _digest(content)
        except UnusableCell as fault:
            yield Rejected(spec.source, line, str(fault), columns)
            continue
        except (UnicodeEncodeError, RecursionError):
            yield Rejected(spec.source, line, "holds half of a surrogate pair, which is no text", columns)
            continue
        for check, why in found:
            on_note(check, line, why)
        yield Row(identity, kind, content, spec.source, line, spec.weight)


def prompt_key(row: Row) -> str:
    """What stands before the last assistant turn, as one text: rows with equal keys ask the same.

    System and all turns with their roles, NFC, spaces collapsed. The whole text of a plain-text row.
    """
    if row.kind == "text":
        turns = [("text", str(row.content["text"]))]
    else:
        messages = list(row.content["messages"])
        if row.kind == "messages":  # the others hold no more than what is asked
            last = max(index for index, turn in enumerate(messages) if turn["role"] == "assistant")
            messages = messages[:last]
        turns = [(str(turn["role"]), _spoken(turn)) for turn in messages]
    return "\n".join(f"{role}: {one_line(text)}" for role, text in turns)


def texts(row: Row) -> list[tuple[str, str]]:
    """Every text of a row with the name of its place (`user turn`, `chosen`, …), in order."""
    if row.kind == "text":
        return [("text", str(row.content["text"]))]
    found = [(f"{turn['role']} turn", _spoken(turn)) for turn in row.content["messages"]]
    return found + [(key, _answer_text(row.content[key])) for key in ANSWERS if key in row.content]


def prompts(row: Row) -> list[str]:
    """The user's texts of a row, or all of a plain-text row: what a test item could have been copied into."""
    return [text for place, text in texts(row) if place in ("user turn", "text")]


def one_line(text: str) -> str:
    """NFC, with every run of spaces and line ends one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def with_content(row: Row, content: Mapping[str, Any]) -> Row:
    """The row with another content, and the id that goes with it."""
    return Row(_digest(content), row.kind, content, row.source, row.line, row.weight)


def as_json(value: Any) -> Any:
    """`value` as JSON can hold it: keys as text; what has no JSON form (dates, bytes, NaN) in Python's spelling."""
    if isinstance(value, Mapping):
        return {_whole(str(key)): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float) else repr(value)


def content_digest(content: Any) -> str:
    """sha256 (hex) of any content in its JSON form; equal to `Row.id` for a row's content."""
    return _digest(as_json(content))


def _digest(content: Any) -> str:
    """sha256 (hex) over a row's content; another order of a tool's keys is another text to a model."""
    return hashlib.sha256(ordered_json(content)).hexdigest()


def _whole(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _spoken(turn: Mapping[str, Any]) -> str:
    """A turn as text: what was thought, said, and called."""
    calls = turn.get("tool_calls")
    parts = [turn.get("reasoning_content", ""), turn["content"], canonical_json(calls).decode() if calls else ""]
    return "\n".join(str(part) for part in parts if part)


Found = list[tuple[str, str]]


def _shaped(spec: Rows, columns: Mapping[str, Any], found: Found) -> tuple[Kind, dict[str, Any]]:
    match spec:
        case TextRows():
            return "text", {"text": _filled(cell_text(spec.text, columns), "the text", found)}
        case MessageRows():
            content: dict[str, Any] = {"messages": _conversation(spec.messages, columns, found)}
            tools = _tools(spec.tools, columns)
            return "messages", content | ({"tools": tools} if tools else {})
        case PromptRows():
            turns = _opening(spec.system, spec.prompt, columns, found)
            if spec.completion is None:
                raise UnusableCell("it has a prompt and no completion")
            answer = _filled(fill(spec.completion, columns), "the completion", found)
            return "messages", {"messages": [*turns, {"role": "assistant", "content": answer}]}
        case PreferenceRows():
            turns = _prompt(spec.prompt, columns, found)
            chosen = _answer(spec.chosen, "the chosen answer", columns, found)
            rejected = _answer(spec.rejected, "the rejected answer", columns, found)
            if one_line(_answer_text(chosen)) == one_line(_answer_text(rejected)):
                raise UnusableCell("the chosen and the rejected answer are the same")
            margin = {} if spec.margin is None else {"margin": _margin(spec.margin, columns)}
            return "preference", {"messages": turns, "chosen": chosen, "rejected": rejected, **margin}
        case LabelledRows():
            turns = _prompt(spec.prompt, columns, found)
            said = _answer(spec.completion, "the completion", columns, found)
            return "labelled", {"messages": turns, "completion": said, "label": _label(spec.label, columns)}


def answer_turns(answer: Any) -> list[dict[str, Any]]:
    """An answer of a row's content as turns: a text is one turn of the assistant."""
    return [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)


def _answer_text(answer: Any) -> str:
    return "\n".join(_spoken(turn) for turn in answer_turns(answer))


def _prompt(template: str, columns: Mapping[str, Any], found: Found) -> list[dict[str, Any]]:
    """What an answer follows: a user turn, or the turns a column holds."""
    name = whole_column(template)
    if name is None or not isinstance(columns.get(name), list):
        return _opening(None, template, columns, found)
    turns = _turns(columns[name], found)
    _check_roles(turns)
    if turns[-1]["role"] not in ("user", "tool"):
        raise UnusableCell(f"the prompt ends with a turn of the {turns[-1]['role']}, not of the user")
    return turns


def _answer(template: str, what: str, columns: Mapping[str, Any], found: Found) -> str | list[dict[str, Any]]:
    """An answer as text where it is one turn that only says something, else as turns."""
    name = whole_column(template)
    if name is None or not isinstance(columns.get(name), list):
        return _filled(fill(template, columns), what, found)
    try:
        turns = _turns(columns[name], found)
    except UnusableCell as fault:
        raise UnusableCell(f"{what}: {fault}") from fault
    roles = {turns[0]["role"], turns[-1]["role"]}
    if roles != {"assistant"} or "system" in (turn["role"] for turn in turns):
        named = ", ".join(turn["role"] for turn in turns)
        raise UnusableCell(f"{what} must begin and end with a turn of the assistant; its turns are of: {named}")
    plain = len(turns) == 1 and turns[0].keys() == {"role", "content"}
    return str(turns[0]["content"]) if plain else turns


_LABELS = {"true": True, "1": True, "false": False, "0": False}


def _label(name: str, columns: Mapping[str, Any]) -> bool:
    value = columns.get(name)
    if isinstance(value, bool):
        return value
    label = _LABELS.get(cell_text(name, columns).strip().lower())
    if label is None:
        raise UnusableCell(f"column `{name}` holds {value!r}; a label is true or false")
    return label


def _asked(spec: Rows, columns: Mapping[str, Any], found: Found) -> tuple[Kind, dict[str, Any]]:
    """What a row asks, without its answer."""
    match spec:
        case TextRows():
            raise UnusableCell("a plain text asks nothing")
        case MessageRows():
            turns = _conversation(spec.messages, columns, found, answered=False)
            tools = _tools(spec.tools, columns)
            return "prompt", {"messages": turns} | ({"tools": tools} if tools else {})
        case PromptRows():
            return "prompt", {"messages": _opening(spec.system, spec.prompt, columns, found)}
        case PreferenceRows() | LabelledRows():
            return "prompt", {"messages": _prompt(spec.prompt, columns, found)}


def _margin(name: str, columns: Mapping[str, Any]) -> float:
    value = columns.get(name)
    try:
        margin = float(value if isinstance(value, int | float) else cell_text(name, columns))
    except ValueError:
        margin = math.nan
    if isinstance(value, bool) or not 0 <= margin < math.inf:
        raise UnusableCell(f"column `{name}` holds {value!r}; a margin is a number, 0 or more")
    return margin


def _opening(system: str | None, prompt: str, columns: Mapping[str, Any], found: Found) -> list[dict[str, Any]]:
    turns = [{"role": "user", "content": _filled(fill(prompt, columns), "the prompt", found)}]
    if system is None:
        return turns
    text = _line_ends(fill(system, columns), found)
    if not text.strip():
        found.append(("empty system turn", "left out, the row is kept"))
        return turns
    return [{"role": "system", "content": text}, *turns]


def _line_ends(text: str, found: Found) -> str:
    """`text` with LF only; a change is noted once per row."""
    if "\r" not in text:
        return text
    note = ("line ends", "CRLF and CR became LF")
    if note not in found:
        found.append(note)
    return _LINE_END.sub("\n", text)


def _filled(text: str, what: str, found: Found) -> str:
    if not text.strip():
        raise UnusableCell(f"{what} is empty")
    return _line_ends(text, found)


def _decoded(name: str, columns: Mapping[str, Any]) -> Any:
    """A column that holds a structure, or one written as JSON text."""
    if name not in columns:
        raise UnusableCell(f"column `{name}` is missing")
    value = columns[name]
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise UnusableCell(f"column `{name}` is text that is not JSON") from error
    return value


def _conversation(
    name: str, columns: Mapping[str, Any], found: Found, *, answered: bool = True
) -> list[dict[str, Any]]:
    """The turns of a conversation; where it need not be `answered`, those before its last answer."""
    given = _decoded(name, columns)
    if given is None:
        raise UnusableCell(f"column `{name}` is empty (null)")
    if not isinstance(given, list):
        raise UnusableCell(f"column `{name}` holds {type(given).__name__}, not a list of turns")
    turns = _turns(given, found)
    if not answered and turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    _check_roles(turns)
    if answered and turns[-1]["role"] != "assistant":
        raise UnusableCell(f"the last turn is of the {turns[-1]['role']}, not of the assistant")
    return turns


def _check_roles(turns: list[dict[str, Any]]) -> None:
    roles = [turn["role"] for turn in turns]
    if "user" not in roles:
        raise UnusableCell("the conversation has no user turn")
    if "assistant" in roles and roles.index("assistant") < roles.index("user"):
        raise UnusableCell("the assistant speaks before the user")


def _turns(given: list[Any], found: Found) -> list[dict[str, Any]]:
    if not given:
        raise UnusableCell("the conversation has no turns")
    turns: list[dict[str, Any]] = []
    for number, one in enumerate(given, 1):
        turn = _turn(one, number, found)
        if turn["role"] == "system" and not turn["content"].strip():
            found.append(("empty system turn", "left out, the row is kept"))
        elif turn["role"] == "system" and turns:
            raise UnusableCell(f"turn {number} is a system turn; only the first may be")
        else:
            turns.append(turn)
    if not turns:
        raise UnusableCell("the conversation has no turns")
    return turns


def _turn(given: Any, number: int, found: Found) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise UnusableCell(f"turn {number} is {type(given).__name__}, not {{role, content}}")
    # A column of structs fills keys that a turn does not have with null.
    held = {key: value for key, value in given.items() if value is not None}
    role = held.get("role")
    if role not in ROLES:
        keys = ", ".join(map(str, given))
        problem = f"has the role {role!r}" if role is not None else f"has no role (its keys: {keys})"
        raise UnusableCell(f"turn {number} {problem}; roles are {', '.join(ROLES)}")
    calls = _tool_calls(held.get("tool_calls"), number)
    if calls and role != "assistant":
        raise UnusableCell(f"turn {number} ({role}) calls tools; only the assistant may")
    text = _line_ends(_content(held.get("content"), number, role), found)
    if not text.strip() and not calls and role not in ("tool", "system"):
        raise UnusableCell(f"turn {number} ({role}) is empty")
    turn: dict[str, Any] = {"role": role, "content": text}
    for key in _TEXT_KEYS:
        if key in held:
            if not isinstance(held[key], str):
                raise UnusableCell(f"turn {number}: `{key}` is {type(held[key]).__name__}, not text")
            turn[key] = _line_ends(held[key], found)
    if calls:
        turn["tool_calls"] = calls
    unknown = sorted(str(key) for key in held if key not in _KNOWN_KEYS)
    if unknown:
        found.append(("keys of turns", f"left out: {', '.join(unknown)}"))
    return turn


def _content(value: Any, number: int, role: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else [value]
    texts_of = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in parts
    ]
    if not all(isinstance(text, str) for text in texts_of):
        raise UnusableCell(f"turn {number} ({role}) holds {type(value).__name__} content that is not text")
    return "\n".join(str(text) for text in texts_of)  # as servers do


def _tool_calls(value: Any, number: int) -> list[dict[str, Any]]:
    """Calls as chat templates take them: `arguments` a mapping, not JSON text."""
    if not value:
        return []
    if not isinstance(value, list):
        raise UnusableCell(f"turn {number}: `tool_calls` is {type(value).__name__}, not a list")
    calls = []
    for call in value:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UnusableCell(f"turn {number}: a tool call has no function name")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError) as error:
                raise UnusableCell(f"turn {number}: the arguments of {function['name']} are not JSON") from error
        if not isinstance(arguments, Mapping | None):
            raise UnusableCell(f"turn {number}: the arguments of {function['name']} are no mapping")
        named = {"name": function["name"], "arguments": dict(arguments or {})}
        identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        calls.append(_json_only({**identity, "type": "function", "function": named}, f"turn {number}: a tool call"))
    return calls


def _tools(name: str | None, columns: Mapping[str, Any]) -> list[Any]:
    if name is None:
        return []
    tools = _decoded(name, columns)
    if not tools:
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise UnusableCell(f"column `{name}` is no list of tool schemas")
    return [_json_only(tool, f"column `{name}`") for tool in tools]


def _json_only(value: Any, what: str) -> Any:
    """A copy as JSON reads it back, so that what is written and what is trained on are one."""
    try:
        return json.loads(ordered_json(value))
    except (TypeError, ValueError) as error:
        raise UnusableCell(f"{what} holds something JSON cannot say") from error
