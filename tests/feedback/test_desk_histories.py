"""Whatever raters do and however long they take, an item gets the ratings it needs and no more, and the indexes say
what the records say."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, select

from llmops.database import _prepare_sqlite, _trust_the_system
from llmops.feedback.desk import Desk
from llmops.feedback.erasing import erase_rater
from llmops.feedback.faults import Conflict, LeaseLost
from llmops.feedback.raters import add_rater, pause, resume
from llmops.feedback.rebuilding import rebuild
from llmops.feedback.store import add_items, reopen
from llmops.feedback.tables import table
from llmops.feedback.tasks import NoTask, Task
from llmops.feedback.verdicts import Given
from tests.feedback import small_campaigns
from tests.feedback.small_campaigns import FIRST, Clock, gold, item, start

RATERS = ("r0", "r1", "r2", "r3")
OVERLAP = 2
LEASE_S = 600.0
ACTIONS = (
    *("next",) * 8,
    *("ahead",) * 2,
    *("rate",) * 8,
    "skip",
    "change",
    "take back",
    "again",
    "extend",
    "release",
    *("wait",) * 3,
    "reopen",
    "add",
    "pause",
    *("resume",) * 3,
    "restart",
    "forget",
    "drop",
)


class History:
    """Raters at one desk, with every promise checked after each thing they do."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine = engine
        self.random = Random(seed)
        self.clock = Clock()
        items = [item(n, priority=n % 2) for n in range(6)] + [gold(n) for n in range(2)]
        more: dict[str, Any] = {"gold": {"share": 0.2, "source": "g", "training": 1}, "repeat": 0.3}
        start(engine, items, raters=RATERS, overlap=OVERLAP, lease_minutes=LEASE_S / 60, **more)
        self.desk = Desk(engine, clock=self.clock, random=self.random)
        self.tasks: dict[str, list[Task]] = {rater: [] for rater in RATERS}
        self.sent: dict[str, Given] = {}
        self.gone: set[str] = set()

    def act(self, action: str, rater: str, which: int) -> None:
        self.clock.now += 0.25
        mine = self.tasks.get(rater, [])
        task = mine[which % len(mine)] if mine else None
        if action in ("next", "ahead"):
            self.ask(rater, self.desk.next if action == "next" else self.desk.ahead)
        elif action == "wait":
            self.clock.now += LEASE_S * (which % 5) / 3
        elif action == "reopen":
            names = self.items()
            reopen(self.engine, "c", [names[which % len(names)]], actor="owner", at=self.clock())
        elif action == "add":
            add_items(self.engine, "c", [item(which, priority=which % 3)], at=self.clock())
        elif action == "restart":
            self.desk = Desk(self.engine, clock=self.clock, random=self.random)
        elif rater in self.gone:
            return
        elif action == "pause":
            pause(self.engine, "c", rater, actor="owner", at=self.clock())
        elif action == "resume":
            resume(self.engine, "c", rater, actor="owner", at=self.clock())
        elif action in ("forget", "drop"):
            if which == 7 and self.random.random() < 0.5:
                erase_rater(self.engine, rater, drop=action == "drop", actor="owner", at=self.clock())
                self.gone.add(rater)
        elif task is not None:
            self.on(action, task, rater)

    def ask(self, rater: str, ask: Callable[[str, str], Task | NoTask]) -> Task | NoTask | None:
        if rater in self.gone:
            return None
        task = ask("c", rater)
        if isinstance(task, Task) and task.assignment not in {one.assignment for one in self.tasks[rater]}:
            self.tasks[rater].append(task)
        return task

    def on(self, action: str, task: Task, rater: str) -> None:
        before = self.sent.get(task.assignment)
        if action in ("rate", "skip", "change", "take back"):
            verdict = FIRST if action in ("rate", "change") else None
            replacing = action in ("change", "take back")
            self.send(task, rater, verdict, before.id if before is not None and replacing else None)
        elif action == "again" and before is not None:
            assert self.desk.submit(before, rater).again
        elif action == "extend":
            self.extend(task, rater)
        elif action == "release":
            self.desk.release(task.assignment, rater)

    def send(self, task: Task, rater: str, verdict: dict[str, Any] | None, supersedes: str | None) -> None:
        before = self.sent.get(task.assignment)
        rating = small_campaigns.given(task, verdict, supersedes=supersedes)
        item_, kind = self.assigned(task.assignment)
        held = task.assignment in self.leases() or task.assignment in self.filling()
        full = kind == "normal" and self.needed()[item_] <= self.used()[item_]
        if (None if before is None else before.id) != supersedes:
            with pytest.raises(Conflict) as conflict:
                self.desk.submit(rating, rater)
            assert conflict.value.newest == (None if before is None else before.id)
            return
        stored = self.desk.submit(rating, rater)
        self.sent[task.assignment] = rating
        assert stored.surplus == (verdict is not None and full and not held), "surplus is what came too late alone"
        assert (stored.expected is not None) == task.practice

    def extend(self, task: Task, rater: str) -> None:
        leased = task.assignment in self.leases()
        try:
            until = self.desk.extend(task.assignment, rater)
        except LeaseLost:
            assert not leased
        except Conflict:
            assert task.assignment in self.sent
        else:
            assert until == self.leases()[task.assignment] > self.clock() - LEASE_S

    # ── the same, counted from the records ─────────────────────────────────────────────────────────────────────────

    def rows(self, name: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(select(table(name))).all())

    def items(self) -> list[str]:
        return [row.id for row in sorted(self.rows("rated_items"), key=lambda row: row.place) if row.kind == "normal"]

    def assigned(self, assignment: str) -> tuple[str, str]:
        return next((row.item, row.kind) for row in self.rows("assignments") if row.id == assignment)

    def leases(self) -> dict[str, float]:
        return {row.assignment: row.until for row in self.rows("leases")}

    def dropped(self) -> set[str]:
        return {row.subject for row in self.rows("rating_events") if row.kind == "dropped"}

    def filling(self) -> dict[str, Any]:
        """Assignments whose rating fills a place, with that rating."""
        ratings, dropped = self.rows("ratings"), self.dropped()
        replaced = {row.supersedes for row in ratings}
        kinds = {row.id: row.kind for row in self.rows("assignments")}
        return {
            row.assignment: row
            for row in ratings
            if row.id not in replaced
            and row.said == "verdict"
            and not row.surplus
            and kinds[row.assignment] == "normal"
            and row.rater not in dropped
        }

    def needed(self) -> Counter[str]:
        needed = Counter(dict.fromkeys(self.items(), OVERLAP))
        for row in self.rows("rating_events"):
            if row.kind == "reopened":
                needed[row.subject] += json.loads(row.detail)["more"]
        return needed

    def used(self) -> Counter[str]:
        kinds = {row.id: row.kind for row in self.rows("assignments")}
        used = Counter(row.item for row in self.filling().values())
        return used + Counter(row.item for row in self.rows("leases") if kinds[row.assignment] == "normal")

    def check(self) -> None:
        needed, used, filling = self.needed(), self.used(), self.filling()
        for row in self.rows("openings"):
            assert row.free == needed[row.item] - used[row.item] >= 0
        raters = Counter((row.item, row.rater) for row in filling.values())
        assert not raters or max(raters.values()) == 1, "each by another person"
        once = Counter((row.item, row.rater) for row in self.rows("assignments") if row.kind == "normal")
        assert not once or max(once.values()) == 1, "no item twice to one rater"
        totals = self.rows("rater_totals")
        assert sum(row.counted for row in totals) == len(filling)

    def indexes(self) -> dict[str, list[dict[str, Any]]]:
        return {
            name: sorted(
                ({key: value for key, value in row._asdict().items() if key != "since"} for row in self.rows(name)),
                key=str,
            )
            for name in ("openings", "leases", "campaign_totals", "rater_totals")
        }

    def check_rebuilt(self) -> None:
        self.desk._reap("c", self.clock())
        kept = self.indexes()
        rebuild(self.engine, "c", at=self.clock())
        assert self.indexes() == kept

    def finish(self) -> None:
        """The others go home; new raters come until nothing is left."""
        self.clock.now += 2 * LEASE_S
        for number in range(sum(self.needed().values())):
            rater = add_rater(self.engine, f"new{number}", at=self.clock())
            self.tasks[rater] = []
            while isinstance(task := self.ask(rater, self.desk.next), Task):
                self.desk.submit(small_campaigns.given(task), rater)
            assert isinstance(task, NoTask)
            assert task.why == "finished"
            if all(row.free == 0 for row in self.rows("openings")):
                break
        assert Counter(row.item for row in self.filling().values()) == self.needed()


@contextmanager
def new_engine(empty: Path) -> Iterator[Engine]:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(empty, f"{folder}/llmops.db")
        engine = create_engine(f"sqlite:///{folder}/llmops.db")
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "connect", _trust_the_system)
        yield engine
        engine.dispose()


def live(engine: Engine, seed: int, length: int) -> None:
    """A history that is drawn, and long: what goes wrong needs a dozen tasks, a late rating, a change of mind."""
    drawn, history = Random(seed), History(engine, seed)
    for _ in range(length):
        history.act(drawn.choice(ACTIONS), drawn.choice(RATERS), drawn.randrange(10))
        history.check()
    history.check_rebuilt()
    history.finish()
    history.check()
    history.check_rebuilt()


@pytest.mark.parametrize("seed", range(6))
def test_items_get_exactly_their_overlap_in_any_history(empty_database: Path, seed: int) -> None:
    with new_engine(empty_database) as engine:
        live(engine, seed, 140)


def test_and_on_a_server(postgres: Engine) -> None:
    live(postgres, 6, 40)
