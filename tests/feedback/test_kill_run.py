"""What the runs with kills rely on: the kills are as many and as mixed as said, and a fault is found."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given as over
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from llmops.feedback.desk import Desk
from llmops.feedback.raters import add_rater
from llmops.feedback.tasks import Task
from tests.feedback.kill_run import came_back, compared, overlap_faults
from tests.feedback.persistent_rater import Pressed
from tests.feedback.small_campaigns import FIRST, given, start
from tests.feedback.strikes import strikes

VERDICT = {**FIRST, "both_bad": False}


@over(seed=st.integers(0, 10**6), kills=st.integers(0, 60))
def test_half_of_the_kills_are_the_servers_and_each_has_a_rating_of_its_own(seed: int, kills: int) -> None:
    drawn = strikes(Random(seed), ratings=200, kills=kills)
    assert drawn == strikes(Random(seed), ratings=200, kills=kills)
    targets = Counter(target for one in drawn for target in one.targets)
    assert (targets["server"], targets["browser"]) == (kills // 2, kills - kills // 2)
    assert len({one.rating for one in drawn}) == len(drawn)
    assert all(0 < one.rating < 200 for one in drawn)


def test_two_hundred_kills_come_at_every_moment_and_in_every_way() -> None:
    drawn = strikes(Random(5), ratings=5000, kills=200)
    seen = Counter((one.moment, one.second, one.targets) for one in drawn)
    assert len({moment for moment, _, _ in seen}) == 3
    assert len({(second, targets) for _, second, targets in seen}) == 6


@pytest.fixture
def pressed(sqlite: Engine) -> list[Pressed]:
    """Three items, each rated once by one rater, as the page would have it."""
    start(sqlite, 3)
    add_rater(sqlite, "r")
    desk, found = Desk(sqlite), []
    for _ in range(3):
        task = desk.next("c", "r")
        assert isinstance(task, Task)
        desk.submit(given(task), "r")
        found.append(Pressed(task.assignment, VERDICT, taken=True))
    return found


def test_what_is_as_it_was_pressed_has_no_fault(sqlite: Engine, pressed: list[Pressed]) -> None:
    assert compared(sqlite, pressed) == ([], [], 3)
    assert overlap_faults(sqlite, 3, 1) == []
    assert came_back(pressed) == []


def test_a_rating_that_is_gone_or_says_something_else_is_lost(sqlite: Engine, pressed: list[Pressed]) -> None:
    pressed[0] = replace(pressed[0], verdict={**VERDICT, "step": -3})
    lost, doubled, standing = compared(sqlite, [*pressed, Pressed("not stored", VERDICT, taken=True)])
    assert len(lost) == 2
    assert (doubled, standing) == ([], 3)


def test_an_item_that_lacks_a_rating_is_a_fault(sqlite: Engine, pressed: list[Pressed]) -> None:
    assert len(overlap_faults(sqlite, 3, 2)) >= 3
    assert len(compared(sqlite, pressed)[0]) == 0


def test_a_verdict_nobody_saw_taken_may_stand_and_an_earlier_one_may_not(
    sqlite: Engine, pressed: list[Pressed]
) -> None:
    other = {**VERDICT, "step": 1}
    later = [Pressed(pressed[0].assignment, other)]
    assert compared(sqlite, [*pressed, *later])[0] == []
    later[0].taken = True
    assert len(compared(sqlite, [*pressed, *later])[0]) == 1
    assert came_back([*pressed, *later]) == [pressed[0].assignment]


def test_a_second_rating_of_a_task_is_doubled(sqlite: Engine, pressed: list[Pressed]) -> None:
    with sqlite.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO ratings SELECT 'another', assignment, campaign, item, rater, at, rubric, said, content, "
                "NULL, surplus FROM ratings WHERE assignment = :one"
            ),
            {"one": pressed[2].assignment},
        )
    lost, doubled, standing = compared(sqlite, pressed)
    assert (lost, len(doubled), standing) == ([], 1, 4)
    assert len(compared(sqlite, pressed[:2])[1]) == 1, "nobody pressed it"
    assert overlap_faults(sqlite, 3, 1)
