"""When requests are to be sent and what they ask: chance arrivals at a rate or a trace, prompts read or made up."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from llmops.data.filetypes import filetype_of, rows_in
from llmops.errors import InputError, nearest

_TEXT = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea kid body "
    "information back parent face others level office door health person art war history party result change morning"
)
_WORDS = _TEXT.split()
"""Common words, of which most tokenizers make one token each."""
_COLUMNS = {
    "at": ("at", "timestamp", "TIMESTAMP"),
    "input": ("input", "input_tokens", "ContextTokens"),
    "output": ("output", "output_tokens", "GeneratedTokens"),
}
"""What a trace says, by the names it may have; the last ones are those of Azure's published traces."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A request that is to be sent `at` seconds after the start, whatever became of those before it."""

    at: float
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many words, or tokens, something has.

    Attributes:
        kind: `fixed` (first), `uniform` (from first to second), `normal` (mean, deviation) or `lognormal` (median,
            deviation of the logarithm).
    """

    kind: str
    first: float
    second: float = 0.0

    def draw(self, chance: random.Random) -> int:
        """At least 1."""
        match self.kind:
            case "uniform":
                return chance.randint(int(self.first), int(self.second))
            case "normal":
                return max(1, round(chance.gauss(self.first, self.second)))
            case "lognormal":
                return max(1, round(chance.lognormvariate(math.log(self.first), self.second)))
        return int(self.first)


@dataclass(frozen=True, slots=True)
class Work:
    """What requests ask.

    Attributes:
        prompts: conversations to take in turn from a chosen place; empty makes prompts up.
        words: of a made-up prompt; no two have the same beginning but for `shared` words.
        output: tokens that an answer may have.
        more: other keys of each request's body.
    """

    model: str
    prompts: Sequence[Sequence[Mapping[str, Any]]]
    words: Lengths
    output: Lengths
    shared: int = 0
    more: Mapping[str, Any] | None = None

    def body(self, chance: random.Random, words: int | None = None, output: int | None = None) -> dict[str, Any]:
        """One request, drawn by `chance`; `words` and `output` stand for what is drawn otherwise."""
        if self.prompts:
            messages = [dict(turn) for turn in self.prompts[chance.randrange(len(self.prompts))]]
        else:
            prefix = random.Random(0).choices(_WORDS, k=self.shared)
            own = chance.choices(_WORDS, k=words or self.words.draw(chance))
            messages = [{"role": "user", "content": " ".join([*prefix, *own])}]
        return {
            "model": self.model,
            "messages": messages,
            "max_tokens": output or self.output.draw(chance),
            "stream": True,
            "stream_options": {"include_usage": True},
            **(self.more or {}),
        }


def lengths(text: str) -> Lengths:
    """`128`, `uniform:50:200`, `normal:100:20` or `lognormal:100:0.5`; raises InputError."""
    kind, *numbers = text.split(":") if ":" in text else ("fixed", text)
    try:
        values = [float(one) for one in numbers]
    except ValueError:
        values = []
    enough = len(values) == (1 if kind == "fixed" else 2) and all(map(math.isfinite, values))
    if kind in ("fixed", "uniform", "normal", "lognormal") and enough and values[0] >= 1 and values[-1] >= 0:
        found = Lengths(kind, *values)
        if kind != "uniform" or found.second >= found.first:
            return found
    raise InputError(
        f"{text!r} is no length", fix="write for example 128, uniform:50:200, normal:100:20 or lognormal:100:0.5"
    )


def poisson(work: Work, rate: float, seconds: float, seed: int) -> list[Shot]:
    """Independent arrivals, `rate` a second on average, for so many seconds; the same for the same seed."""
    chance = random.Random(seed)
    shots: list[Shot] = []
    at = chance.expovariate(rate)
    while at < seconds:
        shots.append(Shot(at, work.body(chance)))
        at += chance.expovariate(rate)
    return shots


def traced(work: Work, file: Path, seed: int) -> list[Shot]:
    """As a trace says: when, and where it says so how long prompt and answer are.

    Raises:
        InputError: it cannot be read, or does not say when.
    """
    chance = random.Random(seed)
    shots: list[Shot] = []
    for line, row in _rows(file):
        names = {what: next((name for name in known if name in row), None) for what, known in _COLUMNS.items()}
        if names["at"] is None:
            raise InputError(f"{file}, line {line}: it does not say when", fix="give a column `at`, in seconds")
        at = _moment(row[names["at"]], f"{file}, line {line}")
        given = [_count(row.get(names[what] or ""), f"{file}, line {line}") for what in ("input", "output")]
        shots.append(Shot(at, work.body(chance, *given)))
    if not shots:
        raise InputError(f"{file} has no rows", fix="give a trace with at least one request")
    first = min(shot.at for shot in shots)
    return sorted((Shot(shot.at - first, shot.body) for shot in shots), key=lambda shot: shot.at)


def prompts_in(file: Path) -> list[list[dict[str, Any]]]:
    """Conversations: a line each of a text file, or the column `messages` or `prompt`; raises InputError."""
    if file.suffix == ".txt":
        try:
            texts = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} cannot be read: {error}", fix="give a text file in UTF-8") from error
        found = [[{"role": "user", "content": text}] for text in texts if text.strip()]
    else:
        found = [_conversation(row, f"{file}, line {line}") for line, row in _rows(file)]
    if not found:
        raise InputError(f"{file} has no prompts", fix="give at least one")
    return found


def _conversation(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    messages, prompt = row.get("messages"), row.get("prompt")
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except ValueError:
            messages = None
    if isinstance(messages, list) and messages and all(isinstance(turn, dict) for turn in messages):
        return messages
    if isinstance(prompt, str) and prompt:
        return [{"role": "user", "content": prompt}]
    raise InputError(
        f"{where}: neither `messages` nor `prompt`{nearest('prompt', row)}", fix="name the column so, or use a .txt"
    )


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    filetype = filetype_of(file.name)
    if filetype is None or not file.is_file():
        raise InputError(f"{file} is no csv, jsonl or parquet file", fix="give one that is there, with such an ending")
    with file.open("rb") as opened:
        yield from rows_in(opened, filetype, name=str(file))


def _moment(value: Any, where: str) -> float:
    """Seconds, from any origin."""
    try:
        at = float(value)
    except (TypeError, ValueError):
        try:  # Azure writes seven digits of a second
            at = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", str(value))).timestamp()
        except ValueError:
            at = math.nan
    if not math.isfinite(at):
        raise InputError(f"{where}: {value!r} is no moment", fix="write seconds, or 2024-05-10 00:00:00.01")
    return at


def _count(value: Any, where: str) -> int | None:
    if value in (None, ""):
        return None
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise InputError(f"{where}: {value!r} is no number of tokens", fix="write a whole number of 1 or more")
    return count
