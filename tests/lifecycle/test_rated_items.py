"""Items of a campaign: each with its source, its models and the probability with which it was drawn."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, insert

from llmops.data.section import Origin
from llmops.database import open_database
from llmops.errors import InputError
from llmops.feedback.campaign import Campaign, FromRows
from llmops.feedback.drawing import NOT_TEXT, clustered, drawn, inclusion, item_of
from llmops.feedback.items import Response
from llmops.lifecycle.rated_items import gold_of, items_of
from llmops.lifecycle.rated_ledger import ledger_items, thumbs_given
from llmops.rubric import Rubric
from llmops.serve import ledger_tables
from llmops.serve.hooks import Feedback
from llmops.workspace import Workspace
from tests.lifecycle.kept_requests import keep, ledger

RUBRIC = Rubric(name="helpful", version=1, question="Which helps more?", scale={"kind": "pairwise"})
PANDALM = Path(__file__).parents[2] / "../shared/data/pandalm/testset-v1.json"
DRAW = random.Random(7)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(Workspace(tmp_path / "home"))


def campaign(items: FromRows, **other: Any) -> Campaign:
    return Campaign(**{"name": "c", "kind": "pairwise", "rubric": "r.yaml", "items": items, **other})


def test_a_kept_request_with_its_shadow_is_a_pair_with_both_versions(engine: Engine) -> None:
    request = keep(engine, "why?", "because", "since")
    keep(engine, "alone", "one answer")
    keep(engine, "alike", "same", "same")
    (item,), unusable = ledger_items(engine, ledger(), "pairwise", DRAW)
    assert [one.text for one in item.responses] == ["because", "since"]
    assert [one.model for one in item.responses] == ["models:/m/3", "models:/big/0"]
    assert item.responses[0].detail["decoding"] == {"temperature": 0.7}
    assert item.source["request"] == request
    assert item.probability == pytest.approx(0.1), "with which the gateway kept it"
    assert unusable == 2


def test_other_kinds_take_the_answer_alone(engine: Engine) -> None:
    keep(engine, "alone", "one answer")
    (item,), _ = ledger_items(engine, ledger(route="auto"), "rating", DRAW)
    assert [one.text for one in item.responses] == ["one answer"]


def test_a_route_that_was_never_asked_is_named_with_the_nearest_one(engine: Engine) -> None:
    keep(engine, "q", "a", route="quickstart")
    with pytest.raises(InputError, match="quickstart"):
        ledger_items(engine, ledger(route="quikstart"), "rating", DRAW)


def test_doubtful_requests_are_drawn_more_often_and_the_probability_says_so(engine: Engine) -> None:
    sure = [keep(engine, f"sure {n}", "a", reason="learned: gap 0.950, from 0.200") for n in range(30)]
    doubtful = [keep(engine, f"doubt {n}", "a", reason="learned: gap 0.210, from 0.200") for n in range(30)]
    counts: Counter[str] = Counter()
    for seed in range(60):
        items, _ = ledger_items(engine, ledger(sample=12, by="uncertainty"), "rating", random.Random(seed))
        assert len(items) == 12
        counts.update(str(item.source["request"]) for item in items)
        chances = {str(item.source["request"]): item.probability / 0.1 for item in items}
        for request, chance in chances.items():
            expected = 12 * (0.96059601 if request in doubtful else 0.05) / (30 * 0.96059601 + 30 * 0.05)
            assert chance == pytest.approx(expected)
    assert sum(counts[one] for one in doubtful) > 10 * sum(counts[one] for one in sure)


def test_thumbs_that_clients_left_are_found_with_their_requests(engine: Engine) -> None:
    request = keep(engine, "q", "a")
    keep(engine, "nobody said anything", "a")
    given_thumb = Feedback(request, time.time(), caller="k1", thumbs="up", score=None, comment="good", correction=None)
    with engine.begin() as connection:
        row = ledger_tables.feedback_row("f1", given_thumb)
        connection.execute(insert(ledger_tables.feedback()).values(**row))
    ((item, said),) = thumbs_given(engine, None)
    assert item.source["request"] == request
    assert (said["id"], said["thumb"], said["comment"]) == ("f1", "up", "good")


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40), st.integers(1, 60), st.integers())
def test_so_many_are_drawn_as_wanted_and_chances_add_up_to_it(weights: list[float], sample: int, seed: int) -> None:
    chances = inclusion(weights, sample)
    wanted = min(sample, len(weights))
    assert sum(chances) == pytest.approx(wanted)
    assert all(0 < chance <= 1 for chance in chances)
    chosen = drawn(weights, sample, random.Random(seed))
    assert len(chosen) == wanted
    assert len({place for place, _ in chosen}) == wanted
    assert all(chance == chances[place] for place, chance in chosen)


def test_an_item_is_drawn_as_often_as_its_chance_says() -> None:
    weights = [1.0, 2.0, 3.0, 10.0]
    draw = random.Random(3)
    counts = Counter(place for _ in range(8_000) for place, _ in drawn(weights, 2, draw))
    for place, chance in enumerate(inclusion(weights, 2)):
        assert counts[place] / 8_000 == pytest.approx(chance, abs=4 * (0.25 / 8_000) ** 0.5)


def test_near_duplicate_prompts_share_a_cluster() -> None:
    words = "please write a short and friendly letter to my neighbour about the noise last night in the garden"
    prompts = [words, words.upper() + "!", "What is the capital of France?"]
    made = clustered(item_of(({"role": "user", "content": text},), (Response("a"),), {}) for text in prompts)
    clusters = [item.cluster for item in made]
    assert clusters[0] == clusters[1] != clusters[2]


def test_prompts_that_come_later_share_the_clusters_that_are_there() -> None:
    words = "please write a short and friendly letter to my neighbour about the noise last night in the garden"

    def turns(text: str) -> tuple[dict[str, str]]:
        return ({"role": "user", "content": text},)

    there = [(turns("What is the capital of France?"), "france"), (turns(words), "letter")]
    later = [words + ", please", words, "What is the capital of Spain?", "What is the  capital of france?"]
    made = clustered((item_of(turns(text), (Response("a"),), {}) for text in later), there)
    clusters = [item.cluster for item in made]
    assert clusters[:2] == ["letter", "letter"]
    assert clusters[2] not in ("letter", "france")
    assert clusters[3] == "france"


def test_a_row_says_which_comes_first_and_who_can_read_it(tmp_path: Path, engine: Engine) -> None:
    rows = [{"p": "q1", "a": "x", "b": "y", "how": " 7 ", "in": "de"}, {"p": "q2", "a": "x", "b": "y", "how": "soon"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"in": None, **row}) + "\n" for row in rows))
    wanted = FromRows(**{
        "from": "rows", "rows": Origin(source=str(file)), "prompt": "{p}", "responses": ["{a}", "{b}"],
        "priority": "{how}",
    })  # fmt: skip
    made = items_of(campaign(wanted), RUBRIC, engine, DRAW)
    assert [item.priority for item in made.items] == [7]
    assert "the priority 'soon' is no whole number" in made.left_out[0]
    named = wanted.model_copy(update={"priority": "{hwo}"})
    with pytest.raises(InputError, match="no column 'hwo'; did you mean `how`"):
        items_of(campaign(named), RUBRIC, engine, DRAW)


def test_gold_goes_to_those_who_read_it(tmp_path: Path) -> None:
    good = {"prompt": "q", "responses": ["a", "b"], "expected": {"step": 2}}
    file = tmp_path / "gold.jsonl"
    file.write_text(json.dumps({**good, "language": "de-CH"}) + "\n" + json.dumps(good) + "\n")
    assert [item.language for item in gold_of(str(file), "pairwise")] == ["de-CH", None]
    file.write_text(json.dumps({**good, "language": "German"}) + "\n")
    with pytest.raises(InputError, match=r"gold.jsonl:1 is no gold item: `language` is 'German'"):
        list(gold_of(str(file), "pairwise"))


def test_gold_must_hold_a_verdict_of_the_campaigns_kind(tmp_path: Path) -> None:
    file = tmp_path / "gold.jsonl"
    good = {"prompt": "q", "responses": ["a", "b"], "expected": {"step": 2}}
    file.write_text(json.dumps(good) + "\n")
    (item,) = gold_of(str(file), "pairwise")
    assert item.expected == {"kind": "pairwise", "step": 2, "both_bad": False}
    file.write_text(json.dumps({**good, "expected": {"step": 9}}) + "\n")
    with pytest.raises(InputError, match=r"gold.jsonl:1 is no gold item"):
        list(gold_of(str(file), "pairwise"))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"rating": "7"}, "the rating '7' is not on the scale of a pairwise campaign"),
        ({"second": None}, "has no row that can be rated"),
    ],
)
def test_a_row_that_cannot_be_meant_is_said(tmp_path: Path, engine: Engine, row: dict[str, Any], problem: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "q", "first": "a", "second": "b", "rating": "2", **row}) + "\n")
    wanted = FromRows(**{
        "from": "rows", "rows": Origin(source=str(file)), "prompt": "{prompt}", "responses": ["{first}", "{second}"],
        "ratings": ["rating"],
    })  # fmt: skip
    with pytest.raises(InputError, match=problem):
        items_of(campaign(wanted), RUBRIC, engine, DRAW)


def test_pandalm_is_a_finished_campaign_and_its_booleans_are_told(engine: Engine) -> None:
    if not PANDALM.is_file():
        pytest.skip("PandaLM's ratings are not beside the repository, in ../shared/data/pandalm")
    wanted = FromRows(**{
        "from": "rows",
        "rows": {"source": str(PANDALM)},
        "prompt": "{instruction}\n\n{input}",
        "responses": ["{response1}", "{response2}"],
        "models": [{"column": "cmp_key", "pattern": "^(.+)_"}, {"column": "cmp_key", "pattern": "_(.+)$"}],
        "ratings": ["annotator1", "annotator2", "annotator3"],
        "means": {"0": "TIE", "1": "A", "2": "B"},
    })  # fmt: skip
    made = items_of(campaign(wanted, overlap=3), RUBRIC, engine, DRAW)
    assert len(made.items) == 999
    assert made.left_out == ()
    assert sum(NOT_TEXT in one.detail for item in made.items for one in item.responses) == 6
    assert made.notes == (
        "6 responses are no texts but values such as true or false: shown as they are written, and left out of what is "
        "exported",
    )
    models = Counter(one.model for item in made.items for one in item.responses)
    assert set(models) == {"bloom-7b", "llama-7b", "cerebras-gpt-6.7B", "pythia-6.9b", "opt-7b"}
    assert all(len(said) == 3 for said in made.ratings)
