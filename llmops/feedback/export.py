"""Ratings become rows to train on, in TRL's fields; and every rating that does not says why.

Two readings of the campaign: the first gathers who said what and settles it, the second writes. Of the ratings a few
numbers each stay in memory, of the texts nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from llmops.data import privacy
from llmops.data.formats import one_line
from llmops.feedback.drawing import NOT_TEXT
from llmops.feedback.items import Item, Rated, Rating
from llmops.feedback.opinions import edits
from llmops.feedback.settled import Excluded, Question, Settled, counted, settle
from llmops.feedback.sides import MASK
from llmops.rubric import Rubric

Purpose = Literal["sft", "dpo", "kto", "reward"]
PURPOSES: tuple[Purpose, ...] = ("sft", "dpo", "kto", "reward")
Split = Literal["train", "validation"]
_USUAL: dict[str, Purpose] = {"pairwise": "dpo", "ranking": "dpo", "correction": "sft"}
_NO_TARGET = "the answer is not good enough to be learned by itself"

SPLIT = "raters disagree: no side has the most"
UNSURE = "raters are not sure enough"
MASKED = f"what was written holds {MASK}, which hides a part of the answer"
_NO_PAIR: dict[str | None, str] = {
    "tie": "the answers are alike: no pair",
    "both bad": "both answers are bad: no pair",
    None: SPLIT,
}
_NO_LABEL: dict[str | None, str] = {
    "tie": "the answers are alike: neither is good or bad",
    "neither": "neither good nor bad",
    None: SPLIT,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row, in TRL's conversational form; `columns` as they are written."""

    split: Split
    columns: Mapping[str, Any]


def usual_purpose(kind: str) -> Purpose:
    """What the ratings of a kind of campaign are mostly exported for."""
    return _USUAL.get(kind, "kto")


