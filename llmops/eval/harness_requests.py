"""What lm-evaluation-harness asks of a model, put to our engines.

A conversation reaches them as turns, not as text that the harness rendered: there is one chat template and one BOS,
those of training and serving.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops.errors import InputError
from llmops.eval.engines.engine import Answer, Engine
from llmops.eval.engines.reading import Passage, Reading
from llmops.eval.items import Item
from llmops.eval.loading import asked_ids, plain_text
from llmops.eval.suite import Generation
from llmops.events import Listener
from llmops.files import digest_of

_CHAT = "\x00turns:"
"""Before a conversation in JSON, where the harness expects rendered text."""
Read = Callable[[Sequence[Passage]], list[Reading]]


@dataclass
class Asked:
    """What the harness asked of our engines.

    Attributes:
        engine: answers; `read` tells how likely texts are, None where the model is not here.
        tokenizer: of the model; None where the model is not here.
        context: tokens the model can read; None without a limit.
        answers: by the request's text and what ended it, with times and tokens.
        engines: what the engines said of themselves.
    """

    engine: Engine
    read: Read | None
    tokenizer: Any
    context: int | None
    listener: Listener
    answers: dict[str, Answer] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)

    def generated(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """The answers to texts, each with the harness's settings of how it is made."""
        kinds: dict[str, tuple[Generation, list[int]]] = {}
        for place, (text, settings) in enumerate(requests):
            generation = _generation(settings, is_chat=text.startswith(_CHAT))
            kinds.setdefault(generation.model_dump_json(), (generation, []))[1].append(place)
        found: dict[int, str] = {}
        for generation, places in kinds.values():
            items = [_item(requests[place][0], place) for place in places]
            made = self.engine(items, generation, listener=self.listener)
            self.engines |= dict(made.engine)
            for place, answer in zip(places, made.answers, strict=True):
                self.answers[_key(requests[place][0], answer.text)] = answer
                found[place] = answer.text
        return [found[place] for place in range(len(requests))]

    def likelihoods(self, requests: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each text and its continuation: its log-likelihood in nats, and whether it is the likeliest one."""
        return _summed(self._reader()([self._passage(*request) for request in requests]), self._ends(requests))

    def whole_likelihoods(self, texts: Sequence[str]) -> list[float]:
        """The log-likelihood of each text in nats, from its first token on; long ones in disjoint windows."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        read = self._reader()
        begin = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        passages, owners = [], []
        for owner, text in enumerate(texts):
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            windows = get_rolling_token_windows(ids, begin, self.context or len(ids) + 1, 1)
            for before, told in map(make_disjoint_window, windows):
                passages.append(Passage((*before, *told), len(before)))
                owners.append(owner)
        sums = [0.0] * len(texts)
        for owner, reading in zip(owners, read(passages), strict=True):
            sums[owner] += float(reading.logprobs.sum())
        return sums

    def made(self, text: str, answer: str) -> Answer | None:
        """The answer to a text, with its end, tokens and time."""
        return self.answers.get(_key(text, answer))

    def _reader(self) -> Read:
        if self.read is None:
            raise InputError(
                "this task asks how likely texts are to the model, and only its answers can be had",
                fix="evaluate the model itself, without --endpoint, or take a task that is answered in words",
            )
        return self.read

    def _passage(self, text: str, continuation: str) -> Passage:
        if text.startswith(_CHAT):
            before = asked_ids(self.tokenizer, turns_of(text), "chat")
            after = self.tokenizer(continuation, add_special_tokens=False, verbose=False)["input_ids"]
        else:
            # White space goes with what follows it, as in the harness: tokens begin with it.
            stripped = text.rstrip()
            before = _plain_ids(self.tokenizer, stripped)
            after = _plain_ids(self.tokenizer, text + continuation)[len(before) :]
        ids = (*before, *after)
        if self.context is not None:
            ids = ids[-self.context :]
        return Passage(ids, max(1, len(ids) - len(after)))

    def _ends(self, requests: Sequence[tuple[str, str]]) -> list[list[int]]:
        return [list(passage.ids[passage.start :]) for passage in (self._passage(*one) for one in requests)]


def as_text(conversation: Sequence[Mapping[str, Any]]) -> str:
    """A conversation where the harness wants its rendered text; `turns_of` reads it back."""
    return _CHAT + json.dumps(list(conversation))


def _generation(settings: Mapping[str, Any], *, is_chat: bool) -> Generation:
    until = settings.get("until") or []
    sampled = bool(settings.get("do_sample", settings.get("temperature", 0)))
    return Generation(
        max_tokens=int(settings.get("max_gen_toks", 256)),
        temperature=float(settings.get("temperature", 1.0)) if sampled else 0.0,
        stop=tuple(one for one in ([until] if isinstance(until, str) else until) if one),
        prompt="chat" if is_chat else "plain",
    )


def _item(text: str, place: int) -> Item:
    messages = tuple(turns_of(text))
    return Item(digest_of([text, place]), messages, plain_text(messages), ("",), {})


def turns_of(text: str) -> list[dict[str, Any]]:
    """The conversation of a request; plain text is one turn."""
    if not text.startswith(_CHAT):
        return [{"role": "user", "content": text}]
    turns: list[dict[str, Any]] = json.loads(text.removeprefix(_CHAT))
    return turns


def _key(text: str, answer: str) -> str:
    return digest_of([text, answer])


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    """As the harness gives plain text: one BOS where the tokenizer has one, or something to begin after."""
    ids = asked_ids(tokenizer, [{"role": "user", "content": text}], "plain")
    return ids or [tokenizer.eos_token_id]


def _summed(readings: Sequence[Reading], ends: Sequence[Sequence[int]]) -> list[tuple[float, bool]]:
    return [
        (float(reading.logprobs.sum()), reading.best.tolist() == list(end))
        for reading, end in zip(readings, ends, strict=True)
    ]
