"""A judge says which of two models it prefers, item by item in both orders, ties half."""

from __future__ import annotations

import pytest

from llmops.errors import InputError
from llmops.eval.judge.preference import Preferred, preferred
from llmops.events import Silent
from llmops.rubric import Rubric
from tests.eval.judge.rubrics import COMPARE, LIKERT, PAIRWISE
from tests.eval.judge.test_calibration import judge
from tests.eval.measurements import right


def asked(says: str, rubric: Rubric = PAIRWISE, template: str = COMPARE, **others: float) -> Preferred:
    """Two models on 100 items: the judge prefers "new" on the first 60 by name, and says the same to all the rest."""

    def reply(text: str) -> str:
        place = int(text.split("question ")[1][:6])
        first = text.split("FIRST ")[1].startswith("answer of new")
        return ("VERDICT: A" if first else "VERDICT: B") if place < 60 else says

    one, two = (right([1.0] * 100, model=name) for name in ("old", "new"))
    settings = {"confidence": 0.95, "unparsed_at_most": 0.05, **others}
    return preferred(judge(reply, rubric, template), one, two, listener=Silent(), **settings)


def test_wins_count_one_and_verdicts_that_change_with_the_order_half() -> None:
    found = asked("VERDICT: A")
    assert (found.wins, found.ties, found.losses) == (60, 40, 0)
    assert found.win_rate == pytest.approx(0.8)
    assert found.counts["inconsistent_share"] == [40, 100]
    assert 0.5 < found.low < 0.8 < found.high < 1
    assert found.p < 0.01
    assert asked("VERDICT: TIE").counts["inconsistent_share"] == [0, 100]


def test_what_has_no_verdict_is_left_out_up_to_a_share() -> None:
    found = asked("Well.", unparsed_at_most=0.5)
    assert (found.wins, found.ties, found.losses, found.win_rate) == (60, 0, 0, 1.0)
    with pytest.raises(InputError, match="no verdict on 40 of 100 items"):
        asked("Well.")


def test_a_rubric_that_rates_one_answer_cannot_compare_two() -> None:
    with pytest.raises(InputError, match="rates one answer"):
        asked("VERDICT: 3", LIKERT)
