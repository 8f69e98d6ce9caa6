"""However many rate at once, an item gets exactly the ratings it needs, each by another person."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from sqlalchemy import Engine, func, select

from llmops.feedback.desk import Desk
from llmops.feedback.tables import table
from llmops.feedback.tasks import NoTask
from tests.feedback.small_campaigns import given, gold, item, standing, start

RATERS = [f"r{n}" for n in range(50)]
ITEMS = 2_000


@pytest.mark.parametrize("overlap", [1, 2])
def test_fifty_raters_at_once_give_two_thousand_items_exactly_their_overlap(both: Engine, overlap: int) -> None:
    if both.dialect.name == "postgresql" and overlap == 1:
        pytest.skip("one run on the server is enough")
    items = [item(n) for n in range(ITEMS)] + [gold(n) for n in range(20)]
    campaign = start(both, items, raters=RATERS, overlap=overlap, gold={"share": 0.02, "source": "g"})
    desk = Desk(both, random=Random(3))

    def work(rater: str) -> str:
        drawn = Random(rater)
        while True:
            task = desk.next(campaign.name, rater)
            if isinstance(task, NoTask):
                if task.why != "taken":
                    return task.why
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
    filled = standing(both)
    assert Counter(map(len, filled.values())) == {overlap: ITEMS}
    assert all(len(set(who)) == overlap for who in filled.values())
    with both.connect() as connection:
        assert connection.execute(select(func.count()).where(table("openings").c.free != 0)).scalar() == 0
        assert connection.execute(select(func.count()).select_from(table("leases"))).scalar() == 0
        assert not connection.execute(select(func.count()).where(table("ratings").c.surplus)).scalar()
    progress = desk.progress(campaign.name, "r0")
    assert progress.wanted == progress.done == overlap * ITEMS
