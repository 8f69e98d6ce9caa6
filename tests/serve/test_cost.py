"""A request costs its share of its replica's time: the running sums agree with an integral taken slowly."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.dispatch import Standing
from llmops.serve.targets import Replica

VISITS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 100)), min_size=1, max_size=25)
"""When a request comes, and how long it stays, in eighths of a second, which floats hold exactly."""


@given(VISITS)
def test_each_share_is_the_integral_of_one_over_those_under_way(visits: list[tuple[int, int]]) -> None:
    replica, standing = Replica("e", 0, "http://x"), Standing()
    shares: dict[int, float] = {}
    changes = sorted(
        [(start, 1, number) for number, (start, _) in enumerate(visits)]
        + [(start + stay, 0, number) for number, (start, stay) in enumerate(visits)],
        key=lambda one: (one[0], -one[1]),
    )
    began: dict[int, float] = {}
    for eighths, comes, number in changes:
        standing.move_on(replica, eighths / 8, 1 if comes else -1)
        if comes:
            began[number] = standing.shared_s
        else:
            shares[number] = standing.shared_s - began[number]

    def under_way(eighth: int) -> int:
        return sum(start <= eighth < start + stay for start, stay in visits)

    for number, (start, stay) in enumerate(visits):
        slowly = sum(Fraction(1, 8 * under_way(eighth)) for eighth in range(start, start + stay))
        assert shares[number] == pytest.approx(float(slowly), abs=1e-9)
    busy = len({eighth for start, stay in visits for eighth in range(start, start + stay)}) / 8
    assert sum(shares.values()) == pytest.approx(busy, abs=1e-9), "all shares together are the time it was busy"
