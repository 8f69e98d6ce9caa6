"""A campaign's report says how far raters agree, what each is like and which model is better, as they said it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random

import pytest

from llmops.feedback.campaign import Campaign
from llmops.feedback.campaign_report import CampaignReport, report_of
from llmops.feedback.items import Rated
from llmops.feedback.report_json import to_json
from llmops.rubric import Rubric
from tests.feedback.rated_items import LIKERT, PAIRWISE, item, pair, said
from tests.feedback.small_campaigns import QUALITY


def report(
    *rated: Rated, kind: str = "pairwise", rubric: Rubric = PAIRWISE, reopened: Mapping[str, int] | None = None
) -> CampaignReport:
    items = {"from": "rows", "rows": {"source": "x.jsonl"}, "prompt": "{p}", "responses": ["{a}", "{b}"]}
    campaign = Campaign(name="c", kind=kind, rubric="r.yaml", items=items, overlap=2)
    normal = [one for one in rated if one.item.kind == "normal"]
    return report_of(campaign, rubric, rated, items=len(normal), wanted=2 * len(normal), reopened=reopened)


def test_everything_is_counted_once() -> None:
    found = report(
        item(said(pair(2), "ann"), said(pair(1), "bob"), overlap=2),
        item(said(pair(0), "ann"), said(None, "bob", skip="why"), overlap=2),
        item(said(pair(None), "ann"), said(pair(-1), "cid", surplus=True), overlap=2),
        item(said(pair(1), "ann"), kind="gold", expected=pair(3)),
    )
    assert (found.items, found.complete, found.wanted, found.ratings) == (3, 1, 6, 4)
    assert (found.skipped, found.surplus) == (1, 1)
    assert found.verdicts == {"+2": 1, "+1": 1, "tie": 1, "both bad": 1}


def test_agreement_is_over_sides_as_stored_not_as_shown() -> None:
    turned = [item(said(pair(2), "ann"), said(pair(-2), "bob", shown=(1, 0))) for _ in range(5)]
    same = [item(said(pair(-1), "ann"), said(pair(1), "bob", shown=(1, 0))) for _ in range(5)]
    found = report(*turned, *same)
    agreed = found.agreement["preference"]
    assert agreed is not None
    assert (agreed.share.value, agreed.alpha.value) == (1.0, 1.0)


def test_gold_is_judged_by_the_side_and_practice_is_held_against_nobody() -> None:
    gold = [item(said(pair(1), "ann"), said(pair(-1), "bob"), kind="gold", expected=pair(3)) for _ in range(4)]
    practice = item(said(pair(-3), "ann", kind="training"), kind="gold", expected=pair(3))
    found = {one.rater: one for one in report(*gold, practice).raters}
    assert found["ann"].gold is not None
    assert (found["ann"].gold.value, found["ann"].gold.clusters) == (1.0, 4)
    assert found["bob"].gold is not None
    assert found["bob"].gold.value == 0.0


def test_a_rater_without_gold_is_not_judged_by_it() -> None:
    (only,) = report(item(said(pair(1), "ann"))).raters
    assert only.gold is None
    assert only.consistency is None


def test_who_says_the_same_again_is_consistent() -> None:
    again = [item(said(pair(2), "ann"), said(pair(-1), "ann", kind="repeat", round=1, shown=(1, 0))) for _ in range(3)]
    changed = item(said(pair(2), "ann"), said(pair(2), "ann", kind="repeat", round=1, shown=(1, 0)))
    (ann,) = report(*again, changed).raters
    assert ann.consistency is not None
    assert ann.consistency.value == 0.75, "the second time the sides were turned"


def test_who_leans_to_the_first_side_shows_it() -> None:
    draw = Random(1)
    rated = [item(said(pair(2), "ann", shown=draw.choice([(0, 1), (1, 0)]))) for _ in range(40)]
    (ann,) = report(*rated).raters
    assert ann.shown_first is not None
    assert ann.shown_first.value == 1.0
    assert ann.leans_to_a_side


def test_models_are_ranked_by_what_was_preferred_on_whichever_side() -> None:
    draw = Random(2)
    rated = []
    for _ in range(60):
        shown = draw.choice([(0, 1), (1, 0)])
        better = draw.random() < 0.8  # model0, at place 0
        step = 2 if better == (shown[0] == 0) else -2
        rated.append(item(said(pair(step), shown=shown)))
    found = report(*rated).ranking
    assert found is not None
    assert [one.model for one in found.standings] == ["model0", "model1"]
    assert found.gaps[0].decided
    assert found.standings[0].wins + found.standings[0].losses == 60


def test_scores_of_several_answers_are_questions_of_their_own_on_an_ordinal_scale() -> None:
    scores = [{"kind": "rating", "scores": [score, 6 - score]} for score in (1, 2, 3, 4, 5)]
    found = report(*(item(said(one, "ann"), said(one, "bob")) for one in scores), kind="rating", rubric=LIKERT)
    assert set(found.agreement) == {"score of answer 1", "score of answer 2"}
    for one in found.agreement.values():
        assert one is not None
        assert one.level == "ordinal"
        assert one.alpha.value == pytest.approx(1.0)


def test_several_attributes_are_questions_of_their_own_on_an_ordinal_scale() -> None:
    scores = [{"correct": step, "complete": 6 - step, "clear": 3} for step in (1, 2, 3, 4, 5)]
    rated = [
        item(*(said({"kind": "rating", "scores": [one]}, who, shown=(0,)) for who in ("ann", "bob")), answers=["a"])
        for one in scores
    ]
    found = report(*rated, kind="rating", rubric=QUALITY).agreement
    assert set(found) == {"correct", "complete", "clear"}
    correct = found["correct"]
    assert correct is not None
    assert correct.level == "ordinal"
    assert correct.alpha.value == pytest.approx(1.0)


def test_disagreements_are_listed_the_worst_first() -> None:
    split = item(said(pair(1)), said(pair(-1)), said(pair(0)))
    two_to_one = item(said(pair(1)), said(pair(2)), said(pair(-1)))
    alike = item(said(pair(1)), said(pair(2)))
    found = report(alike, two_to_one, split)
    assert dict(found.disagreements) == pytest.approx({split.item.id: 1.0, two_to_one.item.id: 2 / 3})
    assert found.disagreements[0][0] == split.item.id


def test_nothing_rated_is_a_report_all_the_same() -> None:
    found = to_json(report())
    assert (found["ratings"], found["agreement"], found["ranking"]) == (0, {}, None)


def test_a_reopened_item_is_complete_when_it_has_what_was_asked_for_besides() -> None:
    two = item(said(pair(1), "ann"), said(pair(1), "bob"), overlap=2)
    assert report(two).complete == 1
    assert report(two, reopened={two.item.id: 1}).complete == 0


def test_what_no_json_can_hold_is_null() -> None:
    alone = to_json(report(item(said(pair(1), "ann"), said(pair(2), "bob"))))
    json.dumps(alone, allow_nan=False)
    assert alone["agreement"]["preference"]["fleiss"]["value"] is None, "only one category was ever said"
    assert alone["pace"] is None
