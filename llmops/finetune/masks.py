"""Which tokens of a conversation are trained: what the assistant writes, its end-of-turn token included.

A turn is trained in exactly the context it is written in when the model is served: what the
template renders of the messages before it, generation prompt included, must be the beginning of
what it renders with the answer, token for token. Nothing the generation prompt supplies is trained.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.data.chat import marks_answers, one_bos, render, render_with_marks
from llmops.errors import InputError

EXTENDED = "the template's marks leave out the end-of-turn token that follows them; it is trained all the same"
NO_END = "the template ends answers without an end-of-turn token; the model cannot learn from them to stop"
REWRITTEN = (
    "the template renders earlier turns otherwise once later ones follow (thinking left out, say); "
    "such a conversation became several sequences, each answer in the context it is served in"
)
NO_OFFSETS = "the tokenizer cannot say which characters a token covers; the template's marks were not used"


class Unmaskable(Exception):
    """The answers of a conversation cannot be told apart from the rest; says why."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sequence: `ids` `(tokens,)` and `trained` `(tokens,)`, true where a token is a label."""

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Turn:
    """An assistant turn as text: `prompt` is what the model is given, `through` that and the answer."""

    prompt: str
    through: str
    marks: tuple[tuple[int, int], ...] | None


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A text's ids, and the characters `[starts[i], ends[i])` token i covers where the tokenizer says so."""

    ids: list[int]
    starts: list[int]
    ends: list[int]


class Masker:
    """Masks for one tokenizer; `notes` gathers what a user should know, without repeats.

    Use in two steps, so that many rows are tokenized together: `turns` renders, `sequences` masks.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.notes: dict[str, None] = {}
        self.used_marks = False
        added = tokenizer.added_tokens_decoder
        self._special = set(tokenizer.all_special_ids) | {number for number, token in added.items() if token.special}
        self._blank: dict[int, bool] = {}

    def turns(self, content: Mapping[str, Any], *, after: int = 0) -> list[Turn]:
        """The assistant turns of `{"messages": …, "tools": …?}`, in order, without those of the first `after` messages.

        Raises:
            TemplateRefused: the template does not take the messages.
            InputError: there is no template.
        """
        messages, tools = content["messages"], content.get("tools")
        marked = marks_answers(self.tokenizer, tools)
        if marked and not self.tokenizer.is_fast:
            self.notes[NO_OFFSETS] = None
            marked = False
        found = []
        for place, message in enumerate(messages):
            if place < after or message["role"] != "assistant":
                continue
            prompt = render(self.tokenizer, messages[:place], tools, generation_prompt=True)
            marks = None
            if marked:
                through, spans = render_with_marks(self.tokenizer, messages[: place + 1], tools)
                marks, self.used_marks = tuple(spans), True
            else:
                through = render(self.tokenizer, messages[: place + 1], tools, generation_prompt=False)
            found.append(Turn(prompt, through, marks))
        return found

    def tokenize(self, texts: list[str]) -> dict[str, Tokenized]:
        """Every text once, special tokens read from the text and none added.

        Raises:
            InputError: a text begins with two BOS.
        """
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return {}
        fast = bool(self.tokenizer.is_fast)
        out = self.tokenizer(distinct, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
        ranges = out["offset_mapping"] if fast else [[] for _ in distinct]
        return {
            text: Tokenized(one_bos(self.tokenizer, list(ids)), [s for s, _ in covers], [e for _, e in covers])
            for text, ids, covers in zip(distinct, out["input_ids"], ranges, strict=True)
        }

    def sequences(self, turns: list[Turn], tokenized: Mapping[str, Tokenized]) -> list[Encoded]:
        """The conversation with every answer trained once; usually one sequence, it ends with the last answer.

        A turn that a later rendering repeats token for token is trained there; one that is rendered
        otherwise later gets a sequence of its own, which ends with it.

        Raises:
            Unmaskable: an answer cannot be told from its prompt.
        """
        made: list[Encoded] = []
        for turn in reversed(turns):
            prompt, through = tokenized[turn.prompt], tokenized[turn.through]
            first = len(prompt.ids)
            if through.ids[:first] != prompt.ids:
                raise Unmaskable(_why_no_prefix(turn))
            end, closed = self._end(through.ids, first)
            chosen = self._chosen(turn, through, first, end, closed)
            ids = np.asarray(through.ids, dtype=np.int32)
            if not made or not np.array_equal(made[-1].ids[:end], ids[:end]):
                if made:
                    self.notes[REWRITTEN] = None
                made.append(Encoded(ids, np.zeros(len(ids), dtype=np.bool_)))
            for low, high in chosen:
                # The first token of a sequence has nothing it could be predicted from.
                made[-1].trained[max(low, 1) : high] = True
        made.reverse()
        return made

    def _end(self, ids: list[int], first: int) -> tuple[int, bool]:
        """Where the answer that begins at `first` ends, and whether an end-of-turn token ends it.

        The line end that templates write behind it belongs to the next turn.
        """
        end = len(ids)
        while end > first and self._is_blank(ids[end - 1]):
            end -= 1
        if end > first and ids[end - 1] in self._special:
            return end, True
        self.notes[NO_END] = None
        return len(ids), False

    def _is_blank(self, token: int) -> bool:
        if token not in self._blank:
            self._blank[token] = token not in self._special and not self.tokenizer.decode([token]).strip()
        return self._blank[token]

    def _chosen(self, turn: Turn, through: Tokenized, first: int, end: int, closed: bool) -> list[tuple[int, int]]:
        """Ranges of trained tokens of a turn whose answer is `[first, end)`."""
        if turn.marks is None:
            return [(first, end)]
        chosen = []
        for begins, stops in turn.marks:
            # From the first token that reaches into the marks to the last one: some tokenizers say that
            # a token of spaces alone covers nothing.
            low = max(bisect_right(through.ends, begins), first)
            high = min(bisect_left(through.starts, stops), end)
            if low < high:
                chosen.append((low, high))
        if chosen and closed and chosen[-1][1] < end:
            if chosen[-1][1] < end - 1:
                raise Unmaskable("the template's {% generation %} marks end before the end-of-turn token")
            self.notes[EXTENDED] = None
            chosen.append((end - 1, end))
        return chosen


def _why_no_prefix(turn: Turn) -> str:
    if turn.through.startswith(turn.prompt):
        return "the beginning of an answer and the end of the generation prompt become one token"
    same = next(
        (place for place, (a, b) in enumerate(zip(turn.prompt, turn.through, strict=False)) if a != b),
        min(len(turn.prompt), len(turn.through)),
    )
    asked, answered = turn.prompt[same : same + 20], turn.through[same : same + 20]
    return f"the generation prompt goes on with {asked!r} where the template renders the answer as {answered!r}"


def cannot_be_masked(reason: str) -> InputError:
    """What a user is told when no row can be masked."""
    return InputError(
        f"a chat template that cannot be masked: {reason}",
        fix="give the tokenizer a chat_template.jinja that renders an answer as the generation prompt, the answer and "
        "its end-of-turn token, and leave what came before unchanged; mark the answer and that token with "
        "{% generation %} … {% endgeneration %}",
    )
