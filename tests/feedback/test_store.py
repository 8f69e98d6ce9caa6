"""Campaigns, their wording, items, raters and ratings are only ever added to, and read as they were given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DatabaseError

from llmops.errors import InputError
from llmops.feedback.desk import Desk
from llmops.feedback.erasing import erase_rater
from llmops.feedback.events import events
from llmops.feedback.faults import NotThere
from llmops.feedback.items import NewItem, Response
from llmops.feedback.raters import add_rater, change_rater, pause, pseudonym, rater_named, rater_states
from llmops.feedback.ratings import history, item_named, items, rated, ratings
from llmops.feedback.store import (
    AT_ONCE,
    add_items,
    campaign_named,
    campaigns,
    count_items,
    create_campaign,
    reopen,
    reword,
    rubrics,
)
from llmops.feedback.tables import table
from llmops.feedback.tasks import NoTask, Task
from llmops.rubric import Rubric
from tests.feedback.small_campaigns import (
    FIRST,
    FLUENCY,
    HELPFULNESS,
    START,
    Clock,
    campaign_of,
    given,
    gold,
    item,
    standing,
    start,
)

ADDED_ONLY = {
    **dict.fromkeys(("campaign_rubrics", "rated_items", "assignments", "ratings", "rating_events"), "campaign"),
    "rated_responses": "text",
    "event_links": "event",
}
"""Tables, each with a column to be changed."""


def rate_all(engine: Engine, rater: str, *, most: int = 1_000) -> None:
    desk = Desk(engine, random=Random(rater))
    for _ in range(most):
        task = desk.next("c", rater)
        if isinstance(task, NoTask):
            return
        desk.submit(given(task), rater)


# ── tables ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_records_can_only_be_added_to(both: Engine) -> None:
    start(both, 2, raters=["ann"])
    rate_all(both, "ann")
    pause(both, "c", "ann", actor="owner")
    changes = ["UPDATE {} SET {} = 'd'", "DELETE FROM {}"]
    changes += ["TRUNCATE {}"] if both.dialect.name == "postgresql" else []
    for name, column in ADDED_ONLY.items():
        for change in changes:
            with pytest.raises(DatabaseError, match=f"rows of {name} can only be added"), both.begin() as connection:
                connection.execute(text(change.format(name, column)))


def test_the_tables_are_as_the_migration_makes_them(both: Engine) -> None:
    from sqlalchemy import inspect

    from llmops.feedback.tables import metadata

    made = inspect(both)
    for name, known in metadata().tables.items():
        columns = {column["name"]: column["nullable"] for column in made.get_columns(name)}
        assert columns == {column.name: column.nullable for column in known.columns}, name
        assert {index["name"] for index in made.get_indexes(name) if not index.get("duplicates_constraint")} == {
            index.name for index in known.indexes
        }, name


# ── campaigns and their wording ────────────────────────────────────────────────────────────────────────────────────


def test_a_campaign_is_kept_as_it_was_written(sqlite: Engine) -> None:
    campaign = start(sqlite, 0, gold={"share": 0.1, "source": "g"}, languages=["de"], overlap=3)
    assert campaign_named(sqlite, "c") == campaign
    with pytest.raises(InputError, match="there is a campaign 'c' already"):
        create_campaign(sqlite, campaign, HELPFULNESS)


def test_campaigns_are_listed_with_how_far_they_are(sqlite: Engine) -> None:
    start(sqlite, [item(0), item(1), gold(2)], raters=["ann", "bob"], overlap=2)
    create_campaign(sqlite, campaign_of(name="later"), HELPFULNESS, at=START + 1)
    rate_all(sqlite, "ann")
    later, first = campaigns(sqlite)
    assert (later.campaign.name, later.items, later.wanted, later.done, later.raters) == ("later", 0, 0, 0, 0)
    assert (first.items, first.gold, first.wanted, first.done, first.raters) == (3, 1, 4, 2, 1)


def test_a_kind_and_a_scale_that_do_not_fit_are_refused(sqlite: Engine) -> None:
    with pytest.raises(InputError, match="of kind rating, the scale of rubric 'helpfulness' is pairwise"):
        create_campaign(sqlite, campaign_of(kind="rating"), HELPFULNESS)
    create_campaign(sqlite, campaign_of(kind="rating"), FLUENCY)


def test_words_change_with_the_version_alone(sqlite: Engine) -> None:
    start(sqlite, 1)
    words = {**HELPFULNESS.model_dump(), "question": "Which one?"}
    assert not reword(sqlite, "c", HELPFULNESS, actor="owner")
    with pytest.raises(InputError, match="its version is still 1"):
        reword(sqlite, "c", Rubric.model_validate(words), actor="owner")
    newer = Rubric.model_validate({**words, "version": 2})
    assert reword(sqlite, "c", newer, actor="owner")
    assert rubrics(sqlite, "c") == [HELPFULNESS, newer]
    assert reword(sqlite, "c", HELPFULNESS, actor="owner"), "and back"
    assert [one.version for one in rubrics(sqlite, "c")] == [1, 2, 1]
    forced = {**words, "version": 3, "scale": {"kind": "pairwise", "ties": False}}
    with pytest.raises(InputError, match="is another than that of"):
        reword(sqlite, "c", Rubric.model_validate(forced), actor="owner")


# ── items ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_items_are_read_as_they_came_in(both: Engine) -> None:
    given_items = [
        NewItem(
            prompt=[{"role": "system", "content": "é ﷽"}, {"role": "user", "content": f"q{n}"}],
            responses=[Response("a\n", "models:/a/1", {"temperature": 0.7}), Response("", None)],
            prompt_digest=f"p{n}",
            cluster=f"k{n % 3}",
            source={"request": f"r{n}", "policy": "uniform"},
            probability=0.25,
            overlap=n % 3 + 1,
            priority=n % 2,
            language=["de", None][n % 2],
            tags=["t"],
        )
        for n in range(1_203)
    ]
    heard: list[int] = []
    start(both, [])
    assert add_items(both, "c", iter(given_items), on_added=heard.append) == 1_203 == count_items(both, "c")
    assert heard == [1_203]
    kept = list(items(both, "c"))
    assert [one.place for one in kept] == list(range(1_203))
    for one, was in zip(kept, given_items, strict=True):
        same = {key: value for key, value in asdict(one).items() if key not in ("id", "campaign", "place")}
        for key, value in asdict(was).items():
            assert same[key] == (tuple(value) if key in ("prompt", "tags", "responses") else value), key
    assert item_named(both, kept[7].id) == kept[7]
    assert item_named(both, "none") is None


def test_an_import_that_fails_later_keeps_what_was_added(sqlite: Engine) -> None:
    def broken() -> Iterator[NewItem]:
        yield from map(item, range(AT_ONCE + 1))
        raise OSError("the file ends here")

    start(sqlite, [])
    with pytest.raises(OSError, match="the file ends here"):
        add_items(sqlite, "c", broken())
    assert count_items(sqlite, "c") == AT_ONCE


def test_texts_no_database_takes_become_texts_it_takes(both: Engine) -> None:
    start(both, [item(0, ["nul \0 here", "half \ud83d pair"])])
    (one,) = items(both, "c")
    assert [response.text for response in one.responses] == ["nul \ufffd here", "half \ufffd pair"]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (item(0, ["only one"]), "has 2 answers, one with 1 was given"),
        (item(0, expected=FIRST), "a gold item has an expected verdict, and no other has"),
        (item(0, kind="gold"), "a gold item has an expected verdict, and no other has"),
        (
            item(0, kind="gold", expected={"kind": "thumbs", "up": True}),
            "of kind thumbs, the campaign asks for pairwise",
        ),
        (item(0, kind="gold", expected={"kind": "pairwise"}), "give a step, or both_bad"),
        (item(0, overlap=0), "at least one rating, not 0"),
    ],
)
def test_an_item_that_cannot_be_rated_is_refused(sqlite: Engine, wrong: NewItem, problem: str) -> None:
    start(sqlite, [])
    with pytest.raises(InputError, match=problem):
        add_items(sqlite, "c", [item(1), wrong])
    assert count_items(sqlite, "c") == 0


def test_reopening_asks_for_more_and_names_who_did(sqlite: Engine) -> None:
    start(sqlite, 2, raters=["ann", "bob", "eve"])
    rate_all(sqlite, "ann")
    one, two = items(sqlite, "c")
    with pytest.raises(NotThere, match="no item 'none'"):
        reopen(sqlite, "c", [one.id, "none"], actor="owner")
    reopen(sqlite, "c", [one.id, one.id], more=2, actor="owner")
    for rater in ("ann", "bob", "eve"):
        rate_all(sqlite, rater)
    assert {name: sorted(who) for name, who in standing(sqlite).items()} == {
        one.id: ["ann", "bob", "eve"],
        two.id: ["ann"],
    }
    assert [(one.actor, dict(one.detail)) for one in events(sqlite, kind="reopened")] == [("owner", {"more": 2})]
    with pytest.raises(InputError, match="0 more ratings"):
        reopen(sqlite, "c", [one.id], more=0, actor="owner")


# ── raters ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pseudonym_says_nothing_and_with_a_key_is_always_the_same() -> None:
    assert pseudonym() != pseudonym()
    mine = pseudonym("ann@example.org", key=b"k")
    assert mine == pseudonym("ann@example.org", key=b"k") != pseudonym("ann@example.org", key=b"l")
    assert "ann" not in mine


def test_a_rater_is_known_once_and_changes_are_events(sqlite: Engine) -> None:
    assert add_rater(sqlite, "ann", languages=["de"]) == add_rater(sqlite, "ann", languages=["fr"])
    change_rater(sqlite, "ann", qualifications=["medicine"], consent="v2", actor="admin")
    with sqlite.connect() as connection:
        known = rater_named(connection, "ann")
    assert known is not None
    assert (known.languages, known.qualifications, known.consent) == (("de",), ("medicine",), "v2")
    assert [one.kind for one in events(sqlite, subject="ann")] == ["changed"]
    with pytest.raises(NotThere):
        change_rater(sqlite, "bob", consent="", actor="admin")


def test_pausing_twice_is_pausing_once(sqlite: Engine) -> None:
    start(sqlite, 1, raters=["ann"])
    pause(sqlite, "c", "ann", actor="owner", reason="odd")
    pause(sqlite, "c", "ann", actor="owner")
    assert [(one.kind, one.actor, dict(one.detail)) for one in events(sqlite, campaign="c")] == [
        ("paused", "owner", {"reason": "odd"})
    ]
    assert [one.paused for one in rater_states(sqlite, "c")] == [True]


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


def rated_campaign(engine: Engine) -> list[dict[str, Any]]:
    """Three raters with a change of mind, a skip, gold and a surplus; what stands, as written down beside it."""
    clock = Clock()
    start(engine, [item(0), gold(1), item(2), item(3)], raters=["ann", "bob", "eve"], overlap=2,
          gold={"share": 0.4, "source": "g"}, lease_minutes=1)  # fmt: skip
    desk, drawn, stands = Desk(engine, clock=clock, random=Random(1)), Random(2), []
    late = desk.next("c", "eve")
    assert isinstance(late, Task)
    clock.now += 61
    for rater in ("ann", "bob"):
        while isinstance(task := desk.next("c", rater), Task):
            clock.now += 1
            rating = given(task, None if drawn.random() < 0.2 else FIRST)
            desk.submit(rating, rater)
            first_at = clock.now
            if drawn.random() < 0.4:
                clock.now += 1
                rating = given(task, {"kind": "pairwise", "step": -2}, supersedes=rating.id)
                desk.submit(rating, rater)
            stands.append({"id": rating.id, "rater": rater, "at": clock.now, "first_at": first_at, "surplus": False})
    rating = given(late)
    surplus = desk.submit(rating, "eve").surplus
    stands.append({"id": rating.id, "rater": "eve", "at": clock.now, "first_at": clock.now, "surplus": surplus})
    return stands


def test_what_stands_is_read_by_item_and_all_of_it(both: Engine) -> None:
    stands = rated_campaign(both)
    read = list(ratings(both, "c"))
    by_id = {one.id: one for one in read}
    assert set(by_id) == {one["id"] for one in stands}
    for one in stands:
        assert {key: getattr(by_id[one["id"]], key) for key in one} == one
    assert [(one.place, one.at) for one in read] == sorted((one.place, one.at) for one in read)
    assert {one.kind for one in read} == {"normal", "gold"}
    assert [one.id for one in ratings(both, "c", rater="eve")] == [stands[-1]["id"]]
    grouped = list(rated(both, "c"))
    assert [one for item_ in grouped for one in item_.ratings] == read
    assert [one.item for one in grouped] == [one for one in items(both, "c") if one.id in {r.item for r in read}]
    changed = next(one for one in read if one.at != one.first_at)
    assert [one.id for one in history(both, changed.assignment)][-1] == changed.id
    assert len(history(both, changed.assignment)) == 2
    assert [one.id for one in ratings(both, "c", item=changed.item)] == [r.id for r in read if r.item == changed.item]


# ── being forgotten ────────────────────────────────────────────────────────────────────────────────────────────────


def person(engine: Engine, rater: str) -> None:
    with engine.begin() as connection:
        connection.execute(table("people").insert(), {"rater": rater, "login": "ann@x", "name": "Ann", "role": "rater",
                                                      "at": START})  # fmt: skip
        connection.execute(table("memberships").insert(), {"campaign": "c", "rater": rater, "at": START})
        connection.execute(
            table("people_sessions").insert(),
            {"digest": "s", "rater": rater, "csrf": "t", "at": START, "seen": START, "until": START},
        )


@pytest.mark.parametrize("drop", [False, True], ids=["ratings kept", "ratings dropped"])
def test_a_person_goes_and_their_ratings_stay_or_go_as_asked(both: Engine, drop: bool) -> None:
    start(both, 4, raters=["ann", "bob", "eve"], overlap=2)
    person(both, "ann")
    rate_all(both, "ann", most=3)
    rate_all(both, "bob")
    desk = Desk(both)
    open_task = desk.next("c", "ann")
    assert isinstance(open_task, Task)
    erased = erase_rater(both, "ann", drop=drop, actor="admin")
    assert (erased.ratings, erased.dropped, erased.campaigns) == (3, drop, ("c",))
    with both.connect() as connection:
        for name in ("people", "people_sessions", "memberships"):
            assert connection.execute(select(table(name))).all() == [], name
        everything = json.dumps(
            [[str(cell) for cell in row] for name in ADDED_ONLY for row in connection.execute(select(table(name)))]
        )
        assert connection.execute(select(table("leases"))).all() == []
    assert "Ann" not in everything
    assert "ann@x" not in everything
    assert {one.rater for one in ratings(both, "c")} == ({"bob"} if drop else {"ann", "bob"})
    with pytest.raises(NotThere):
        desk.submit(given(open_task), "ann")
    rate_all(both, "eve")
    assert sum(one.rater == "eve" for one in ratings(both, "c")) == (4 if drop else 1), "what they held is others'"
    assert desk.progress("c", "eve").done == 8
    with pytest.raises(NotThere, match="no rater 'ann' to erase"):
        erase_rater(both, "ann", drop=drop, actor="admin")


def test_who_was_forgotten_can_still_ask_for_the_ratings_to_go(sqlite: Engine) -> None:
    start(sqlite, 2, raters=["ann"])
    rate_all(sqlite, "ann")
    erase_rater(sqlite, "ann", drop=False, actor="admin")
    assert len(list(ratings(sqlite, "c"))) == 2
    erase_rater(sqlite, "ann", drop=True, actor="admin")
    assert list(ratings(sqlite, "c")) == []
    assert [one.kind for one in events(sqlite, subject="ann")] == ["erased", "dropped"]
