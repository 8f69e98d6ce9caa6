"""However many rate at once, an item gets exactly the ratings it needs, each by another person."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random
from time import sleep

import pytest
from sqlalchemy import Engine, func, select

from llmops.feedback.desk import Desk
from llmops.feedback.tables import table
from llmops.feedback.tasks import NoTask
from tests.feedback.small_campaigns import given, gold, item, standing, start

RATERS = [f"r{n}" for n in range(50)]
ITEMS = 2_000


@pytest.mark.parametrize(
    ("database", "overlap"),
    [pytest.param("sqlite", 2, id="in a file"), pytest.param("postgres", 1, id="on a server")],
)
def test_fifty_raters_at_once_give_two_thousand_items_exactly_their_overlap(
    database: str, overlap: int, request: pytest.FixtureRequest
) -> None:
    engine: Engine = request.getfixturevalue(database)
    items = [item(n) for n in range(ITEMS)] + [gold(n) for n in range(20)]
    campaign = start(engine, items, raters=RATERS, overlap=overlap, gold={"share": 0.02, "source": "g"})
    desk = Desk(engine, random=Random(3))

    def work(rater: str) -> str:
        drawn = Random(rater)
        while True:
            task = desk.next(campaign.name, rater)
            if isinstance(task, NoTask):
                if task.why != "taken":
                    return task.why
                sleep(0.05)
                continue
            if drawn.random() < 0.01:
                desk.submit(given(task, None), rater)
                continue
            rating = given(task)
            desk.submit(rating, rater)
            if drawn.random() < 0.05:
                assert desk.submit(rating, rater).again

    with ThreadPoolExecutor(len(RATERS)) as pool:
        assert set(pool.map(work, RATERS)) == {"finished"}
    filled = standing(engine)
    assert Counter(map(len, filled.values())) == {overlap: ITEMS}
    assert all(len(set(who)) == overlap for who in filled.values())
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).where(table("openings").c.free != 0)).scalar() == 0
        assert connection.execute(select(func.count()).select_from(table("leases"))).scalar() == 0
        assert not connection.execute(select(func.count()).where(table("ratings").c.surplus)).scalar()
    progress = desk.progress(campaign.name, "r0")
    assert progress.wanted == progress.done == overlap * ITEMS
