"""The desk keeps what raters say, once, in whatever order and however late it comes."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from llmops.errors import InputError
from llmops.feedback.desk import Desk
from llmops.feedback.faults import Conflict, LeaseLost, NotThere, RubricChanged
from llmops.feedback.ratings import ratings
from llmops.feedback.store import add_items, reword
from llmops.feedback.tables import table
from llmops.feedback.tasks import NoTask, Task
from llmops.rubric import Rubric
from tests.feedback.at_the_desk import NEW_WORDS, SECOND, SEVERAL, given_task, rate_one
from tests.feedback.small_campaigns import (
    FIRST,
    FLUENCY,
    HELPFULNESS,
    QUALITY,
    Clock,
    given,
    gold,
    item,
    standing,
    start,
)


def test_a_rating_is_stored_once_however_often_it_is_sent(both: Engine) -> None:
    start(both, 2, raters=["ann"])
    desk = Desk(both)
    task = given_task(desk, "ann")
    rating = given(task)
    assert not desk.submit(rating, "ann").again
    other = rating.model_copy(update={"comment": "changed on the way"})
    for _ in range(3):
        assert desk.submit(other, "ann").again
    assert [one.content["comment"] for one in ratings(both, "c")] == [""]


def test_nobody_sees_or_rates_the_task_of_another(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, 3, raters=["ann", "bob"])
    task = given_task(desk, "ann")
    for act in (
        lambda: desk.task(task.assignment, "bob"),
        lambda: desk.submit(given(task), "bob"),
        lambda: desk.extend(task.assignment, "bob"),
        lambda: desk.release(task.assignment, "bob"),
        lambda: desk.previous("c", "bob", task.assignment),
    ):
        with pytest.raises(NotThere) as others:
            act()
        with pytest.raises(NotThere) as none:
            desk.task("0" * 32, "bob")
        assert others.value.problem.replace(task.assignment, "0" * 32) == none.value.problem


def test_an_id_that_another_rating_has_is_no_way_to_it(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, 3, raters=["ann", "bob"])
    task = given_task(desk, "ann")
    rating = given(task)
    desk.submit(rating, "ann")
    theirs = given_task(desk, "bob")
    with pytest.raises(Conflict, match="another rating has this id"):
        desk.submit(given(theirs, id=rating.id), "bob")
    assert isinstance(desk.submit(given(theirs), "bob").id, str)


def test_a_rating_is_replaced_by_the_next_and_nothing_is_lost(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, 1, raters=["ann"])
    task = given_task(desk, "ann")
    first = given(task)
    desk.submit(first, "ann")
    with pytest.raises(Conflict) as conflict:
        desk.submit(given(task, SECOND), "ann")
    assert conflict.value.newest == first.id
    second = given(task, SECOND, supersedes=first.id)
    desk.submit(second, "ann")
    with pytest.raises(Conflict, match="replaced already"):
        desk.submit(given(task, supersedes=first.id), "ann")
    with pytest.raises(Conflict, match="send that one first"):
        desk.submit(given(_other(sqlite, desk), supersedes=first.id), "ann")
    (stands,) = [one for one in ratings(sqlite, "c") if one.assignment == task.assignment]
    assert (stands.id, stands.content["verdict"]["step"]) == (second.id, -3)
    assert desk.task(task.assignment, "ann").given == {"id": second.id, **second.content()}
    with sqlite.connect() as connection:
        assert connection.execute(select(func.count()).select_from(table("ratings"))).scalar() == 2


def _other(engine: Engine, desk: Desk) -> Task:
    add_items(engine, "c", [item(7)])
    return given_task(desk, "ann")


def test_going_back_leads_through_all_that_was_rated(sqlite: Engine, desk: Desk, clock: Clock) -> None:
    start(sqlite, 4, raters=["ann", "bob"])
    assert desk.previous("c", "ann") is None
    seen = []
    for verdict in (FIRST, None, SECOND):
        clock.now += 1
        seen.append(rate_one(desk, "ann", verdict).assignment)
    clock.now += 1
    here = given_task(desk, "ann").assignment
    back = []
    while (before := desk.previous("c", "ann", here)) is not None:
        back.append(before.assignment)
        assert before.given is not None
        here = before.assignment
    assert back == seen[::-1]


def test_a_late_rating_counts_while_its_place_was_not_handed_on(sqlite: Engine, desk: Desk, clock: Clock) -> None:
    start(sqlite, 1, raters=["ann"], lease_minutes=1)
    late = given_task(desk, "ann")
    clock.now += 3600
    assert not desk.submit(given(late), "ann").surplus
    assert sum(len(who) for who in standing(sqlite).values()) == 1


def test_a_late_rating_is_kept_as_surplus_when_others_filled_the_overlap(
    sqlite: Engine, desk: Desk, clock: Clock
) -> None:
    start(sqlite, 1, raters=["ann", "bob"], lease_minutes=1)
    late = given_task(desk, "ann")
    clock.now += 61
    rate_one(desk, "bob")
    rating = given(late)
    assert desk.submit(rating, "ann").surplus
    assert desk.submit(rating, "ann").surplus
    assert {(one.rater, one.surplus) for one in ratings(sqlite, "c")} == {("ann", True), ("bob", False)}
    assert desk.progress("c", "ann").done == 1


def test_a_late_rating_counts_when_nobody_else_was_given_the_item(sqlite: Engine, desk: Desk, clock: Clock) -> None:
    start(sqlite, 1, raters=["ann", "bob"], lease_minutes=1)
    late = given_task(desk, "ann")
    clock.now += 61
    desk.release(given_task(desk, "bob").assignment, "bob")
    assert not desk.submit(given(late), "ann").surplus


def test_an_open_page_keeps_its_item(sqlite: Engine, desk: Desk, clock: Clock) -> None:
    start(sqlite, 1, raters=["ann", "bob"], lease_minutes=1)
    task = given_task(desk, "ann")
    for _ in range(10):
        clock.now += 50
        assert desk.extend(task.assignment, "ann") == clock.now + 60
    assert desk.next("c", "bob") == NoTask("taken", 60.0)
    assert given_task(desk, "ann").until == clock.now + 60


def test_an_extension_that_is_not_needed_writes_nothing(sqlite: Engine, desk: Desk, clock: Clock) -> None:
    start(sqlite, 1, raters=["ann"], lease_minutes=1)
    task = given_task(desk, "ann")
    clock.now += 5
    assert desk.extend(task.assignment, "ann") == task.until
    with sqlite.connect() as connection:
        assert connection.execute(select(func.count()).select_from(table("rating_events"))).scalar() == 0


def test_a_lease_that_ended_is_taken_up_again_unless_others_have_the_item(
    sqlite: Engine, desk: Desk, clock: Clock
) -> None:
    start(sqlite, 1, raters=["ann", "bob", "eve"], lease_minutes=1)
    task = given_task(desk, "ann")
    clock.now += 61
    theirs = given_task(desk, "bob")
    with pytest.raises(LeaseLost, match="somebody else has it"):
        desk.extend(task.assignment, "ann")
    desk.release(theirs.assignment, "bob")
    assert desk.extend(task.assignment, "ann") == clock.now + 60
    assert desk.next("c", "eve") == NoTask("taken", 60.0)
    desk.submit(given(task), "ann")
    with pytest.raises(Conflict, match="rated already"):
        desk.extend(task.assignment, "ann")


def test_a_changed_question_shows_both_and_the_old_answer_can_be_meant(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, 2, raters=["ann"])
    task = given_task(desk, "ann")
    assert reword(sqlite, "c", NEW_WORDS, actor="owner")
    rating = given(task)
    with pytest.raises(RubricChanged) as changed:
        desk.submit(rating, "ann")
    assert (changed.value.seen.version, changed.value.current.version) == (1, 2)
    assert given_task(desk, "ann").rubric.question == "Which is better?"
    desk.submit(rating, "ann", accept_old=True)
    new = rate_one(desk, "ann")
    assert [one.rubric for one in ratings(sqlite, "c")] == [HELPFULNESS.digest, new.rubric.digest]
    assert desk.submit(rating, "ann").again, "what is stored is not asked about again"


def test_an_answer_to_a_question_that_was_never_asked_is_refused(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, 1, raters=["ann"])
    with pytest.raises(InputError, match="never asked by a rubric 'ffff'"):
        desk.submit(given(given_task(desk, "ann"), rubric="ffff"), "ann")


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"verdict": {"kind": "thumbs", "up": True}}, "of kind thumbs, the campaign asks for pairwise"),
        ({"tags": ["rude"]}, "no tag 'rude'"),
        ({"edits": [{"position": 2, "text": "x"}]}, "answer 2 was edited, there are 2"),
        ({"edits": [{"position": 0, "text": "x"}, {"position": 0, "text": "y"}]}, "edited twice"),
        ({"spans": [{"position": 3, "start": 0, "end": 1, "quote": "o"}]}, "a mark is in answer 3"),
        ({"spans": [{"position": 0, "start": 0, "end": 1, "quote": "xyz"}]}, "not in answer 0: 'xyz'"),
    ],
)
def test_what_does_not_answer_the_question_is_refused(
    sqlite: Engine, desk: Desk, more: dict[str, Any], problem: str
) -> None:
    start(sqlite, 1, raters=["ann"], tags=["polite"])
    task = given_task(desk, "ann")
    with pytest.raises(InputError, match=problem):
        desk.submit(given(task, **more), "ann")
    assert given_task(desk, "ann") == task, "it is still theirs to rate"
    fine: dict[str, Any] = {
        "tags": ["polite"],
        "spans": [{"position": 0, "start": 0, "end": 3, "quote": task.responses[0][:3]}],
    }
    assert not desk.submit(given(task, **fine), "ann").again


@pytest.mark.parametrize(
    ("kind", "rubric", "answers", "fits", "wrong_verdict"),
    [
        ("rating", FLUENCY, 2, {"scores": [1, 5]}, {"scores": [1]}),
        ("rating", FLUENCY, 1, {"scores": [3]}, {"scores": [6]}),
        ("rating", FLUENCY, 1, {"scores": [3]}, {"scores": [{"true": "yes"}]}),
        ("rating", QUALITY, 1, {"scores": [SEVERAL]}, {"scores": [3]}),
        ("rating", QUALITY, 1, {"scores": [SEVERAL]}, {"scores": [{**SEVERAL, "clear": 6}]}),
        ("rating", QUALITY, 1, {"scores": [SEVERAL]}, {"scores": [{**SEVERAL, "clear": "yes"}]}),
        ("ranking", HELPFULNESS, 3, {"groups": [[2], [0, 1]]}, {"groups": [[0], [1]]}),
        ("thumbs", HELPFULNESS, 1, {"up": True}, None),
        ("correction", HELPFULNESS, 1, {"text": "better"}, None),
    ],
)
def test_each_kind_is_answered_on_its_own_scale(
    sqlite: Engine, desk: Desk, kind: str, rubric: Rubric, answers: int,
    fits: dict[str, Any], wrong_verdict: dict[str, Any] | None,
) -> None:  # fmt: skip
    start(sqlite, [item(0, [f"answer {n}" for n in range(answers)])], raters=["ann"], kind=kind, rubric=rubric)
    task = given_task(desk, "ann")
    if wrong_verdict is not None:
        with pytest.raises(InputError, match="cannot be taken"):
            desk.submit(given(task, {"kind": kind, **wrong_verdict}), "ann")
    desk.submit(given(task, {"kind": kind, **fits}), "ann")


def test_progress_counts_what_is_needed_and_ones_own_pace(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, 3, raters=["ann", "bob"], overlap=2)
    assert desk.progress("c", "ann").median_s is None
    for active in (1000, 5000, 2000):
        desk.submit(given(given_task(desk, "ann"), active_ms=active), "ann")
    rate_one(desk, "bob")
    rate_one(desk, "bob", None)
    progress = desk.progress("c", "ann")
    assert (progress.wanted, progress.done, progress.mine, progress.median_s) == (6, 4, 3, 2.0)
    assert progress.gold is None


def test_progress_does_not_say_which_tasks_were_gold_or_repeats(sqlite: Engine, desk: Desk) -> None:
    golds = [gold(100 + number) for number in range(3)]
    start(sqlite, [*map(item, range(30)), *golds], raters=["ann"], gold={"share": 0.2, "source": "g"}, repeat=0.2)
    moved: dict[str, set[int]] = {"normal": set(), "other": set()}
    before = 0
    while isinstance(task := desk.next("c", "ann"), Task):
        desk.submit(given(task), "ann")
        (kind,) = [one.kind for one in ratings(sqlite, "c") if one.assignment == task.assignment]
        progress = desk.progress("c", "ann")
        if progress.done < progress.wanted - 1:
            moved["normal" if kind == "normal" else "other"].add(progress.done - before)
        before = progress.done
    assert moved["normal"] == moved["other"] == {0, 1}, "both kinds move it, or do not, alike"
    assert (progress.done, progress.wanted) == (30, 30), "at the end it says what is there"


def test_what_does_not_exist_is_not_there(sqlite: Engine, desk: Desk) -> None:
    start(sqlite, 1)
    with pytest.raises(NotThere, match="no campaign 'cc'; did you mean `c`"):
        desk.next("cc", "ann")
    with pytest.raises(NotThere, match="no rater 'ann'"):
        desk.next("c", "ann")
