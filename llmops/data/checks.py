"""What was found in the rows, counted and named; and rows that hold items a model will be judged on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from llmops.data.dedup import grams, words
from llmops.data.formats import one_line, prompts, texts
from llmops.records import Finding, Row

Action = Literal["dropped", "reported", "redacted", "refused"]

GRAM = 13
_NAMED = 5
_COMMON = 10  # items that may share a run of words before it counts as phrasing; GPT-3 used the same number


class Findings:
    """Counts what checks find; the first five rows of each are named as `source:line: why`."""

    def __init__(self) -> None:
        self._rows: Counter[tuple[str, Action]] = Counter()
        self._named: dict[tuple[str, Action], list[str]] = {}

    def expect(self, check: str, action: Action) -> None:
        """Say that a check is made, so that finding nothing is reported as zero rows."""
        self._named.setdefault((check, action), [])

    def add(self, check: str, action: Action, where: str, why: str) -> None:
        """One more row, named by `where`."""
        named = self._named.setdefault((check, action), [])
        self._rows[check, action] += 1
        if len(named) < _NAMED:
            named.append(f"{where}: {why}")

    def all(self) -> tuple[Finding, ...]:
        """One finding per check and action, in the order they were expected or first made."""
        return tuple(
            Finding(check, action, self._rows[check, action], tuple(named))
            for (check, action), named in self._named.items()
        )


class Contamination:
    """Finds rows that share a whole prompt or 13 words in a row with items of named suites.

    A run of words that many items share (more than a twentieth of a suite's, at least one, at
    most ten) is the suite's phrasing, such as its instruction, and tells no item; it is passed
    over, as in GPT-3's appendix C (arXiv:2005.14165). Words are parted at spaces, so that
    `name[Aromi]` is one word and structured prompts with the same fields do not count as copies.

    Args:
        held_out: the prompts of each suite, by the suite's name.
    """

    def __init__(self, held_out: Mapping[str, Sequence[str]]) -> None:
        self._prompts: dict[str, str] = {}
        self._grams: dict[int, str] = {}
        for suite, items in held_out.items():
            distinct = dict.fromkeys(one_line(item).casefold() for item in items)
            distinct.pop("", None)
            self._prompts |= dict.fromkeys(distinct, suite)
            counts: Counter[int] = Counter()
            for item in distinct:
                counts.update(grams(words(item), GRAM))
            common = max(1, min(_COMMON, len(distinct) // 20))
            self._grams |= {gram: suite for gram, count in counts.items() if count <= common}

    def why(self, row: Row) -> str | None:
        """What the row shares with which suite; None for a clean row."""
        for prompt in prompts(row):
            suite = self._prompts.get(one_line(prompt).casefold())
            if suite is not None:
                return f"its prompt is an item of the suite {suite}"
        for place, text in texts(row):
            shared = grams(words(text), GRAM) & self._grams.keys()
            if shared:
                return f"the {place} shares {GRAM} words in a row with an item of the suite {self._grams[min(shared)]}"
        return None
