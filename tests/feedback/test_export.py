"""Ratings become rows that say what people said, with how sure it is; and each rating that does not says why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.feedback.export import Purpose, Row, export, fraction
from llmops.feedback.items import Rated
from llmops.feedback.settled import Excluded, counted
from llmops.feedback.sides import MASK
from llmops.rubric import Rubric
from tests.feedback.rated_items import LIKERT, PAIRWISE, item, pair, said


def exported(
    items: Sequence[Rated], purpose: Purpose, rubric: Rubric = PAIRWISE, **settings: Any
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows' columns, and the reason of each rating that made none."""
    everybody = [rating for one in items for rating in one.ratings]
    _, found = export(everybody, items, purpose, rubric, **settings)
    everything = list(found)
    rows = [dict(one.columns) for one in everything if isinstance(one, Row)]
    return rows, {one.rating: one.reason for one in everything if isinstance(one, Excluded)}


def texts(turns: Sequence[dict[str, str]]) -> list[str]:
    return [turn["content"] for turn in turns]


def test_a_majority_gives_a_pair_with_margin_agreement_and_its_ratings() -> None:
    one = item(said(pair(3)), said(pair(1)), said(pair(-2)))
    (row,), out = exported([one], "dpo")
    assert texts(row["chosen"]) == ["one answer"]
    assert texts(row["rejected"]) == ["another"]
    assert row["margin"] == pytest.approx((3 + 1 - 2) / 3 / 3), "mean step in favour, a much better being 1"
    assert (row["raters"], row["agreement"]) == (3, pytest.approx(2 / 3, abs=1e-6))
    assert row["ratings"] == [one.id for one in one.ratings]
    assert (row["chosen_model"], row["rejected_model"]) == ("model0", "model1")
    assert out == {}


def test_the_side_a_rater_saw_an_answer_on_does_not_matter() -> None:
    straight, turned = item(said(pair(2))), item(said(pair(-2), shown=(1, 0)))
    rows, _ = exported([straight, turned], "dpo")
    assert [texts(row["chosen"]) for row in rows] == [["one answer"], ["one answer"]]


@pytest.mark.parametrize(
    ("ratings", "reason"),
    [
        pytest.param([pair(0), pair(0)], "the answers are alike: no pair", id="ties"),
        pytest.param([pair(None)], "both answers are bad: no pair", id="both bad"),
        pytest.param([pair(1), pair(-1)], "raters disagree: no side has the most", id="split"),
    ],
)
def test_what_names_no_better_side_gives_no_pair(ratings: list[dict[str, Any]], reason: str) -> None:
    one = item(*map(said, ratings))
    rows, out = exported([one], "dpo")
    assert rows == []
    assert set(out.values()) == {reason}
    assert set(out) == {rating.id for rating in one.ratings}


def test_raters_must_be_as_sure_as_asked() -> None:
    one = item(said(pair(3)), said(pair(1)), said(pair(-2)))
    rows, out = exported([one], "dpo", sure=0.7)
    assert rows == []
    assert set(out.values()) == {"raters are not sure enough"}


def test_both_bad_gives_two_answers_not_wanted() -> None:
    rows, _ = exported([item(said(pair(None)), said(pair(None)), said(pair(2)))], "kto")
    assert [(texts(row["completion"]), row["label"]) for row in rows] == [(["one answer"], False), (["another"], False)]


def test_a_pair_gives_one_answer_wanted_and_one_not() -> None:
    rows, _ = exported([item(said(pair(-1)))], "kto")
    assert [(texts(row["completion"])[0], row["label"]) for row in rows] == [("one answer", False), ("another", True)]


def test_an_edit_gives_a_target_and_a_pair() -> None:
    edit = [{"position": 0, "text": "as it should be"}]
    one = item(said(pair(2), edits=edit, shown=(1, 0)))
    (target,), _ = exported([one], "sft")
    assert texts(target["messages"])[-1] == "as it should be"
    rows, _ = exported([one], "dpo")
    assert [(texts(row["chosen"])[0], texts(row["rejected"])[0]) for row in rows] == [
        ("another", "one answer"),
        ("as it should be", "another"),
    ], "position 0 was the second answer for this rater"


def test_what_still_holds_a_mask_is_not_learned() -> None:
    masked = item(said(pair(2), edits=[{"position": 0, "text": f"I am {MASK}, at your service"}]))
    rows, out = exported([masked], "sft")
    assert (rows, set(out.values())) == ([], {f"what was written holds {MASK}, which hides a part of the answer"})
    rows, out = exported([masked], "dpo")
    assert [texts(row["chosen"])[0] for row in rows] == ["one answer"], "the comparison stands"
    own = item(said(pair(2), edits=[{"position": 0, "text": f"{MASK} 75 %"}]), answers=[f"{MASK} 50 %", "another"])
    assert len(exported([own], "sft")[0]) == 1, "the answer itself has such signs"


