"""What a request's body tells of how hard it is: its length, what it asks for, and marks of code and mathematics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmops.serve.routing import body as bodies
from llmops.serve.routing.length import at_most, estimated

PER_TURN = 8
"""Tokens that a chat template writes around each message, at most in the usual ones."""
SCANNED = 20_000
"""Characters of the user's text that are looked through for marks, and read by a router; it keeps a decision short
however long the prompt is. Length is told from all of it."""


@dataclass(frozen=True, slots=True)
class Features:
    """Attributes:
    text: of the user's turns, parted by an empty line, as evaluation reports know a prompt; the system's is the same
        for every request and tells nothing.
    characters: of everything that the model will read, tools and schema included.
    prompt_tokens: estimated.
    needed: tokens of context that prompt and answer take at most: the estimate's upper end and the answer asked for.
    turns: messages of the user.
    answers: messages of the model, in a conversation that goes on.
    tools: how many may be called.
    schema: the answer must have a form.
    code, mathematics: marks found in `text`.
    readable: nothing in it but text; without, nothing can be told of how hard it is.
    """

    text: str
    characters: int
    prompt_tokens: int
    needed: int
    turns: int
    answers: int
    tools: int
    schema: bool
    code: int
    mathematics: int
    readable: bool


_CODE = re.compile(
    r"```|"
    r"^[ \t]*(?:def|class|import|from|return|async|func|fn|let|const|var|public|private|static|package|using)\b"
    r"[^\n.?!]{0,80}(?:[(:;={]|$)|"
    r"[;{}][ \t]*$|</?[a-z][a-z0-9]{0,20}[^<>\n]{0,80}>|=>|->|::|&&|\|\||[!=]=|#include\b|\bSELECT\b.{1,200}?\bFROM\b|"
    r"\bTraceback \(most recent call last\)|\b\w+\([\w\s,.\"'=]{0,80}\)|"
    r"\b\w+\.(?:py|js|ts|java|cpp|rs|go|sql|sh|html)\b|"
    r"\b(?i:python|javascript|typescript|c\+\+|bash|regex|sql query|stack trace|unit test)\b",
    re.MULTILINE,
)
_MATHEMATICS = re.compile(
    r"\\(?:frac|sum|int|sqrt|prod|lim|begin|alpha|beta|theta|pi|cdot|times|le|ge)\b|\$[^$\n]{1,200}\$|"
    r"[∑∫√∂∞≤≥≠±×÷∈∀∃]|\d\s*[-+*/^=<>]\s*\(?[\dA-Za-z]|[A-Za-z]\s*[=^]\s*[-\d(]|\d\s?%|"
    r"\b(?i:equation|integral|derivative|theorem|prove|polynomial|probability|matrix|vector|triangle|fraction|"
    r"percent|how (?:many|much)|calculate|compute|solve for)\b"
)


def features_of(body: Mapping[str, Any]) -> Features:
    """The features of a request to any endpoint; never fails, whatever the body holds."""
    turns = bodies.turns_of(body)
    tools, schema = bodies.tools_of(body), bodies.schema_of(body)
    text = "\n\n".join(turn.text for turn in turns if turn.role == "user")
    everything = "\n".join(turn.text for turn in turns)
    if tools:
        everything += bodies.written(tools)
    if schema is not None:
        everything += bodies.written(schema)
    around = PER_TURN * (len(turns) + len(tools))
    head = text[:SCANNED]
    return Features(
        text=text,
        characters=len(everything),
        prompt_tokens=estimated(everything) + around,
        needed=at_most(everything) + around + bodies.answer_tokens(body),
        turns=sum(turn.role == "user" for turn in turns),
        answers=sum(turn.role == "assistant" for turn in turns),
        tools=len(tools),
        schema=schema is not None,
        code=sum(1 for _ in _CODE.finditer(head)),
        mathematics=sum(1 for _ in _MATHEMATICS.finditer(head)),
        readable=bool(text.strip()) and not any(turn.other for turn in turns),
    )


def features_of_text(text: str) -> Features:
    """The features of one message, as graded data holds prompts."""
    return features_of({"messages": [{"role": "user", "content": text}]})
