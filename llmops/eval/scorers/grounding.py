"""How much of an answer stands in the text it should be drawn from, by n-grams of words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from llmops.errors import InputError
from llmops.eval.scorers.catalog import Scorer, scorers
from llmops.eval.scorers.text import Pattern, extracted

if TYPE_CHECKING:
    from llmops.eval.items import Item
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric

_WORD = re.compile(r"\w+")


@scorers.add("grounding")
class Grounding(Scorer):
    """Support of answers by their context (0 to 1): the share of an answer's word n-grams that the context has too,
    mean over items.

    Words are runs of letters and digits, case folded. Each n-gram of the answer counts as often as it stands there,
    and is supported if it stands anywhere in the context. An answer of fewer words than `ngram` is one n-gram of all
    of them; one without words has 0. A share well below 1 means that an answer says what it was not given; it cannot
    tell a false sentence made of the context's own words, nor a true one in other words.
    """

    ngram: PositiveInt = 3
    """Words in a row that must stand in the context in a row; 1 asks only for the words."""
    context: Literal["prompt", "references", "both"] = "prompt"
    """What answers are drawn from: the prompt (the system's turn and the user's last: earlier answers and solved
    examples support nothing), the references, or either."""
    pattern: Pattern | None = None
    """Finds the context in the prompt, with what its group holds, as in `(?s)Context:(.*?)Question:`; all places count.
    Null takes all of the prompt, so that words of the question count as support too."""

    def names(self) -> tuple[str, ...]:
        return ("grounding",)

    def check_items(self, items: Sequence[Item]) -> None:
        for item in items:
            self._texts(item)

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        from llmops.eval.metric import mean_of

        values = [self._support(item) for item in items]
        how = f"ngram:{self.ngram}|context:{self.context}|pattern:{self.pattern or 'none'}|case:lc"
        return [mean_of("grounding", how, values, span=1.0)]

    def _support(self, item: Answered) -> float:
        words = _words(item.answer)
        if not words:
            return 0.0
        length = min(self.ngram, len(words))
        known = {gram for text in self._texts(item) for gram in _grams(_words(text), length)}
        grams = _grams(words, length)
        return sum(gram in known for gram in grams) / len(grams)

    def _texts(self, item: Item | Answered) -> list[str]:
        texts: list[str] = [] if self.context == "prompt" else list(item.references)
        if self.context == "references":
            return texts
        system = [turn for turn in item.messages if turn["role"] == "system"]
        asked = [turn for turn in item.messages if turn["role"] == "user"]
        turns = [str(turn["content"]) for turn in (*system, *asked[-1:])]
        if self.pattern is None:
            return texts + turns
        found = [one for turn in turns for one in extracted(self.pattern, turn)]
        if not found:
            raise InputError(
                f"the pattern {self.pattern!r} finds no context in the prompt {item.prompt[:60]!r}",
                fix="mend `pattern` of the scorer `grounding`, or leave it out to take the whole prompt",
            )
        return texts + found


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _grams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
