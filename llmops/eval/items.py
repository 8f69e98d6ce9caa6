"""Items of a suite: rows with one prompt become one item with several references, named by a digest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmops.data.formats import Rejected, rows
from llmops.data.section import MessageRows, Origin, PreferenceRows, PromptRows
from llmops.data.templates import UnusableCell, columns_in, fill
from llmops.errors import InputError, nearest
from llmops.eval.suite import ItemSource, MessageItems, PairItems, PromptItems, Suite
from llmops.files import digest_of
from llmops.records import Row

Message = Mapping[str, Any]
Read = Callable[[Origin], Iterator[tuple[int, dict[str, Any]]]]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing a model is asked.

    Attributes:
        id: sha256 (hex) of `messages` in canonical form, of a pair with its two answers; reports are paired by it.
        messages: the conversation to answer; its last turn is not the assistant's.
        prompt: the text of its user turns, for people and for contamination checks.
        references: good answers, at least one, in the order of the source.
        slices: for each breakdown the value this item has; a breakdown it has no value in is left out.
        cluster: items with the same one are not independent and are resampled together.
        choices: answers to choose from, where it is such an item.
    """

    id: str
    messages: tuple[Message, ...]
    prompt: str
    references: tuple[str, ...]
    slices: Mapping[str, str]
    cluster: str = ""
    choices: tuple[str, ...] = ()


def items_of(suite: Suite, read: Read | None = None) -> list[Item]:
    """The items of a suite in the order of their first rows, `limit` applied.

    Args:
        read: gives the rows of a source with their line numbers; `llmops.data.sources.read` by default.

    Raises:
        InputError: the source is empty, lacks a column, or has a row without prompt or reference.
    """
    found = _grouped(suite.items, read)
    limit = suite.items.limit
    if limit is None or limit >= len(found):
        return found
    # The smallest digests: which items these are depends on no order, and a larger limit only adds to them.
    kept = set(sorted(item.id for item in found)[:limit])
    return [item for item in found if item.id in kept]


def prompts(suite: Suite, read: Read | None = None) -> list[str]:
    """What the suite asks, each prompt once, whatever its `limit`: what must not be trained on."""
    return [item.prompt for item in _grouped(suite.items, read)]


def suite_digest(suite: Suite, items: Sequence[Item]) -> str:
    """sha256 over what two reports must share to be compared: items with references, decoding, scorers."""
    return digest_of(
        {
            # Choices only where there are any: suites without keep their digests.
            "items": sorted(
                [item.id, *item.references, *(["choices", *item.choices] if item.choices else [])] for item in items
            ),
            "generation": suite.generation.model_dump(mode="json"),
            "scorers": [scorer.resolved() for scorer in suite.scorers],
        }
    )


def _grouped(source: ItemSource, read: Read | None) -> list[Item]:
    if read is None:
        from llmops.data.sources import read as read_source

        read = read_source
    shown = _examples(source, read)
    found: dict[str, Item] = {}
    for line, columns in read(source):
        where = f"{source.source}:{line}"
        try:
            items = [_item(source, row, columns) for row in _rows(source, line, columns)]
        except UnusableCell as problem:
            raise _unusable(where, str(problem), columns) from problem
        for item in (_shown_before(item, shown) for item in items):
            first = found.setdefault(item.id, item)
            if first is not item:
                found[item.id] = _joined(first, item, where)
    if not found:
        raise InputError(f"{source.source} has no rows, so there is nothing to measure", fix="give a source with items")
    return list(found.values())


def _examples(source: ItemSource, read: Read) -> list[Item]:
    """Solved items to be shown, by their digests, and one to spare; none where the source asks for none."""
    if source.few_shot is None:
        return []
    origin = source.few_shot.model_dump(exclude={"count"}) | {"few_shot": None, "slices": {}, "cluster": None}
    found = sorted(_grouped(source.model_copy(update=origin), read), key=lambda item: item.id)
    if len(found) < source.few_shot.count:
        raise InputError(
            f"{source.few_shot.source} has {len(found)} examples, {source.few_shot.count} are to be shown",
            fix="lower few_shot.count, or name a larger source",
        )
    return found[: source.few_shot.count + 1]


def _shown_before(item: Item, shown: Sequence[Item]) -> Item:
    """The item with the examples as earlier turns, after its system turn; the spare one stands in for itself."""
    if not shown:
        return item
    others = [one for one in shown if one.prompt != item.prompt][: max(1, len(shown) - 1)]
    turns: list[Message] = []
    for one in others:
        turns += [turn for turn in one.messages if turn["role"] != "system"]
        turns.append({"role": "assistant", "content": one.references[0]})
    begin = next((place for place, turn in enumerate(item.messages) if turn["role"] != "system"), 0)
    messages = (*item.messages[:begin], *turns, *item.messages[begin:])
    return replace(item, id=digest_of(list(messages)), messages=messages)


