"""Raters at work while the server and their browsers are killed; afterwards, what they saw against what is stored."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any

from playwright.sync_api import sync_playwright
from sqlalchemy import Engine, text

from llmops.feedback.accounts import Accounts
from llmops.feedback.invitations import Invitations
from llmops.feedback.passwords import Passwords
from tests.feedback.killed_browser import KilledBrowser
from tests.feedback.killed_service import KilledService
from tests.feedback.persistent_rater import PersistentRater, Pressed
from tests.feedback.small_campaigns import start
from tests.feedback.strikes import strikes

CAMPAIGN = "kills"


@dataclass(frozen=True)
class Outcome:
    """What happened in one run.

    Attributes:
        stored: ratings that stand, counted in the database.
        lost: taken by the page, and not what stands.
        doubled: stored although nobody pressed, or twice.
        again: times a browser began to send a rating that it, or the browser before it, had begun to send already.
        unseen: Enter was pressed, and the browser was killed before anybody saw whether the page took the rating.
        came_back: tasks shown again although the page had taken a rating of them.
        faults: whatever else is not as it has to be.
    """

    ratings: int
    stored: int
    server_kills: int
    browser_kills: int
    seconds: float
    again: int
    unseen: int
    logins: int
    came_back: list[str]
    lost: list[str]
    doubled: list[str]
    faults: list[str]

    @property
    def faultless(self) -> bool:
        """Each rating is stored exactly once, and nobody had to give one twice."""
        return not (self.came_back or self.lost or self.doubled or self.faults)

    def said(self) -> str:
        """What is wrong, the first of each kind."""
        return "\n".join(line for lines in (self.lost, self.doubled, self.faults, self.came_back) for line in lines[:5])

    def __str__(self) -> str:
        return (
            f"{self.ratings:,} ratings, {self.server_kills} kills of the server and {self.browser_kills} of a browser "
            f"in {self.seconds:.0f} s; {self.logins} times logged in again, {self.unseen} times killed before anybody "
            f"saw what became of a rating, {self.again} times sent again; {len(self.came_back)} tasks came back; "
            f"stored {self.stored:,}, lost {len(self.lost)}, doubled {len(self.doubled)}"
        )


def rated_through_kills(
    engine: Engine,
    home: Path,
    folder: Path,
    program: str,
    *,
    items: int,
    raters: int,
    kills: int,
    seed: int,
    told: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Each rater rates each item once, `items` × `raters` ratings in all, through so many kills.

    Args:
        engine: an empty database, the same that a service with the workspace `home` opens.
        folder: for profiles of browsers, and the service's log.
        program: chromium.
        told: hears how far it is.
    """
    start(engine, items, name=CAMPAIGN, overlap=raters)
    invitations = Invitations(Accounts(engine, Passwords()), hours=1)
    began, all_given, guard = time.monotonic(), count(1), Lock()

    with KilledService(home, folder / "service.log") as service:

        def progress(_: int) -> None:
            with guard:
                given = next(all_given)
            if given % 250 == 0:
                told(f"{given:,} ratings after {time.monotonic() - began:.0f} s, {service.kills} kills of the server")

        def work(number: int) -> tuple[PersistentRater, int]:
            draw = Random(f"{seed} {number}")
            mine = kills // raters + (number < kills % raters)
            secret = invitations.make("rater", by="console", campaigns=(CAMPAIGN,))
            with sync_playwright() as driver:
                browser = KilledBrowser(driver, program, folder / f"profile-{number}")
                rater = PersistentRater(
                    f"rater-{number}",
                    service,
                    browser,
                    campaign=CAMPAIGN,
                    draw=draw,
                    strikes=strikes(draw, ratings=items, kills=mine),
                    told=progress,
                )
                try:
                    rater.accept(f"{service.address}/invitation/{secret}")
                    rater.rate_all()
                finally:
                    browser.close()
                return rater, browser.kills

        with ThreadPoolExecutor(raters) as pool:
            done = list(pool.map(work, range(raters)))
    seconds = time.monotonic() - began
    pressed = [one for rater, _ in done for one in rater.pressed]
    lost, doubled, stored = compared(engine, pressed)
    faults = [f"the service ended by itself with status {status}" for status in service.ended]
    faults += overlap_faults(engine, items, raters)
    return Outcome(
        ratings=len({one.assignment for one in pressed}),
        stored=stored,
        server_kills=service.kills,
        browser_kills=sum(number for _, number in done),
        seconds=seconds,
        again=sum((rater.sent.total() - len(rater.sent)) for rater, _ in done),
        unseen=sum(not one.taken for one in pressed),
        logins=sum(rater.logins for rater, _ in done),
        came_back=came_back(pressed),
        lost=lost,
        doubled=doubled,
        faults=faults,
    )


