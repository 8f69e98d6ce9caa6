"""A calibration says how far one judge agrees with people, and is of that judge, prompt and rubric alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import cohen_kappa_score

from llmops.data.section import Origin
from llmops.errors import InputError
from llmops.eval.engines.engine import Answer, Generated
from llmops.eval.items import Item
from llmops.eval.judge.asking import Judge
from llmops.eval.judge.calibration import calibrate, from_record, read
from llmops.eval.judge.prompt import JudgePrompt
from llmops.eval.judge.ratings import Columns, Rated, Ratings, ratings_in
from llmops.eval.suite import Generation
from llmops.events import Listener, Silent
from llmops.rubric import Rubric
from tests.eval.judge.rubrics import ATTRIBUTES, COMPARE, LIKERT, PAIRWISE
from tests.test_agreement import PANDALM

RATE = "PROMPT {prompt}\nANSWER {answer}\n{verdict}"


def judge(says: Callable[[str], str], rubric: Rubric = LIKERT, template: str = RATE) -> Judge:
    def engine(items: Sequence[Item], generation: Generation, *, listener: Listener) -> Generated:
        answers = [Answer(one.id, says(one.messages[0]["content"]), 3, "stop", 0.1) for one in items]
        return Generated(tuple(answers), 1.0, {"name": "stub"})

    return Judge("j", JudgePrompt(template, rubric), Generation(max_tokens=9), engine)


def of(*rated: Rated) -> Ratings:
    return Ratings(tuple(rated), ())


def answer_in(text: str) -> str:
    return text.split("ANSWER ")[1].split("\n")[0]


def made(number: int, *, follows: float = 0.8, seed: int = 0) -> tuple[Judge, Ratings]:
    """People who rate 1 to 5, twice each, and a judge that says what the first of them says so often."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(1, 6, number)
    again = np.where(draw.random(number) < 0.9, truth, draw.integers(1, 6, number))
    said = np.where(draw.random(number) < follows, truth, draw.integers(1, 6, number))
    rated = [
        Rated(f"p{place // 2}", (f"answer {place}",), (int(truth[place]), int(again[place]))) for place in range(number)
    ]
    return judge(lambda text: f"VERDICT: {said[int(answer_in(text).split()[1])]}"), of(*rated)


def test_steps_agree_by_weighted_kappa_with_every_single_rating_and_people_with_each_other() -> None:
    rater, ratings = made(200)
    found = calibrate(rater, ratings, listener=Silent())
    opinions = rater.rate(
        [({"role": "user", "content": one.prompt},) for one in ratings.rated],
        [one.texts[0] for one in ratings.rated],
        listener=Silent(),
    )
    judge_says = [one.verdict for one in opinions for _ in range(2)]
    people_say = [step for one in ratings.rated for step in one.ratings]
    assert found.weights == "quadratic"
    assert found.kappa["value"] == pytest.approx(cohen_kappa_score(judge_says, people_say, weights="quadratic"))
    assert found.share["value"] == pytest.approx(np.mean(np.array(judge_says) == np.array(people_say)))
    pairs = np.array([one.ratings for one in ratings.rated])
    both_ways = np.concatenate([pairs, pairs[:, ::-1]])
    assert found.people is not None
    assert found.people["value"] == pytest.approx(cohen_kappa_score(*both_ways.T, weights="quadratic"))
    assert found.ratings == {
        "digest": ratings.digest,
        "things": 200,
        "prompts": 100,
        "ratings": 400,
        "left_out": 0,
    }


def test_the_interval_holds_things_of_one_prompt_together() -> None:
    # The judge understands a prompt or it does not: four answers to one prompt tell no more than one.
    rater = judge(lambda text: f"VERDICT: {1 + int(answer_in(text)) // 100 * 4}")

    def width(prompts: int) -> float:
        rated = [
            Rated(f"p{place % prompts}", (f"{said * 100 + place}",), (5 if (place % 50 < 40) == said else 1,))
            for place in range(100)
            for said in [place % 50 % 2]
        ]
        kappa = calibrate(rater, of(*rated), listener=Silent()).kappa
        return float(kappa["high"] or 0) - float(kappa["low"] or 0)

    assert width(50) == pytest.approx(math.sqrt(2) * width(100), rel=0.1)


def test_a_judge_that_likes_long_texts_shows_it() -> None:
    def longer(text: str) -> str:
        first, second = (text.split(f"{name} ")[1].split("\n")[0] for name in ("FIRST", "SECOND"))
        return f"VERDICT: {'A' if len(first) > len(second) else 'B'}"

    # People take the longer in 30 of 60; the judge always does.
    rated = [Rated(f"p{place}", ("long text", "text"), ("A" if place % 2 else "B",)) for place in range(60)]
    found = calibrate(judge(longer, PAIRWISE, COMPARE), of(*rated), listener=Silent())
    assert found.length["value"] == pytest.approx(0.5)
    assert (found.length["low"] or 0) > 0.3
    assert found.counts["inconsistent_share"] == [0, 60]
    assert found.counts["first_share"] == [60, 120]
    assert found.kappa["value"] == pytest.approx(0.0)
    assert found.share["value"] == 0.5


def test_of_ratings_the_length_bias_is_a_correlation_of_the_error() -> None:
    draw = np.random.default_rng(5)
    words, steps = draw.integers(1, 40, 80), draw.integers(1, 6, 80)
    said = np.clip(steps + (words > 20), 1, 5)
    texts = [" ".join(["w"] * words[place]) + f" t{place}" for place in range(80)]
    rated = [Rated(f"p{place}", (texts[place],), (int(steps[place]),)) for place in range(80)]
    found = calibrate(
        judge(lambda text: f"VERDICT: {said[int(answer_in(text).split(' t')[1])]}"), of(*rated), listener=Silent()
    )
    theirs = scipy.stats.pearsonr((said - steps) / 4, np.log(1 + words + 1)).statistic
    assert found.length["value"] == pytest.approx(theirs)