def _rows(source: ItemSource, line: int, columns: Mapping[str, Any]) -> Iterator[Row]:
    """The rows as they would be trained on, one per reference, so that prompts have one form in both places."""
    spec: PromptRows | MessageRows | PreferenceRows
    match source:
        case PromptItems():
            for template in source.references:
                # A bare `{column}` that holds a list stands for each of its texts.
                for expanded in _each(template, columns):
                    spec = PromptRows(
                        source=source.source, prompt=source.prompt, completion=template, system=source.system
                    )
                    yield _row(spec, line, expanded)
        case MessageItems():
            spec = MessageRows(source=source.source, messages=source.messages)
            if source.references is None:
                yield _row(spec, line, columns)
                return
            asked = _turns(source.messages, columns)
            for template in source.references:
                for expanded in _each(template, columns):
                    answer = {"role": "assistant", "content": fill(template, expanded)}
                    yield _row(spec, line, {**columns, source.messages: [*asked, answer]})
        case PairItems():
            spec = PreferenceRows(
                source=source.source, prompt=source.prompt, chosen=source.chosen, rejected=source.rejected
            )
            yield _row(spec, line, columns)
        case _:
            raise AssertionError(f"unknown items {type(source)}")


def _row(spec: PromptRows | MessageRows | PreferenceRows, line: int, columns: Mapping[str, Any]) -> Row:
    (row,) = rows(spec, [(line, columns)])
    if isinstance(row, Rejected):
        raise UnusableCell(row.reason.replace("the completion", "a reference"))
    return row


def _each(template: str, columns: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    name = columns_in(template)[0]
    cell = columns.get(name)
    if template != f"{{{name}}}" or not isinstance(cell, list | tuple):
        yield columns
        return
    if not cell:
        raise UnusableCell(f"column `{name}` is an empty list, so there is no reference")
    for one in cell:
        yield {**columns, name: one}


def _turns(name: str, columns: Mapping[str, Any]) -> list[Any]:
    """The conversation of a row, which someone other than the assistant must end."""
    given = columns.get(name)
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise UnusableCell(f"column `{name}` is text that is not JSON") from error
    if name not in columns or not isinstance(given, list | tuple):
        raise UnusableCell(f"column `{name}` is missing" if name not in columns else f"column `{name}` is no list")
    if given and isinstance(given[-1], Mapping) and given[-1].get("role") == "assistant":
        raise UnusableCell(f"column `{name}` ends with the assistant's turn; leave `references` out to use that turn")
    return list(given)


def _item(source: ItemSource, row: Row, columns: Mapping[str, Any]) -> Item:
    pair = [row.content[side] for side in ("chosen", "rejected") if side in row.content]
    if not all(isinstance(one, str) for one in pair):
        raise UnusableCell("an answer has several turns, or more than text in one; pairs here are of two texts")
    messages = list(row.content["messages"])
    reference = pair[0] if pair else messages.pop()["content"]
    prompt = "\n\n".join(turn["content"] for turn in messages if turn["role"] == "user")
    slices = {name: value for name, how in source.slices.items() if (value := _slice(how, columns, prompt)) is not None}
    if source.cluster is not None and source.cluster not in columns:
        raise UnusableCell(f"column `{source.cluster}` is missing")
    cluster = digest_of(prompt if source.cluster is None else str(columns[source.cluster]))[:16]
    choices: tuple[str, ...] = tuple(pair)
    if isinstance(source, PromptItems) and source.choices is not None:
        choices = tuple(fill(one, expanded) for one in source.choices for expanded in _each(one, columns))
    return Item(digest_of(messages + pair), tuple(messages), prompt, (reference,), slices, cluster, choices)


def _joined(first: Item, second: Item, where: str) -> Item:
    if first.slices != second.slices:
        names = sorted({*first.slices, *second.slices})
        name = next(name for name in names if first.slices.get(name) != second.slices.get(name))
        raise InputError(
            f"{where}: slice {name} is {second.slices.get(name)!r} here and {first.slices.get(name)!r} "
            "in an earlier row with the same prompt",
            fix="slice by something that all references of a prompt share",
        )
    if first.choices != second.choices:
        raise InputError(
            f"{where}: its choices are others than in an earlier row with the same prompt",
            fix="give rows with one prompt the same choices, or tell them apart in the prompt",
        )
    return replace(first, references=first.references + second.references)


def _slice(how: str, columns: Mapping[str, Any], prompt: str) -> str | None:
    if how in columns:
        return None if columns[how] is None else str(columns[how])
    pattern = re.compile(how)
    if not pattern.groups:
        raise UnusableCell(f"column `{how}` is missing")
    found = pattern.search(prompt)
    return found.group(1) if found else None


def _unusable(where: str, problem: str, columns: Mapping[str, Any]) -> InputError:
    missing = re.fullmatch(r"column `(.+)` is missing", problem)
    if missing:
        return InputError(
            f"{where}: there is no column `{missing.group(1)}`{nearest(missing.group(1), columns)}",
            fix=f"use its columns: {', '.join(columns) or 'it has none'}",
        )
    return InputError(f"{where}: {problem}", fix="mend the row, or leave it out of the source")
