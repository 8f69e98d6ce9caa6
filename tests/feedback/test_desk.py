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
from llmops.feedback.raters import add_rater, pause, rater_states, resume
from llmops.feedback.ratings import ratings
from llmops.feedback.rebuilding import rebuild
from llmops.feedback.store import add_items, reopen
from llmops.feedback.tables import table
from llmops.feedback.tasks import NoTask, Task
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


# ── gold, training, repeats ────────────────────────────────────────────────────────────────────────────────────────


def kinds(engine: Engine, rater: str) -> list[str]:
    given_ = table("assignments")
    wanted = select(given_.c.kind).where(given_.c.rater == rater).order_by(given_.c.at)
    with engine.connect() as connection:
        return list(connection.execute(wanted).scalars())


def test_gold_and_repeats_are_mixed_in_at_their_share_and_count_for_no_overlap(
    sqlite: Engine, desk: Desk, clock: Clock
) -> None:
    items = [item(n) for n in range(150)] + [gold(n) for n in range(150, 155)]
    start(sqlite, items, raters=["ann"], gold={"share": 0.1, "source": "g"}, repeat=0.1)
    for _ in range(100):
        clock.now += 30
        rate_one(desk, "ann")
    had = Counter(kinds(sqlite, "ann"))
    assert had["gold"] in (9, 10, 11)
    assert had["repeat"] in (9, 10, 11)
    assert desk.progress("c", "ann").done == had["normal"] == len(standing(sqlite))


def test_a_repeat_is_the_same_item_some_time_later_and_only_once(sqlite: Engine, desk: Desk, clock: Clock) -> None:
    start(sqlite, 100, raters=["ann"], repeat=0.4)
    seen: list[int] = []
    for _ in range(80):
        clock.now += 30
        seen.append(number_of(rate_one(desk, "ann")))
    twice = [number for number, times in Counter(seen).items() if times == 2]
    assert max(Counter(seen).values()) == 2
    assert len(twice) == Counter(kinds(sqlite, "ann"))["repeat"] > 20
    for number in twice:
        one = seen.index(number)
        assert seen.index(number, one + 1) - one >= 10


def test_a_repeat_holds_no_place_of_the_overlap(sqlite: Engine, desk: Desk, clock: Clock) -> None:
    start(sqlite, 60, raters=["ann"], repeat=0.5, lease_minutes=1)
    for _ in range(50):
        clock.now += 30
        task = given_task(desk, "ann")
        if kinds(sqlite, "ann")[-1] == "repeat":
            clock.now += 61  # its lease ends, and is handed back by the next call
            continue
        desk.submit(given(task), "ann")
    assert "repeat" in kinds(sqlite, "ann")[:-1]
    with sqlite.connect() as connection:
        free = {row.item: row.free for row in connection.execute(select(table("openings")))}
    assert {one: 1 - len(standing(sqlite).get(one, ())) for one in free} == free
    indexes = {name: _rows(sqlite, name) for name in ("leases", "rater_totals")}
    rebuild(sqlite, "c", at=clock.now)
    assert {name: _rows(sqlite, name) for name in indexes} == indexes
    with sqlite.connect() as connection:
        assert {row.item: row.free for row in connection.execute(select(table("openings")))} == free


def _rows(engine: Engine, name: str) -> list[Any]:
    with engine.connect() as connection:
        return sorted(connection.execute(select(table(name))).all())


def test_training_tells_the_answer_in_the_raters_own_order_and_counts_for_nothing(sqlite: Engine, desk: Desk) -> None:
    items = [gold(0), gold(1), gold(2), gold(3), item(4)]
    start(sqlite, items, raters=["ann"], gold={"share": 0.1, "source": "g", "training": 4, "shown": True})
    for _ in range(4):
        task = given_task(desk, "ann")
        assert task.practice
        rating = given(task)
        told = desk.submit(rating, "ann").expected
        assert told is not None
        assert told["step"] == (3 if task.responses[0] == "one" else -3)
        assert desk.submit(rating, "ann").expected == told
    assert not given_task(desk, "ann").practice
    assert desk.progress("c", "ann").gold == (0, 0)


def wrong(task: Task) -> dict[str, Any]:
    """The verdict that gold items do not expect."""
    return {"kind": "pairwise", "step": -1 if task.responses[0] == "one" else 1}


def only_gold(engine: Engine, items: int, **settings: Any) -> None:
    golds = [gold(n) for n in range(items)] + [item(n) for n in range(items, 3 * items)]
    more = {"gold": {"share": 0.9, "source": "g", "shown": True}, "pause": {"gold_below": 0.6, "after": 5}}
    start(engine, golds, raters=["ann"], **{**more, **settings})


def rate_wrong(desk: Desk, most: int) -> int:
    """Gold items answered wrongly until the rater is paused."""
    for done in range(most):
        task = desk.next("c", "ann")
        if isinstance(task, NoTask):
            assert task.why == "paused"
            return done
        desk.submit(given(task, wrong(task)), "ann")
    return most


def test_who_fails_at_gold_is_paused_and_forgiven_when_let_on(sqlite: Engine, desk: Desk) -> None:
    only_gold(sqlite, 40)
    first = rate_wrong(desk, 30)
    assert 5 <= first <= 8
    assert [state.paused for state in rater_states(sqlite, "c")] == [True]
    resume(sqlite, "c", "ann", actor="owner", reason="talked")
    again = rate_wrong(desk, 30)
    assert again >= 5, "judged by what came after alone"
    with sqlite.connect() as connection:
        happened = connection.execute(text("SELECT kind, actor FROM rating_events ORDER BY rowid")).all()
    assert [(row.kind, row.actor) for row in happened] == [
        ("paused", "service"), ("resumed", "owner"), ("paused", "service"),
    ]  # fmt: skip


def test_gold_that_was_skipped_is_held_against_nobody(sqlite: Engine, desk: Desk) -> None:
    only_gold(sqlite, 30)
    for _ in range(25):
        rate_one(desk, "ann", None)
    assert desk.progress("c", "ann").gold == (0, 0)


def test_a_mistake_at_gold_that_was_taken_back_counts_no_more(sqlite: Engine, desk: Desk) -> None:
    only_gold(sqlite, 10, pause=None)
    task = given_task(desk, "ann")
    while kinds(sqlite, "ann")[-1] != "gold":
        desk.submit(given(task), "ann")
        task = given_task(desk, "ann")
    right, of = desk.progress("c", "ann").gold or (0, 0)
    slip = given(task, wrong(task))
    desk.submit(slip, "ann")
    assert desk.progress("c", "ann").gold == (right, of + 1)
    mended = {"kind": "pairwise", "step": -wrong(task)["step"]}
    desk.submit(given(task, mended, supersedes=slip.id), "ann")
    assert desk.progress("c", "ann").gold == (right + 1, of + 1)


def test_what_a_paused_rater_has_on_the_page_can_still_be_sent(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, 2, raters=["ann"])
    task = given_task(desk, "ann")
    pause(sqlite, "c", "ann", actor="owner")
    assert desk.next("c", "ann") == NoTask("paused")
    assert not desk.submit(given(task), "ann").surplus
    resume(sqlite, "c", "ann", actor="owner")
    assert isinstance(desk.next("c", "ann"), Task)


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
from llmops.feedback.desk import Desk
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
