"""Items whose answer is known, practice and repeats: mixed in unseen, judged, and nobody learns which they were."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Engine, select, text

from llmops.feedback.desk import GOLD_TOLD, Desk
from llmops.feedback.raters import pause, rater_states, resume
from llmops.feedback.rebuilding import rebuild
from llmops.feedback.tables import table
from llmops.feedback.tasks import NoTask, Task
from llmops.feedback.verdicts import Given
from tests.feedback.at_the_desk import given_task, number_of, rate_one
from tests.feedback.small_campaigns import (
    Clock,
    given,
    gold,
    item,
    standing,
    start,
)


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
    assert gold_counted(sqlite) == (0, 0)


def wrong(task: Task) -> dict[str, Any]:
    """The verdict that gold items do not expect."""
    return {"kind": "pairwise", "step": -1 if task.responses[0] == "one" else 1}


def gold_counted(engine: Engine) -> tuple[int, int]:
    """How often the one rater was right, and of how many, as the owner sees it."""
    (state,) = rater_states(engine, "c")
    return state.gold


def right(task: Task) -> dict[str, Any]:
    return {"kind": "pairwise", "step": -wrong(task)["step"]}


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


def test_a_shown_agreement_gives_no_gold_item_away(sqlite: Engine, desk: Desk, clock: Clock) -> None:
    """It moves on after every ten, and going back to say something else does not move it."""
    only_gold(sqlite, 40, pause=None)
    rated: list[Given] = []
    while len(rated) < 24:
        clock.now += 1
        task = given_task(desk, "ann")
        if kinds(sqlite, "ann")[-1] != "gold":
            desk.submit(given(task), "ann")
            continue
        rated.append(given(task, wrong(task) if len(rated) % 3 == 2 else right(task)))
        desk.submit(rated[-1], "ann")
        full = len(rated) - len(rated) % GOLD_TOLD
        assert desk.progress("c", "ann").gold == ((full - full // 3, full) if full else None)
    for one in (rated[2], rated[3]):
        task = desk.task(one.assignment, "ann")
        other = given(task, wrong(task) if one is rated[3] else right(task))
        desk.submit(other.model_copy(update={"supersedes": one.id}), "ann")
        assert desk.progress("c", "ann").gold == (14, 20)
    assert gold_counted(sqlite) == (16, 24), "the owner sees what stands"


def test_gold_that_was_skipped_is_held_against_nobody(sqlite: Engine, desk: Desk) -> None:
    only_gold(sqlite, 30)
    for _ in range(25):
        rate_one(desk, "ann", None)
    assert gold_counted(sqlite) == (0, 0)


def test_a_mistake_at_gold_that_was_taken_back_counts_no_more(sqlite: Engine, desk: Desk) -> None:
    only_gold(sqlite, 10, pause=None)
    task = given_task(desk, "ann")
    while kinds(sqlite, "ann")[-1] != "gold":
        desk.submit(given(task), "ann")
        task = given_task(desk, "ann")
    before, of = gold_counted(sqlite)
    slip = given(task, wrong(task))
    desk.submit(slip, "ann")
    assert gold_counted(sqlite) == (before, of + 1)
    desk.submit(given(task, right(task), supersedes=slip.id), "ann")
    assert gold_counted(sqlite) == (before + 1, of + 1)


def test_what_a_paused_rater_has_on_the_page_can_still_be_sent(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, 2, raters=["ann"])
    task = given_task(desk, "ann")
    pause(sqlite, "c", "ann", actor="owner")
    assert desk.next("c", "ann") == NoTask("paused")
    assert not desk.submit(given(task), "ann").surplus
    resume(sqlite, "c", "ann", actor="owner")
    assert isinstance(desk.next("c", "ann"), Task)