@dataclass
class Exporting:
    """One campaign on its way to rows.

    Attributes:
        sure: how sure the raters together must be of a question, 0 to 1.
        held_out: whether the rows of a cluster of prompts are for validation.
        personal_data: whether rows in which personal data is found are kept.
        clusters: of prompts that have rows.
        longer: of pairs, `chosen` longer, `rejected` longer, `equal`.
    """

    purpose: Purpose
    rubric: Rubric
    settled: Settled
    sure: float = 0.5
    held_out: Callable[[str], bool] = lambda cluster: False
    personal_data: bool = False
    reasons: Counter[str] = field(default_factory=Counter)
    clusters: set[str] = field(default_factory=set)
    rows: Counter[str] = field(default_factory=Counter)
    raters: set[str] = field(default_factory=set)
    longer: Counter[str] = field(default_factory=Counter)

    def of(self, rated: Rated) -> Iterator[Row | Excluded]:
        """The rows of an item, then its ratings that gave none."""
        item = rated.item
        used, out = counted(item.id, rated.ratings)
        yield from self._noted(out)
        why: dict[str, str] = {}
        cited: set[str] = set()
        split: Split = "validation" if self.held_out(item.cluster) else "train"
        for ids, columns in self._drafts(item, used, why):
            problem = self._problem(item, columns)
            if problem is not None:
                _blame(why, ids, problem)
                continue
            cited.update(ids)
            self.rows[split] += 1
            self.clusters.add(item.cluster)
            self._measure(columns)
            yield Row(split, {**columns, **self._lineage(item, ids, used)})
        self.raters.update(one.rater for one in used if one.id in cited)
        nothing = f"nothing in it makes a row for {self.purpose}"
        yield from self._noted(
            [Excluded(one.id, item.id, why.get(one.id, nothing)) for one in used if one.id not in cited]
        )

    def without(self, replaced: Iterable[tuple[str, str]]) -> Iterator[Excluded]:
        """Ratings that were corrected since, so that every rating there is can be found."""
        for rating, item in replaced:
            yield from self._noted([Excluded(rating, item, "replaced by what the same rater said later")])

    def _noted(self, excluded: list[Excluded]) -> list[Excluded]:
        self.reasons.update(one.reason for one in excluded)
        return excluded

    def _drafts(
        self, item: Item, used: list[Rating], why: dict[str, str]
    ) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
        match self.purpose:
            case "dpo" | "reward":
                yield from self._pairs(item, why)
                yield from self._edited_pairs(item, used, why)
            case "kto":
                yield from self._labels(item, why)
            case "sft":
                yield from self._targets(item, used, why)

    def _pairs(self, item: Item, why: dict[str, str]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
        for first, second in _pairs_of(len(item.responses)):
            question = (item.id, first, second)
            if question not in self.settled.said:
                continue
            said, sure, margin = self.settled.said[question]
            ids, agreeing = self.settled.ratings[question]
            if said not in ("first", "second") or sure < self.sure:
                _blame(why, ids, _NO_PAIR.get(said, UNSURE))
                continue
            chosen, rejected = (first, second) if said == "first" else (second, first)
            yield (
                ids,
                {
                    "prompt": _turns(item),
                    "chosen": _answer(item.responses[chosen].text),
                    "rejected": _answer(item.responses[rejected].text),
                    "margin": round(max(margin, 0.0), 6),
                    "raters": len(ids),
                    "agreement": round(agreeing / len(ids), 6),
                    "confidence": round(sure, 6),
                    "chosen_model": item.responses[chosen].model,
                    "rejected_model": item.responses[rejected].model,
                },
            )

    def _written(self, item: Item, used: list[Rating], why: dict[str, str]) -> Iterator[tuple[Rating, int, str]]:
        """What people wrote in an answer's place. Who rewrote a masked answer did not see all of it, and what they
        left of the mask is nothing to learn."""
        for one in used:
            for place, text in edits(one.content, one.shown):
                if MASK in text and MASK not in item.responses[place].text:
                    _blame(why, [one.id], MASKED)
                else:
                    yield one, place, text

    def _edited_pairs(
        self, item: Item, used: list[Rating], why: dict[str, str]
    ) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
        for one, place, text in self._written(item, used, why):
            yield (
                (one.id,),
                {
                    "prompt": _turns(item),
                    "chosen": _answer(text),
                    "rejected": _answer(item.responses[place].text),
                    "margin": 1.0,
                    "raters": 1,
                    "agreement": 1.0,
                    "confidence": 1.0,
                    "chosen_model": "a person",
                    "rejected_model": item.responses[place].model,
                },
            )

    def _labels(self, item: Item, why: dict[str, str]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
        """Answers that are good or bad by themselves; where they were compared, those that win or lose more often."""
        places = range(len(item.responses))
        alone = any((item.id, place) in self.settled.said for place in places)
        for place in places:
            good, ids, agreement = self._worth(item, place, why) if alone else self._net(item, place, why)
            if good is not None:
                yield (
                    ids,
                    {
                        "prompt": _turns(item),
                        "completion": _answer(item.responses[place].text),
                        "label": good,
                        "raters": len(ids),
                        "agreement": round(agreement, 6),
                        "completion_model": item.responses[place].model,
                    },
                )

    def _worth(self, item: Item, place: int, why: dict[str, str]) -> tuple[bool | None, tuple[str, ...], float]:
        """Whether an answer is good by itself, the ratings that say so, and the share of raters who agree."""
        question: Question = (item.id, place)
        if question not in self.settled.said:
            return None, (), 0.0
        said, sure, _ = self.settled.said[question]
        ids, agreeing = self.settled.ratings[question]
        if said not in ("good", "bad") or sure < self.sure:
            _blame(why, ids, _NO_LABEL.get(said, UNSURE))
            return None, ids, 0.0
        return said == "good", ids, agreeing / len(ids)

    def _net(self, item: Item, place: int, why: dict[str, str]) -> tuple[bool | None, tuple[str, ...], float]:
        """The same of an answer that was compared: good where it wins more often than it loses; both bad loses."""
        wins = 0
        voters: dict[str, None] = {}
        shares = []
        for first, second in _pairs_of(len(item.responses)):
            question: Question = (item.id, first, second)
            if place not in (first, second) or question not in self.settled.said:
                continue
            said, sure, _ = self.settled.said[question]
            ids, agreeing = self.settled.ratings[question]
            if said in (None, "tie") or sure < self.sure:
                _blame(why, ids, _NO_LABEL.get(said, UNSURE))
                continue
            wins += 1 if said == ("first" if place == first else "second") else -1
            voters.update(dict.fromkeys(ids))
            shares.append(agreeing / len(ids))
        if not wins:
            _blame(why, voters, "wins as often as it loses")
            return None, tuple(voters), 0.0
        return wins > 0, tuple(voters), sum(shares) / len(shares)

    def _targets(
        self, item: Item, used: list[Rating], why: dict[str, str]
    ) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
        """What people wrote, and answers that are good by themselves: one that is better may still be bad."""
        for one, _, text in self._written(item, used, why):
            messages = [*_turns(item), *_answer(text)]
            yield (one.id,), {"messages": messages, "raters": 1, "agreement": 1.0, "model": "a person"}
        for place, response in enumerate(item.responses):
            question: Question = (item.id, place)
            if question not in self.settled.said:
                continue
            said, sure, _ = self.settled.said[question]
            ids, agreeing = self.settled.ratings[question]
            if said == "good" and sure >= self.sure:
                yield (
                    ids,
                    {
                        "messages": [*_turns(item), *_answer(response.text)],
                        "raters": len(ids),
                        "agreement": round(agreeing / len(ids), 6),
                        "model": response.model,
                    },
                )
            else:
                _blame(why, ids, _NO_TARGET if said is not None else SPLIT)

    def _problem(self, item: Item, columns: Mapping[str, Any]) -> str | None:
        """Why a row cannot be trained on."""
        texts = [turn["content"] for name in ("messages", "chosen", "rejected", "completion")
                 for turn in columns.get(name, ()) if turn["role"] == "assistant"]  # fmt: skip
        if any(NOT_TEXT in one.detail for one in item.responses):
            return "an answer is no text"
        if not all(text.strip() for text in texts):
            return "an answer is empty"
        if "chosen" in columns and one_line(texts[0]) == one_line(texts[1]):
            return "both sides are the same"
        if not self.personal_data:
            asked = [str(turn["content"]) for turn in item.prompt]
            found = next((hit for text in (*asked, *texts) for hit in privacy.find(text)), None)
            if found is not None:
                return f"personal data: {found.kind}"
        return None

    def _measure(self, columns: Mapping[str, Any]) -> None:
        if "chosen" in columns:
            chosen, rejected = (len(columns[side][0]["content"]) for side in ("chosen", "rejected"))
            self.longer["chosen" if chosen > rejected else "rejected" if rejected > chosen else "equal"] += 1

    def _lineage(self, item: Item, ids: tuple[str, ...], used: list[Rating]) -> dict[str, Any]:
        rubrics = sorted({one.rubric for one in used if one.id in ids})
        return {
            "item": item.id,
            "cluster": item.cluster,
            "ratings": list(ids),
            "rubrics": rubrics,
            "source": json.dumps(item.source, ensure_ascii=False, sort_keys=True),
            "probability": item.probability,
        }


def fraction(cluster: str) -> float:
    """Where a cluster falls between 0 and 1, by its hash: with a share of validation it stays on its side whatever
    else is rated."""
    return int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:8], "big") / 2**64


