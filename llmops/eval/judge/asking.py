"""A judge: a model that is asked about texts through an engine, once more where its reply holds no verdict.

Silence is never a verdict: what cannot be reached, refuses or says nothing ends in an error, whatever was asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops.errors import EnvironmentFault, InputError
from llmops.eval.engines.engine import Answer, Engine
from llmops.eval.items import Item
from llmops.eval.judge.prompt import JudgePrompt, conversation, verdict_text
from llmops.eval.judge.reply import Judgement, verdict_in
from llmops.eval.suite import Generation
from llmops.events import Listener
from llmops.files import digest_of
from llmops.records import Step
from llmops.rubric import Choice

Messages = Sequence[Mapping[str, Any]]
_SWAPPED: Mapping[Any, Choice] = {"A": "B", "B": "A", "TIE": "TIE"}


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a judge replied to one question; `verdict` is None where two replies held none."""

    verdict: Judgement | None
    replies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """Which of two texts a judge prefers, asked in both orders; both in terms of the same first and second text."""

    forward: Choice | None
    backward: Choice | None
    replies: tuple[str, ...] = ()

    @property
    def choice(self) -> Choice | None:
        """What both orders say; a tie where they disagree, None where one of them gave no verdict."""
        if self.forward is None or self.backward is None:
            return None
        return self.forward if self.forward == self.backward else "TIE"

    @property
    def inconsistent(self) -> bool:
        """The order changed the verdict."""
        return None not in (self.forward, self.backward) and self.forward != self.backward


Counts = dict[str, list[int]]
"""Shares by name, each as its part and its whole."""


def counts_of_opinions(said: Sequence[Opinion]) -> Counts:
    """How many gave no verdict, and how many were asked again."""
    return {
        "unparsed_share": [sum(one.verdict is None for one in said), len(said)],
        "asked_again_share": [sum(len(one.replies) > 1 for one in said), len(said)],
    }


def counts_of_preferences(said: Sequence[Preference]) -> Counts:
    """The same of pairs; how many the order changed; and of single choices how many took what was shown first."""
    first = sum((one.forward == "A") + (one.backward == "B") for one in said)
    chose = sum(choice in ("A", "B") for one in said for choice in (one.forward, one.backward))
    return {
        "unparsed_share": [sum(one.choice is None for one in said), len(said)],
        "asked_again_share": [sum(len(one.replies) > 2 for one in said), len(said)],
        "inconsistent_share": [sum(one.inconsistent for one in said), len(said)],
        "first_share": [first, chose],
    }


