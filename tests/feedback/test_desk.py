"""The desk gives each rater the right task, at a cost that does not grow, and what it acknowledged survives a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event, select, text

from llmops.feedback.desk import Desk
from llmops.feedback.faults import Conflict
from llmops.feedback.raters import add_rater
from llmops.feedback.ratings import ratings
from llmops.feedback.store import add_items, reopen
from llmops.feedback.tables import table
from llmops.feedback.tasks import NoTask
from tests.feedback.at_the_desk import given_task, number_of, rate_one
from tests.feedback.small_campaigns import (
    Clock,
    given,
    gold,
    item,
    standing,
    start,
)

# ── which task ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reload_shows_the_same_task_and_one_is_fetched_ahead(both: Engine) -> None:
    start(both, 5, raters=["ann"])
    desk = Desk(both)
    task = given_task(desk, "ann")
    assert given_task(desk, "ann") == given_task(Desk(both), "ann") == task
    ahead = given_task(desk, "ann", desk.ahead)
    assert ahead.assignment != task.assignment
    assert given_task(desk, "ann", desk.ahead) == ahead
    desk.submit(given(task), "ann")
    assert given_task(desk, "ann") == ahead


def test_higher_priority_comes_first_then_the_order_of_coming_in(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, [item(0), item(1, priority=2), item(2, priority=2), item(3, priority=-1)], raters=["ann"])
    assert [number_of(rate_one(desk, "ann")) for _ in range(4)] == [1, 2, 0, 3]


def test_what_comes_in_later_with_a_higher_priority_is_next(sqlite: Engine, desk: Desk, clock: Clock) -> None:
    start(sqlite, 4, raters=["ann"])
    rate_one(desk, "ann")
    clock.now += 60
    add_items(sqlite, "c", [item(9, priority=1)], at=clock.now)
    assert number_of(rate_one(desk, "ann")) == 9


def test_items_go_to_those_who_read_them(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, [item(0, language="de"), item(1, language="fr-CA"), item(2), item(3, language="de-CH")])
    add_rater(sqlite, "ann", languages=["de"])
    add_rater(sqlite, "bob", languages=["fr"])
    add_rater(sqlite, "eve")
    assert [number_of(rate_one(desk, "ann")) for _ in range(3)] == [0, 2, 3]
    assert number_of(rate_one(desk, "bob")) == 1
    assert desk.next("c", "eve") == NoTask("finished")


def test_to_who_reads_none_of_it_nothing_is_assigned(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, [item(0, language="de")], raters=["eve"])
    assert desk.next("c", "eve") == NoTask("nothing")


@pytest.mark.parametrize(
    ("settings", "why"), [({"languages": ["de"]}, "nothing"), ({"requires": ["medicine"]}, "training")]
)
def test_who_does_not_fit_the_campaign_gets_none_of_it(
    sqlite: Engine, desk: Desk, settings: dict[str, Any], why: str
) -> None:
    start(sqlite, 1, raters=["eve"], **settings)
    add_rater(sqlite, "ann", languages=["de"], qualifications=["medicine"])
    assert desk.next("c", "eve") == NoTask(why)  # type: ignore[arg-type]
    assert number_of(given_task(desk, "ann")) == 0


def test_what_others_hold_is_taken_until_their_lease_ends(sqlite: Engine, desk: Desk, clock: Clock) -> None:
    start(sqlite, 1, raters=["ann", "bob"], lease_minutes=10)
    given_task(desk, "ann")
    clock.now += 240
    assert desk.next("c", "bob") == NoTask("taken", 360.0)
    clock.now += 361
    assert number_of(given_task(desk, "bob")) == 0


def test_what_the_rater_has_had_is_not_taken_but_finished(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, 1, raters=["ann", "bob"], overlap=2)
    rate_one(desk, "ann")
    given_task(desk, "bob")
    assert desk.next("c", "ann") == NoTask("finished")


def test_an_item_skipped_or_given_back_goes_to_others_alone(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, 2, raters=["ann", "bob"])
    skipped = rate_one(desk, "ann", None)
    given_back = given_task(desk, "ann")
    desk.release(given_back.assignment, "ann")
    desk.release(given_back.assignment, "ann")
    assert desk.next("c", "ann") == NoTask("finished")
    assert [number_of(rate_one(desk, "bob")) for _ in range(2)] == [number_of(skipped), number_of(given_back)]


def test_a_reopened_item_goes_to_who_has_not_had_it(sqlite: Engine, desk: Desk, clock: Clock) -> None:
    start(sqlite, 1, raters=["ann", "bob"])
    rate_one(desk, "ann")
    assert desk.next("c", "bob") == NoTask("finished")
    (one,) = standing(sqlite)
    reopen(sqlite, "c", [one], actor="owner", at=clock.now)
    assert desk.next("c", "ann") == NoTask("finished")
    assert number_of(rate_one(desk, "bob")) == 0
    assert desk.progress("c", "bob").wanted == 2


def test_a_task_says_nothing_of_models_sources_or_kinds(sqlite: Engine, desk: Desk) -> None:
    items = [gold(0), *(item(n, ("I am Claude", "I am GPT-5"), tags=["t"]) for n in range(1, 40))]
    start(sqlite, items, raters=["ann"], gold={"share": 0.3, "source": "g"}, mask=["Claude", "GPT-5"])
    for _ in range(30):
        seen = json.dumps(asdict(rate_one(desk, "ann")) | {"rubric": None})
        for hidden in ("secret", "Claude", "GPT", "gold", "normal", "line", "cluster"):
            assert hidden not in seen


def test_both_sides_are_first_as_often_and_it_is_written_down_which(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, 100, raters=["ann"])
    first = Counter(rate_one(desk, "ann").responses[0] for _ in range(100))
    assert 30 < first["one"] < 70
    with sqlite.connect() as connection:
        shown = connection.execute(select(table("assignments").c.shown)).scalars()
        assert Counter(json.loads(one)[0] for one in shown) == {0: first["one"], 1: first["two"]}


# ── cost and safety ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_next_task_costs_as_few_steps_behind_hundreds_of_used_up_ones(sqlite: Engine, clock: Clock) -> None:
    """Steps of SQLite's machine, counted by its own progress handler: no clock, so it holds on any machine."""
    start(sqlite, 500, raters=["ann", "bob"], overlap=2)
    steps = 0

    @event.listens_for(sqlite, "checkout")
    def watch(connection: Any, _: Any, __: Any) -> None:
        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        connection.set_progress_handler(count, 50)

    def cost(desk: Desk, rater: str) -> int:
        nonlocal steps
        clock.now += 10
        steps = 0
        rate_one(desk, rater)
        return steps

    desk = Desk(sqlite, clock=clock)
    early = max(cost(desk, "ann") for _ in range(20))
    for _ in range(350):
        clock.now += 10
        rate_one(desk, "ann")
    late = max(cost(desk, "ann") for _ in range(20))
    assert late <= 1.5 * early, "hundreds of items that others have not had lie behind"
    for _ in range(350):
        clock.now += 10
        rate_one(desk, "bob")
    again = Desk(sqlite, clock=clock)
    add_rater(sqlite, "eve")
    assert cost(again, "eve") <= 1.5 * early, "hundreds of used-up items are no part of the search"