def export(
    ratings: Iterable[Rating],
    rated: Iterable[Rated],
    purpose: Purpose,
    rubric: Rubric,
    *,
    sure: float = 0.5,
    held_out: Callable[[str], bool] = lambda cluster: False,
    personal_data: bool = False,
    replaced: Iterable[tuple[str, str]] = (),
) -> tuple[Exporting, Iterator[Row | Excluded]]:
    """What the numbers are gathered in, and the rows themselves, which must be read to their end first.

    Args:
        ratings: all of the campaign, those of an item beside each other; read at once.
        rated: the same with their items, in the order rows are to have; read as rows are.
        replaced: ratings that do not stand any more, `(id, item)`; read last.
    """
    made = Exporting(purpose, rubric, settle(ratings, rubric), sure, held_out, personal_data)
    return made, chain((one for item in rated for one in made.of(item)), made.without(replaced))


def _blame(why: dict[str, str], ratings: Iterable[str], reason: str) -> None:
    """Why ratings make no row; the first reason stands."""
    for rating in ratings:
        why.setdefault(rating, reason)


def _pairs_of(answers: int) -> Iterator[tuple[int, int]]:
    return ((first, second) for first in range(answers) for second in range(first + 1, answers))


def _turns(item: Item) -> list[dict[str, str]]:
    return [{"role": str(turn["role"]), "content": str(turn["content"])} for turn in item.prompt]


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
