"""Retries never exceed their share of the requests of the last seconds, rounded up."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.retries import WINDOW_S, RetryBudget


@given(
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=80),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_the_budget_is_that_of_a_list_of_all_events(steps: list[tuple[float, bool]], share: float) -> None:
    budget, now = RetryBudget(), 1000.0
    happened: list[tuple[int, str]] = []
    for later, is_retry in steps:
        now += later
        recent = [what for second, what in happened if second > int(now) - WINDOW_S]
        if is_retry:
            allowed = recent.count("retry") < math.ceil(share * recent.count("request"))
            assert budget.retry(now, share) is allowed
            if allowed:
                happened.append((int(now), "retry"))
        else:
            budget.request(now)
            happened.append((int(now), "request"))