KILLED = """
import sys
from pathlib import Path
from llmops.database import open_database
from llmops.feedback.desk import GOLD_TOLD, Desk
from llmops.workspace import Workspace
from tests.feedback.small_campaigns import given
desk = Desk(open_database(Workspace(Path(sys.argv[1])), keep=1, survives="kill"))
while True:
    task = desk.next("c", "ann")
    rating = given(task)
    print("sending", rating.id, flush=True)
    desk.submit(rating, "ann")
    print("stored", rating.id, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(sqlite: Engine) -> None:
    start(sqlite, 3_000, raters=["ann"])
    folder = str(sqlite.url.database).removesuffix("/llmops.db")
    sent: set[str] = set()
    stored: set[str] = set()
    for kill in range(2):
        with subprocess.Popen([sys.executable, "-c", KILLED, folder], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                what, name = line.split()
                (sent if what == "sending" else stored).add(name)
                if what == "sending" and len(sent) % 25 == 10 + kill:
                    os.kill(child.pid, signal.SIGKILL)
    kept = Counter(one.id for one in ratings(sqlite, "c"))
    assert stored <= set(kept) <= sent
    assert set(kept.values()) == {1}
    with sqlite.connect() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"


def test_a_rating_with_an_id_of_its_own_each_time_is_not_stored_twice_by_accident(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, 2, raters=["ann"])
    task = given_task(desk, "ann")
    desk.submit(given(task, id=str(uuid4())), "ann")
    with pytest.raises(Conflict, match="this task has another rating"):
        desk.submit(given(task, id=str(uuid4())), "ann")
