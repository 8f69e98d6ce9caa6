"""What was found in the rows, counted and named; and rows that hold items a model will be judged on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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

    def begin_with(self, found: Finding) -> None:
        """Count on from what a check found before."""
        self._rows[found.check, found.action] += found.rows
        self._named.setdefault((found.check, found.action), []).extend(found.named)

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
        self._grams: dict[int, list[str]] = {}
        for suite, items in held_out.items():
            distinct = dict.fromkeys(_plain(item) for item in items)
            distinct.pop("", None)
            self._prompts |= dict.fromkeys(distinct, suite)
            holders: dict[int, list[str]] = {}
            for item in distinct:
                for gram in grams(words(item), GRAM):
                    holders.setdefault(gram, []).append(item)
            common = max(1, min(_COMMON, len(distinct) // 20))
            self._grams |= {gram: those for gram, those in holders.items() if len(those) <= common}

    def why(self, row: Row) -> str | None:
        """What the row shares with which suite; None for a clean row."""
        for prompt in prompts(row):
            suite = self._prompts.get(_plain(prompt))
            if suite is not None:
                return f"its prompt is an item of the suite {suite}"
        for place, text in texts(row):
            shared = grams(words(text), GRAM) & self._grams.keys()
            if shared:
                suite = self._prompts[self._grams[min(shared)][0]]
                return f"the {place} shares {GRAM} words in a row with an item of the suite {suite}"
        return None

    def share_found(self, rows: Iterable[Row]) -> float:
        """Share (0 to 1) of the suites' prompts that any of `rows` holds, whole or 13 words of it."""
        found: set[str] = set()
        for row in rows:
            found |= {prompt for one in prompts(row) if (prompt := _plain(one)) in self._prompts}
            for _, text in texts(row):
                for gram in grams(words(text), GRAM) & self._grams.keys():
                    found.update(self._grams[gram])
        return len(found) / max(1, len(self._prompts))


def _plain(prompt: str) -> str:
    return one_line(prompt).casefold()