def test_a_correction_is_a_target_and_an_answer_that_needs_none_is_one_itself() -> None:
    wrong = item(said({"kind": "correction", "text": "right"}, shown=(0,)), answers=["wrong"])
    fine = item(said({"kind": "correction", "text": None}, shown=(0,)), answers=["fine"])
    rows, out = exported([wrong, fine], "sft")
    assert [texts(row["messages"])[-1] for row in rows] == ["right", "fine"]
    assert out == {}
    rows, _ = exported([wrong, fine], "kto")
    assert [row["label"] for row in rows] == [False, True]


def test_a_ranking_of_k_gives_all_its_pairs_with_the_items_name() -> None:
    ranking = {"kind": "ranking", "groups": [[2], [0, 1]], "invalid": [3]}
    one = item(said(ranking, shown=(0, 1, 2, 3)), answers=["a", "b", "c", "d"])
    rows, _ = exported([one], "reward")
    found = {(texts(row["chosen"])[0], texts(row["rejected"])[0]) for row in rows}
    assert found == {("c", "a"), ("c", "b"), ("c", "d"), ("a", "d"), ("b", "d")}, "a and b are alike"
    assert {row["item"] for row in rows} == {one.item.id}


def test_scores_say_which_answers_are_good_and_which_of_two_is_better() -> None:
    one = item(said({"kind": "rating", "scores": [5, 2]}), said({"kind": "rating", "scores": [3, 4]}, shown=(1, 0)))
    rows, _ = exported([one], "dpo", LIKERT)
    assert [texts(row["chosen"])[0] for row in rows] == ["one answer"], "5 and 4 against 2 and 3"
    rows, out = exported([one], "kto", LIKERT)
    assert [(texts(row["completion"])[0], row["label"]) for row in rows] == [("one answer", True)]
    assert out == {}


@pytest.mark.parametrize(
    ("rating", "reason"),
    [
        ({"surplus": True}, "surplus: it came late, and the item had its ratings"),
        ({"kind": "training"}, "practice"),
        ({"kind": "repeat", "round": 1}, "asked again, to see whether the rater says the same"),
        ({"flag": "a name in it"}, "the item was flagged: a name in it"),
    ],
)
def test_what_does_not_count_is_left_out_with_its_reason(rating: dict[str, Any], reason: str) -> None:
    rows, out = exported([item(said(pair(2), **rating))], "dpo")
    assert rows == []
    assert list(out.values()) == [reason]


def test_skipped_items_and_gold_are_left_out() -> None:
    skipped, gold = said(None, skip="not my field"), item(said(pair(2), kind="gold"), kind="gold", expected=pair(2))
    _, out = exported([item(skipped, said(pair(1))), gold], "dpo")
    assert out[skipped.id] == "skipped: not my field"
    assert out[gold.ratings[0].id] == "gold: its answer was known"


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (["same  text", "same text"], "both sides are the same"),
        (["", "text"], "an answer is empty"),
        (["write to ann@example.org", "text"], "personal data: email"),
    ],
)
def test_rows_that_must_not_be_trained_on_are_left_out(answers: list[str], reason: str) -> None:
    rows, out = exported([item(said(pair(2)), answers=answers)], "dpo")
    assert rows == []
    assert list(out.values()) == [reason]


def test_a_cluster_falls_somewhere_between_0_and_1_and_always_there() -> None:
    places = [fraction(f"c{number}") for number in range(2_000)]
    assert places == [fraction(f"c{number}") for number in range(2_000)]
    assert 150 < sum(place < 0.1 for place in places) < 250


def test_rows_of_clusters_held_out_are_for_validation() -> None:
    items = [item(said(pair(2)), cluster=f"c{number % 3}") for number in range(9)]
    ratings = [rating for one in items for rating in one.ratings]
    made, found = export(ratings, items, "dpo", PAIRWISE, held_out={"c1"}.__contains__)
    rows = [one for one in found if isinstance(one, Row)]
    assert {one.columns["cluster"] for one in rows if one.split == "validation"} == {"c1"}
    assert made.rows == {"train": 6, "validation": 3}


VERDICTS = st.sampled_from([pair(step) for step in (3, 2, 1, 0, -1, -2, -3, None)])
RATINGS = st.builds(
    said,
    VERDICTS,
    rater=st.sampled_from(["ann", "bob", "cid", "dora"]),
    shown=st.sampled_from([(0, 1), (1, 0)]),
    surplus=st.sampled_from([False, False, False, True]),
    skip=st.sampled_from([None, None, None, "why"]),
)


@given(st.lists(st.lists(RATINGS, max_size=5).map(lambda ratings: item(*ratings)), min_size=1, max_size=6))
def test_every_rating_is_in_a_row_or_has_a_reason_and_never_both(items: list[Rated]) -> None:
    rows, out = exported(items, "kto")
    cited = {rating for row in rows for rating in row["ratings"]}
    assert cited.isdisjoint(out)
    assert cited | set(out) == {rating.id for one in items for rating in one.ratings}
    for one in items:
        good, _ = counted(one.item.id, one.ratings)
        assert len({rating.rater for rating in good}) == len(good), "one of each rater"
