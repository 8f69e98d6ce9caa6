"""Which conversations a row becomes, and where in each the answers begin that are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.data.formats import answer_turns, prompt_key
from llmops.records import Row


@dataclass(frozen=True, slots=True)
class Conversation:
    """`content` is `{"messages": …, "tools": …?}`; of its messages the first `given` are no answers to train."""

    content: Mapping[str, Any]
    given: int = 0


def conversations(row: Row) -> list[Conversation]:
    """The conversations of a row that is no plain text, in the order of its method's item.

    Of a conversation every answer is trained; of a preference the chosen, then the rejected one, each in the context
    of the prompt; of a labelled answer it alone.
    """
    if row.kind == "messages":
        return [Conversation(row.content)]
    keys = ("completion",) if row.kind == "labelled" else ("chosen", "rejected")
    return [_answered(row.content["messages"], row.content[key]) for key in keys]


def mismatched(rows: Sequence[Row]) -> list[Conversation]:
    """For each labelled row, its prompt with the answer of another: of the nearest before it that asks something else.

    Before the first comes the last. Where all ask the same it is the answer of the row before, its own if it is alone.
    """
    asked = [prompt_key(row) for row in rows]
    found = []
    for place, row in enumerate(rows):
        before = [(place - step) % len(rows) for step in range(1, len(rows) + 1)]
        other = next((one for one in before if asked[one] != asked[place]), before[0])
        found.append(_answered(row.content["messages"], rows[other].content["completion"]))
    return found


def _answered(prompt: list[Any], answer: Any) -> Conversation:
    """The prompt's turns with an answer, a text or turns, behind them."""
    return Conversation({"messages": [*prompt, *answer_turns(answer)]}, given=len(prompt))


def value_of(row: Row) -> float:
    """The number that is kept with each of a row's sequences; 0 where the row has none."""
    return float(row.content.get("label", row.content.get("margin", 0.0)))
