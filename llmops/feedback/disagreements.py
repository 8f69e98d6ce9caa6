"""Items that raters disagree on, for the campaign's owner: what was asked, the answers, and what was said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmops.feedback.asking import Turn, in_words, letter, turns
from llmops.feedback.campaign import Kind
from llmops.feedback.campaign_report import CampaignReport
from llmops.feedback.items import Item, Rating
from llmops.feedback.ratings import item_named, ratings
from llmops.feedback.settled import counted
from llmops.feedback.sides import by_place
from llmops.feedback.store import campaign_named, rubrics
from llmops.feedback.tables import table
from llmops.feedback.tasks import Task
from llmops.rubric import Rubric

if TYPE_CHECKING:
    from sqlalchemy import Engine

PER_PAGE = 20
MOST = 2000
"""Items that are listed, the worst; a hundred pages."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one rater said of an item, answers named by their places as they are stored.

    Attributes:
        verdict: in words.
        first: the letter of the answer that this rater was shown first; empty where there is one.
        note: why it does not count, where it does not.
        edited: letters of the answers the rater rewrote.
        seconds: the page was looked at; None where nobody measured.
    """

    rater: str
    verdict: str
    first: str
    comment: str
    tags: tuple[str, ...]
    flag: str
    edited: tuple[str, ...]
    seconds: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Answer:
    letter: str
    model: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Disputed:
    """An item on the page.

    Attributes:
        share: of pairs of raters who differ.
        free: ratings it waits for; one that a rater has on the page is not among them.
    """

    id: str
    share: float
    turns: tuple[Turn, ...]
    answers: tuple[Answer, ...]
    said: tuple[Said, ...]
    free: int


@dataclass(frozen=True, slots=True)
class Page:
    """`number` counts from 1 to `of`."""

    items: tuple[Disputed, ...]
    number: int
    of: int
    all: int


def page_of(engine: Engine, report: CampaignReport, number: int) -> Page:
    """One page of a campaign's disputed items, the worst first; the last page where there are not so many."""
    worst = report.disagreements
    pages = max(1, -(-len(worst) // PER_PAGE))
    number = min(max(number, 1), pages)
    shown = worst[(number - 1) * PER_PAGE : number * PER_PAGE]
    free = _free(engine, [item for item, _ in shown])
    kind = campaign_named(engine, report.campaign).kind
    asked = {one.digest: one for one in rubrics(engine, report.campaign)}
    found = []
    for name, share in shown:
        item = item_named(engine, name)
        assert item is not None
        given = list(ratings(engine, report.campaign, item=name))
        found.append(
            Disputed(
                name,
                share,
                turns(item.prompt),
                tuple(Answer(letter(place), one.model, one.text) for place, one in enumerate(item.responses)),
                said_of(item, kind, given, asked),
                free.get(name, 0),
            )
        )
    return Page(tuple(found), number, pages, len(worst))


def said_of(item: Item, kind: Kind, given: Sequence[Rating], asked: Mapping[str, Rubric]) -> tuple[Said, ...]:
    """Each rating of an item in the words of the rubric it answered, in the order in which they came.

    Args:
        asked: each wording there has been, by digest.
    """
    why = {one.rating: one.reason for one in counted(item.id, given)[1]}
    return tuple(_said(item, kind, one, asked[one.rubric], why.get(one.id, "")) for one in given)


def _said(item: Item, kind: Kind, one: Rating, rubric: Rubric, note: str) -> Said:
    content, verdict = one.content, "skipped"
    if one.said == "verdict":
        as_stored = Task(
            assignment=one.assignment,
            campaign=item.campaign,
            kind=kind,
            until=0.0,
            rubric=rubric,
            prompt=item.prompt,
            responses=tuple(response.text for response in item.responses),
            tags=(),
            practice=False,
        )
        verdict = in_words(as_stored, by_place(content["verdict"], one.shown))
    return Said(
        rater=one.rater,
        verdict=verdict,
        first=letter(one.shown[0]) if len(item.responses) > 1 else "",
        comment=content.get("comment") or "",
        tags=tuple(content.get("tags") or ()),
        flag=content.get("flag") or "",
        edited=tuple(sorted(letter(one.shown[edit["position"]]) for edit in content.get("edits") or ())),
        seconds=content.get("active_ms", 0) / 1000 or None,
        note=note,
    )


def _free(engine: Engine, items: Sequence[str]) -> dict[str, int]:
    """Ratings each item still waits for; those that somebody is about to give are not among them."""
    from sqlalchemy import select

    openings = table("openings")
    with engine.connect() as connection:
        rows = connection.execute(select(openings.c.item, openings.c.free).where(openings.c.item.in_(items)))
        return {row.item: row.free for row in rows}
