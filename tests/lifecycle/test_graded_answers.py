"""Two reports of one suite become graded answers, joined by item; the worse model is the small one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.errors import InputError
from llmops.eval.measured import Measured
from llmops.eval.metric import mean_of, share_of
from llmops.lifecycle.graded_answers import graded_answers, of_reports
from tests.eval.measurements import measured, right

WEAK, STRONG = [True, False] * 40, [True] * 70 + [False] * 10


def reports() -> tuple[Measured, Measured]:
    return right(STRONG, model="strong"), right(WEAK, model="weak")


def test_items_are_joined_by_id_whichever_report_comes_first() -> None:
    strong, weak = reports()
    for found in (of_reports(strong, weak), of_reports(weak, strong)):
        assert (found.small_name, found.large_name) == ("weak", "strong")
        assert found.small.tolist() == [float(hit) for hit in WEAK]
        assert found.large.tolist() == [float(hit) for hit in STRONG]
        assert found.prompts[3] == "question 000003"


def test_an_item_that_one_report_lacks_is_left_out() -> None:
    strong, weak = reports()
    short = right(WEAK[:60], model="weak")
    found = of_reports(strong, short)
    assert len(found) == 60
    shuffled = right(WEAK[::-1], model="weak", ids=[f"{place:06}" for place in range(80)][::-1])
    one, other = of_reports(strong, shuffled), of_reports(strong, weak)
    assert dict(zip(one.prompts, one.small, strict=True)) == dict(zip(other.prompts, other.small, strict=True))


def test_how_sure_the_small_model_was_is_taken_from_its_report() -> None:
    sure = [place / 100 for place in range(80)]
    strong, weak = right(STRONG, model="strong", confidence=[0.5] * 80), right(WEAK, model="weak", confidence=sure)
    found = of_reports(strong, weak).confidence
    assert found is not None
    assert found.tolist() == sure
    assert of_reports(strong, right(WEAK, model="weak")).confidence is None


def test_the_first_metric_of_grades_is_taken_or_the_one_that_is_named() -> None:
    def both(model: str, hits: list[bool], share: float) -> Measured:
        points = mean_of("points", "v1", [50.0] * 80, span=100.0)
        rouge = mean_of("rougeL", "v1", [share] * 80, span=1.0)
        return measured([points, rouge, share_of("exact_match", "v1", [float(hit) for hit in hits])], model=model)

    one, two = both("weak", WEAK, 0.4), both("strong", STRONG, 0.5)
    assert of_reports(one, two).source == "s (rougeL)"
    assert of_reports(one, two, metric="exact_match").small.mean() == 0.5
    with pytest.raises(InputError, match="no grades from 0 to 1"):
        of_reports(one, two, metric="points")
    with pytest.raises(InputError, match="did you mean `exact_match`"):
        of_reports(one, two, metric="exact_mtch")


def test_reports_of_two_suites_do_not_belong_together() -> None:
    with pytest.raises(InputError, match="differ"):
        of_reports(right(STRONG, model="strong"), right(WEAK, model="weak", suite_digest="other"))


def test_models_that_are_equally_good_need_no_routing() -> None:
    with pytest.raises(InputError, match="not worth anything"):
        of_reports(right(WEAK, model="one"), right(WEAK, model="two"))


@pytest.mark.parametrize("names", [["a.json"], ["a.json", "b.csv"], ["a.csv", "b.csv"], ["a.json", "b.json", "c.json"]])
def test_other_files_are_refused_with_what_can_be_given(names: list[str]) -> None:
    with pytest.raises(InputError, match="two reports of `llmops eval`"):
        graded_answers([Path(name) for name in names])