def test_attributes_agree_answer_by_answer() -> None:
    rated = [
        Rated("p", (f"t{place}",), ({"right": "yes" if place % 2 else "no", "rude": "no"},)) for place in range(20)
    ]
    rater = judge(lambda text: 'VERDICT: {"right": "yes", "rude": "no"}', ATTRIBUTES)
    found = calibrate(rater, of(*rated), listener=Silent())
    assert found.share["value"] == 0.75
    # Judge: 20 yes, 20 no; people: 10 yes, 30 no; alike 30 of 40; by chance 0.5·0.25 + 0.5·0.75.
    assert found.kappa["value"] == pytest.approx((0.75 - 0.5) / (1 - 0.5))


def test_what_has_no_verdict_is_counted_and_left_out_and_none_at_all_is_refused() -> None:
    rated = [Rated(f"p{place}", (f"t{place}",), (1 + place % 5,)) for place in range(20)]
    half = judge(lambda text: "VERDICT: 3" if int(answer_in(text)[1:]) % 2 else "Well.")
    found = calibrate(half, of(*rated), unparsed_at_most=0.5, listener=Silent())
    assert found.counts["unparsed_share"] == [10, 20]
    with pytest.raises(InputError, match="no verdict on 10 of 20 items"):
        calibrate(half, of(*rated), listener=Silent())
    with pytest.raises(InputError, match="no verdict on 20 of 20 items"):
        calibrate(judge(lambda text: "Well."), of(*rated), unparsed_at_most=1.0, listener=Silent())


def test_a_prompt_with_a_reference_needs_one_for_every_rated_answer() -> None:
    rater = judge(
        lambda text: "VERDICT: 3" if "GOOD ref" in text else "VERDICT: 1", template=RATE + " GOOD {reference}"
    )
    with pytest.raises(InputError, match="--reference"):
        calibrate(rater, of(Rated("p", ("a",), (3,))), listener=Silent())
    both = of(Rated("p", ("a",), (3,), "ref"), Rated("q", ("a",), (2,), "ref"))
    assert calibrate(rater, both, listener=Silent()).share["value"] == 0.5


def test_it_is_sealed_and_of_one_judge_alone(tmp_path: Path) -> None:
    rater, ratings = made(40)
    found = calibrate(rater, ratings, listener=Silent())
    file = tmp_path / "c.json"
    file.write_text(json.dumps(found.plain()))
    assert read(file) == found
    assert found.judge_digest == rater.digest
    other = judge(str, template=RATE + " Be strict.")
    assert found.difference(other.identity).startswith("prompt ")
    with pytest.raises(InputError, match="was changed after it was written"):
        from_record({**found.plain(), "kappa": {"value": 0.99, "low": 0.98, "high": 1.0}}, "c")
    with pytest.raises(InputError, match="format 9"):
        from_record({**found.plain(), "format": 9}, "c")
    with pytest.raises(InputError, match="is no calibration"):
        from_record({"digest": "x"}, "c")


def pandalm() -> Ratings:
    if not PANDALM.is_file():
        pytest.skip(f"the PandaLM ratings are not at {PANDALM}")
    columns = Columns(
        prompt="{instruction}\n{input}",
        first="{response1}",
        second="{response2}",
        ratings=("annotator1", "annotator2", "annotator3"),
        means={"0": "TIE", "1": "A", "2": "B"},
    )
    return ratings_in(Origin(source=str(PANDALM)), PAIRWISE, columns)


def test_on_real_ratings_one_of_the_raters_as_judge_agrees_as_published() -> None:
    ratings = pandalm()
    # Rows whose answers were published as truth values are no texts; they are left out and said.
    assert len(ratings.left_out) == sum(
        isinstance(row["response1"], bool) or isinstance(row["response2"], bool)
        for row in json.loads(PANDALM.read_text())
    )
    said = {(one.prompt, *one.texts): one.ratings[0] for one in ratings.rated}
    seen = {key: f"{place}" for place, key in enumerate(said)}
    named = [replace(one, prompt=seen[(one.prompt, *one.texts)]) for one in ratings.rated if len(one.ratings) == 3]
    by_number = {seen[key]: said[key] for key in said}
    turned = {"A": "B", "B": "A", "TIE": "TIE"}
    order = {seen[(one.prompt, *one.texts)]: one.texts for one in ratings.rated}

    def says(text: str) -> str:
        number = text.split("PROMPT ")[1].split()[0]
        first = text.split("FIRST ")[1].split("\nSECOND ")[0]
        choice = str(by_number[number])
        return f"VERDICT: {choice if first == order[number][0] else turned[choice]}"

    second = of(*(replace(one, ratings=one.ratings[1:2]) for one in named))
    found = calibrate(judge(says, PAIRWISE, COMPARE), second, listener=Silent())
    assert found.kappa["value"] == pytest.approx(0.85, abs=0.01)
    assert (found.kappa["low"] or 0) < 0.85 < (found.kappa["high"] or 0)
    people = calibrate(judge(says, PAIRWISE, COMPARE), of(*named), listener=Silent()).people
    assert people is not None
    # Mean of the three published: 0.852, 0.879, 0.862.
    assert people["value"] == pytest.approx(0.864, abs=0.01)