@dataclass(frozen=True, slots=True)
class Judge:
    """A model with what it is asked.

    Attributes:
        model: its name at its server.
        source: what else is known of it: `root` and `parent` where its server says them.
        where: the server's address; empty where there is none.
        engine: answers questions; keeps what it answered.
    """

    model: str
    prompt: JudgePrompt
    generation: Generation
    engine: Engine
    source: Mapping[str, str] = field(default_factory=dict)
    where: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What a calibration is of: model, prompt, rubric and decoding, wherever it is served."""
        return {
            "model": self.model,
            **{f"model_{name}": value for name, value in sorted(self.source.items())},
            "prompt": self.prompt.digest,
            "rubric": self.prompt.rubric.identity,
            "generation": self.generation.model_dump(mode="json"),
        }

    @property
    def digest(self) -> str:
        return digest_of(self.identity)

    @property
    def signature(self) -> str:
        """How its numbers were made; those of another judge must not be compared with them."""
        rubric = self.prompt.rubric
        made = [
            f"judge:{self.model}",
            f"endpoint:{self.where or 'none'}",
            f"prompt:{self.prompt.digest[:12]}",
            f"rubric:{rubric.name}@{rubric.version}:{rubric.digest[:12]}",
            f"digest:{self.digest[:12]}",
        ]
        return "|".join(made)

    def rate(
        self,
        asked: Sequence[Messages],
        answers: Sequence[str],
        references: Sequence[str] | None = None,
        *,
        listener: Listener,
    ) -> list[Opinion]:
        """What it says of each answer by itself."""
        good = references if references is not None else [""] * len(answers)
        return self.ask(
            [
                self.prompt.filled(prompt=conversation(messages), answer=answer, reference=reference)
                for messages, answer, reference in zip(asked, answers, good, strict=True)
            ],
            listener=listener,
        )

    def prefer(
        self, asked: Sequence[Messages], first: Sequence[str], second: Sequence[str], *, listener: Listener
    ) -> list[Preference]:
        """Which of two answers it prefers, asked twice with the order swapped."""
        triples = list(zip(map(conversation, asked), first, second, strict=True))
        questions = [self.prompt.filled(prompt=prompt, first=one, second=two) for prompt, one, two in triples]
        questions += [self.prompt.filled(prompt=prompt, first=two, second=one) for prompt, one, two in triples]
        said = self.ask(questions, listener=listener)
        number = len(triples)
        return [
            Preference(_choice(forward), _SWAPPED.get(_choice(backward)), forward.replies + backward.replies)
            for forward, backward in zip(said[:number], said[number:], strict=True)
        ]

    def ask(self, questions: Sequence[str], *, listener: Listener) -> list[Opinion]:
        """What it says to each question, those without a verdict asked once more.

        Raises:
            EnvironmentFault: it cannot be reached, fails too often, or says nothing at all.
            InputError: its server refuses what it is asked.
        """
        scale = self.prompt.rubric.scale
        opening = {question: ({"role": "user", "content": question},) for question in questions}
        first = self._replies(list(opening.values()), listener)
        replies: dict[str, tuple[Answer, ...]] = {
            question: (first[digest_of(list(turns))],) for question, turns in opening.items()
        }
        unclear = [question for question, said in replies.items() if verdict_in(said[0].text, scale) is None]
        if unclear:
            listener.say(f"judge {self.model}: {len(unclear)} of {len(opening)} replies hold no verdict; asking again")
            closing = {question: self._again(opening[question], replies[question][0]) for question in unclear}
            second = self._replies(list(closing.values()), listener)
            replies |= {
                question: (*replies[question], second[digest_of(list(turns))]) for question, turns in closing.items()
            }
        self._check_not_silent(list(replies.values()))
        found = {
            question: Opinion(verdict_in(said[-1].text, scale), tuple(one.text for one in said))
            for question, said in replies.items()
        }
        return [found[question] for question in questions]

    def check_parsed(self, counts: Counts, *, at_most: float, listener: Listener) -> None:
        """Say how many have no verdict; raise InputError where they are more than a share of `at_most`, or all."""
        without, number = counts["unparsed_share"]
        if not without:
            return
        if without == number or without / number > at_most:
            raise InputError(
                f"the judge {self.model} gives no verdict on {without} of {number} items, asked twice; "
                f"{at_most:.1%} may be left out",
                fix="ask for the verdict more plainly in its prompt, raise its max_tokens, or take a stronger judge",
            )
        listener.say(f"judge {self.model}: {without} of {number} items have no verdict and are left out of the mean")

    def _again(self, asked: tuple[Mapping[str, Any], ...], reply: Answer) -> tuple[Mapping[str, Any], ...]:
        # At temperature 0 the same question would get the same reply, so it is told what was missing.
        missing = (
            f"Your reply does not end with a verdict. Reply with this line alone: {verdict_text(self.prompt.rubric)}"
        )
        return (*asked, {"role": "assistant", "content": reply.text or "…"}, {"role": "user", "content": missing})

    def _replies(self, asked: Sequence[tuple[Mapping[str, Any], ...]], listener: Listener) -> dict[str, Answer]:
        """Replies by the digest of what was asked; what is asked twice is asked once."""
        items = {
            digest_of(list(turns)): Item(digest_of(list(turns)), turns, conversation(turns), ("",), {})
            for turns in asked
        }
        try:
            made = self.engine(list(items.values()), self.generation, listener=_Heard(listener, self.model))
        except EnvironmentFault as fault:
            raise EnvironmentFault(f"the judge {self.model} does not answer: {fault.problem}", fix=fault.fix) from fault
        except InputError as fault:
            raise InputError(f"the judge {self.model} cannot be asked: {fault.problem}", fix=fault.fix) from fault
        return {answer.item: answer for answer in made.answers}

    def _check_not_silent(self, replies: Sequence[Sequence[Answer]]) -> None:
        silent = [said[-1] for said in replies if not said[-1].text.strip()]
        if silent:
            cut = sum(one.finish == "length" for one in silent)
            raise EnvironmentFault(
                f"the judge {self.model} says nothing to {len(silent)} of {len(replies)} questions, asked twice"
                + (f"; {cut} replies were cut before a word" if cut else ""),
                fix="raise the judge's max_tokens" if cut else "see what its server logs, or take another judge",
            )


@dataclass(frozen=True, slots=True)
class _Heard:
    """Passes on what an engine says, as said of the judge."""

    listener: Listener
    model: str

    def say(self, line: str) -> None:
        self.listener.say(f"judge {self.model}: {line}")

    def advance(self, what: str, done: int, total: int | None) -> None:
        self.listener.advance(f"{what} of judge {self.model}", done, total)

    def step(self, step: Step, total: int) -> None:
        self.listener.step(step, total)


def _choice(opinion: Opinion) -> Choice | None:
    match opinion.verdict:
        case "A" | "B" | "TIE" as choice:
            return choice
        case _:
            return None