def came_back(pressed: Sequence[Pressed]) -> list[str]:
    """Tasks that the page took a rating of and that had to be rated once more."""
    taken, found = set(), []
    for one in pressed:
        if one.assignment in taken:
            found.append(one.assignment)
        if one.taken:
            taken.add(one.assignment)
    return found


def compared(engine: Engine, pressed: Sequence[Pressed]) -> tuple[list[str], list[str], int]:
    """What raters saw against the rows of the database; what is lost, what is doubled, and how many ratings stand.

    Of an assignment, what stands has to be the last verdict that the page took, or one that was pressed after it and of
    which nobody saw what became. There are as many rows as pressed verdicts at most, one of which is not replaced.
    """
    rows: dict[str, list[Any]] = defaultdict(list)
    with engine.connect() as connection:
        for row in connection.execute(text("SELECT id, assignment, said, content, supersedes, surplus FROM ratings")):
            rows[row.assignment].append(row)
    said: dict[str, list[Pressed]] = defaultdict(list)
    for one in pressed:
        said[one.assignment].append(one)
    lost, doubled, standing = [], [], 0
    ids = Counter(row.id for several in rows.values() for row in several)
    doubled += [f"the rating {name} is stored {number} times" for name, number in ids.items() if number > 1]
    doubled += [f"nobody pressed anything on {name}" for name in rows.keys() - said.keys()]
    for assignment, mine in said.items():
        stored = rows[assignment]
        replaced = {row.supersedes for row in stored}
        stands = [row for row in stored if row.id not in replaced]
        standing += len(stands)
        if len(stands) > 1 or len(stored) > len(mine):
            doubled.append(f"{assignment} has {len(stored)} ratings, {len(stands)} of which stand, of {mine}")
        last = max((place for place, one in enumerate(mine) if one.taken), default=0)
        wanted = [one.verdict for one in mine[last:]]
        if not stands:
            lost.append(f"{assignment} has no rating; pressed was {mine}")
        elif stands[0].said != "verdict" or json.loads(stands[0].content)["verdict"] not in wanted:
            lost.append(f"{assignment} has {stands[0].content}; pressed was {mine}")
    return lost, doubled, standing


def overlap_faults(engine: Engine, items: int, raters: int) -> list[str]:
    """Where an item has not exactly one standing rating of each rater, or the service's own counts say otherwise."""
    faults = []
    with engine.connect() as connection:

        def ask(sql: str) -> list[Any]:
            return list(connection.execute(text(sql)).all())

        known = {row.id for row in ask("SELECT id FROM rated_items")}
        of_item: dict[str, list[str]] = {name: [] for name in known}
        for row in ask(
            "SELECT item, rater, surplus FROM ratings r "
            "WHERE NOT EXISTS (SELECT 1 FROM ratings l WHERE l.supersedes = r.id)"
        ):
            of_item[row.item].append(row.rater)
            if row.surplus:
                faults.append(f"a rating of {row.item} is surplus")
        if len(known) != items:
            faults.append(f"{len(known)} items instead of {items}")
        for name, who in of_item.items():
            if len(who) != raters or len(set(who)) != raters:
                faults.append(f"the item {name} has {len(who)} ratings of {len(set(who))} raters")
        for name, wanted in (("SELECT count(*) FROM leases", 0), ("SELECT sum(free) FROM openings", 0),
                             ("SELECT sum(counted) FROM rater_totals", items * raters),
                             ("SELECT sum(rated) FROM rater_totals", items * raters),
                             ("SELECT count(*) FROM assignments", items * raters)):  # fmt: skip
            if (is_ := int(ask(name)[0][0])) != wanted:
                faults.append(f"{name}: {is_}, not {wanted}")
    return faults
