"""Row lengths before anything is tokenized: up to 200 rows of each source, read and counted.

With the base's `tokenizer.json` on disk and the light `tokenizers` package the count is the
tokenizer's; otherwise four bytes are taken for a token, and the profile says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from llmops.data.section import DataSection, Rows
from llmops.finetune.lengths import LengthProfile
from llmops.finetune.method import Distill, Grpo
from llmops.finetune.recipe import Recipe
from llmops.records import Row

SAMPLE = 200
_READ = 20_000
_READ_BYTES = 8 << 20
_BYTES_PER_TOKEN = 4.0
_TURN_TOKENS = 4
"""Tokens a chat template puts around a turn: its role and its two ends, as ChatML and Llama 3 do."""

Count = Callable[[str], int]


def sampled_lengths(recipe: Recipe, base: Path | None) -> tuple[LengthProfile, tuple[str, ...]]:
    """The lengths of the sequences one epoch trains on, as far as a second of reading shows them, and what to know.

    A row of a method whose items have several sequences counts as so many. Sources that are not on this machine
    count as one update of rows of `batch.max_length`.

    Args:
        base: the folder with the base's `tokenizer.json`; None or a folder without one counts bytes.

    Raises:
        InputError: a local source is missing, empty or malformed, or lacks a column.
    """
    from llmops.data.sources import is_local

    count, counted_by = _counter(base)
    limit, together = recipe.batch.max_length, len(recipe.method.item.trained)
    by_length: dict[int, float] = {}
    labels, seen, notes = 0.0, 0, []
    for spec in recipe.data.train:
        if not is_local(spec):
            rows = float(spec.take or recipe.batch.sequences)
            known = f"its {spec.take:,} rows are" if spec.take else "its rows are not known; an epoch of it is"
            end = "" if spec.take else " one update,"
            notes.append(f"{spec.source} is not read for a plan: {known}{end} counted as {limit} tokens each")
            by_length[limit] = by_length.get(limit, 0.0) + together * rows * spec.weight
            labels += together * rows * spec.weight * (limit - 1)
            continue
        sample, rows = _sample(spec, prompts=recipe.only_prompts)
        counted = [_lengths(row, count) for row in sample]
        fitting = [sequences for sequences in counted if all(length <= limit for length, _ in sequences)]
        times = rows * _kept(recipe.data) * spec.weight / len(counted) if counted else 0.0
        for length, label in (one for sequences in fitting for one in _answered(recipe, sequences)):
            by_length[length] = by_length.get(length, 0.0) + times
            labels += times * label
        seen += len(counted)
        if len(fitting) < len(counted):
            share = 1 - len(fitting) / len(counted)
            notes.append(f"about {share:.0%} of {spec.source} is longer than {limit} tokens and will be dropped")
    origin = f"estimated on {seen:,} rows, {counted_by}" if seen else "assumed: every row as long as it may be"
    if (longest := _longest_answer(recipe)) is not None:
        notes.append(f"answers that are still to be made are counted at their longest, {longest} tokens")
    return LengthProfile(tuple(sorted(by_length.items())), labels, origin, exact=False), tuple(notes)


def _kept(data: DataSection) -> float:
    """Share of rows that are trained on, not held out."""
    return 1.0 - data.validation if isinstance(data.validation, float) else 1.0


def _counter(base: Path | None) -> tuple[Count, str]:
    file = base / "tokenizer.json" if base is not None else None
    if file is not None and file.is_file():
        try:
            from tokenizers import Tokenizer
        except ImportError:
            pass
        else:
            tokenizer = Tokenizer.from_file(str(file))
            return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids), "with the base's tokenizer"
    return lambda text: max(1, round(len(text.encode()) / _BYTES_PER_TOKEN)), "4 bytes taken for a token"


def _lengths(row: Row, count: Count) -> list[tuple[int, int]]:
    """Tokens and labels of each sequence of a row: answers and their ends are trained, each answer beside the prompt
    a sequence of its own; in plain text all but the first token."""
    from llmops.data.formats import ANSWERS, texts

    if row.kind == "text":
        ((_, text),) = texts(row)
        tokens = count(text)
        return [(tokens + 1, tokens)]
    total, labels, answers = 1, 0, []
    for place, text in texts(row):
        tokens = count(text)
        if place in ANSWERS:
            answers.append(tokens)
            continue
        total += tokens + _TURN_TOKENS
        # Of a row with answers beside its turns, those turns are the prompt.
        if place == "assistant turn" and row.kind == "messages":
            labels += tokens + 1
    return [(total + answer + _TURN_TOKENS, answer + 1) for answer in answers] or [(total, labels)]


def _longest_answer(recipe: Recipe) -> int | None:
    """Tokens that an answer may have where it is still to be made; None where answers stand in the rows."""
    method = recipe.method
    if isinstance(method, Grpo):
        return method.max_tokens
    return method.answers.max_tokens if isinstance(method, Distill) and method.answers is not None else None


def _answered(recipe: Recipe, sequences: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Tokens and labels of what the sequences of a row become, its prompt answered where the method answers it."""
    longest, method = _longest_answer(recipe), recipe.method
    if longest is None:
        return sequences
    ((tokens, labels),) = sequences
    if isinstance(method, Grpo):
        return [(tokens - labels + longest, longest)] * (method.generations * method.iterations)
    assert isinstance(method, Distill)
    assert method.answers is not None
    whole = min(tokens + _TURN_TOKENS + longest, recipe.batch.max_length)
    return [(whole, max(1, whole - tokens))] * method.answers.samples


def _sample(spec: Rows, *, prompts: bool) -> tuple[list[Row], float]:
    """Rows spread evenly over the beginning of a source, and how many usable ones the whole of it has, about."""
    from llmops.data.formats import rows
    from llmops.data.sources import read, with_columns_checked

    records = with_columns_checked(spec, read(spec))
    held, ended = _beginning(records)
    step = max(1, len(held) // SAMPLE)
    chosen = held[::step][:SAMPLE]
    usable = [row for row in rows(spec, iter(chosen), prompts=prompts) if isinstance(row, Row)]
    total = float(len(held)) if ended else _extrapolated(spec, held)
    if spec.take is not None:
        total = min(total, float(spec.take))
    return usable, total * len(usable) / len(chosen)


def _beginning(
    records: Iterator[tuple[int, Mapping[str, Any]]],
) -> tuple[list[tuple[int, Mapping[str, Any]]], bool]:
    """The first rows, and whether these were all."""
    held: list[tuple[int, Mapping[str, Any]]] = []
    size = 0
    for record in islice(records, _READ):
        held.append(record)
        size += sum(len(value) for value in record[1].values() if isinstance(value, str))
        if size > _READ_BYTES:
            return held, False
    return held, next(records, None) is None


def _extrapolated(spec: Rows, held: list[tuple[int, Mapping[str, Any]]]) -> float:
    """Rows of a file whose beginning was read: its size over the bytes a row took so far."""
    path = Path(spec.source.removeprefix("file://")).expanduser()
    files = [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file())
    size = sum(file.stat().st_size for file in files)
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".jsonl", ".ndjson"):
        # The line a row starts on is known, so are the bytes before it.
        with path.open("rb") as file:
            read = sum(len(line) for line in islice(file, held[-1][0]))
    else:
        read = sum(len(str(columns).encode()) for _, columns in held)
    return max(float(len(held)), len(held) * size / max(read, 1))
