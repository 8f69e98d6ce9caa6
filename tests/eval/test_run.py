"""One model on one suite gives one report: scores, slices, measures, and every item with its answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pytest

from llmops.errors import InputError
from llmops.eval.engines.engine import Answer, Engine, Generated
from llmops.eval.items import Item, suite_digest
from llmops.eval.measured import Answered, read
from llmops.eval.metric import Metric, mean_of
from llmops.eval.run import evaluate
from llmops.eval.scorers.catalog import Scorer
from llmops.eval.suite import Generation, Suite
from llmops.events import Listener
from llmops.records import ModelSource, Report
from tests.eval.asking import SUITE

MODEL = ModelSource("org/model", Path("/models/m"), "abc", "d" * 64)


@pytest.fixture
def items(make_item: Callable[..., Item]) -> list[Item]:
    return [
        make_item("q1", "one two three four five", kind="number"),
        make_item("q2", "red green blue pink grey", "white black brown gold", kind="colour"),
        make_item("q3", "six seven eight nine ten", kind="number"),
        make_item("q4", "mon tue wed thu fri"),
    ]


def answering(
    say: Callable[[Item], str],
    *,
    finish: Literal["stop", "length"] = "stop",
    seconds: float = 0.5,
    confidence: float | None = None,
) -> Engine:
    """An engine that says what it is told, each answer of 4 tokens, in another order than it was asked.

    Args:
        confidence: of the first answer; that of each further one is larger by it.
    """

    def engine(items: Sequence[Item], generation: Generation, *, listener: Listener) -> Generated:
        assert generation == SUITE.generation
        answers = [
            Answer(
                item.id,
                say(item),
                4,
                finish,
                seconds * (1 + number),
                confidence=confidence and confidence * (1 + number),
            )
            for number, item in enumerate(items)
        ]
        return Generated(tuple(reversed(answers)), 2.0, {"name": "stub"})

    return engine


def scores_of(report: Report) -> dict[str, float]:
    return {score.metric: score.value for score in report.scores}


def test_an_oracle_gets_everything_and_its_opposite_nothing(items: list[Item]) -> None:
    best = evaluate(SUITE, items, MODEL, generate=answering(lambda item: item.references[-1]))
    assert scores_of(best) == pytest.approx(
        {"bleu": 100, "chrf": 100, "rouge1": 1, "rouge2": 1, "rougeL": 1, "rougeLsum": 1, "exact_match": 1}
    )
    worst = evaluate(SUITE, items, MODEL, generate=answering(lambda item: "ZZZ QQQ"))
    assert set(scores_of(worst).values()) == {0.0}


def test_answers_are_paired_with_items_by_id_never_by_position(items: list[Item]) -> None:
    # The stub hands its answers back in reverse.
    report = evaluate(SUITE, items, MODEL, generate=answering(lambda item: item.references[0]))
    assert scores_of(report)["exact_match"] == 1.0


def test_a_slice_is_scored_on_its_own_items_alone(items: list[Item]) -> None:
    def say(item: Item) -> str:
        return item.references[0] if item.slices.get("kind") == "number" else "ZZZ"

    report = evaluate(SUITE, items, MODEL, generate=answering(say))
    by_slice = {name: {score.metric: score.value for score in scores} for name, scores in report.slices.items()}
    assert set(by_slice) == {"kind=number", "kind=colour"}
    assert by_slice["kind=number"]["bleu"] == pytest.approx(100)
    assert by_slice["kind=colour"]["bleu"] == 0
    assert scores_of(report)["exact_match"] == 2 / 4


def test_measures_say_how_long_how_much_and_how_many_were_cut(items: list[Item]) -> None:
    report = evaluate(SUITE, items, MODEL, generate=answering(lambda item: "x"))
    assert report.measures == {
        "latency_p50_ms": 1000.0,
        "latency_p95_ms": 2000.0,
        "latency_p99_ms": 2000.0,
        "items_per_s": 2.0,
        "tokens_per_s": 8.0,
        "tokens_mean": 4.0,
        "words_mean": 1.0,
        "repetition_mean": 0.0,
        "truncated_share": 0.0,
        "empty_share": 0.0,
        "refusal_share": 0.0,
        "toxic_share": 0.0,
    }
    cut = evaluate(SUITE, items, MODEL, generate=answering(lambda item: " ", finish="length"))
    assert (cut.measures["truncated_share"], cut.measures["empty_share"]) == (1.0, 1.0)


def test_a_cut_answer_is_scored_as_it_stands(items: list[Item]) -> None:
    cut = evaluate(SUITE, items, MODEL, generate=answering(lambda item: item.references[0], finish="length"))
    assert scores_of(cut)["exact_match"] == 1.0


def test_the_file_holds_everything_about_every_item(items: list[Item], tmp_path: Path) -> None:
    report = evaluate(
        SUITE, items, MODEL, generate=answering(lambda item: item.references[0], finish="length"), out=tmp_path
    )
    assert report.file == tmp_path / f"s-{report.digest[:12]}.json"
    content = json.loads(report.file.read_text())
    assert content["digest"] == report.digest
    assert content["model"] == {"reference": "org/model", "revision": "abc", "digest": "d" * 64}
    assert content["suite"]["digest"] == suite_digest(SUITE, items)
    assert content["suite"]["settings"]["scorers"][0] == {"bleu": {"lowercase": False, "tokenize": "13a"}}
    assert content["scores"] == [asdict(score) for score in report.scores]
    assert set(content["slices"]) == {"kind=number", "kind=colour"}
    second = content["items"][1]
    assert second["id"] == items[1].id
    assert second["messages"] == [{"role": "user", "content": "q2"}]
    assert second["references"] == ["red green blue pink grey", "white black brown gold"]
    assert (second["answer"], second["finish"], second["tokens"]) == ("red green blue pink grey", "length", 4)
    assert second["scores"]["exact_match"] == 1.0
    assert content["seconds"][items[1].id] == 1.0


def test_how_sure_the_model_was_stands_in_the_file_and_comes_back(items: list[Item], tmp_path: Path) -> None:
    sure = answering(lambda item: "x", confidence=0.25)
    report = evaluate(SUITE, items, MODEL, generate=sure, out=tmp_path)
    assert report.file is not None
    assert [item.confidence for item in read(report.file).items] == [0.25, 0.5, 0.75, 1.0]
    unsure = evaluate(SUITE, items, MODEL, generate=answering(lambda item: "x"), out=tmp_path / "other")
    assert unsure.file is not None
    assert {item.confidence for item in read(unsure.file).items} == {None}


def test_the_digest_is_of_what_was_found_not_of_how_long_it_took(items: list[Item]) -> None:
    def digest(word: str, seconds: float, model: ModelSource = MODEL, sure: float | None = None) -> str:
        say = answering(lambda item: word, seconds=seconds, confidence=sure)
        return evaluate(SUITE, items, model, generate=say).digest

    assert digest("x", 0.5) == digest("x", 0.25) == digest("x", 0.5, sure=0.1)
    assert digest("x", 0.5) != digest("y", 0.5)
    assert digest("x", 0.5) != digest("x", 0.5, ModelSource("org/model", MODEL.folder, "abc", "e" * 64))


def test_a_suite_without_items_is_refused_before_anything_is_loaded() -> None:
    def never(*_: Any, **__: Any) -> Generated:
        raise AssertionError("the model must not be asked")

    with pytest.raises(InputError, match="has no items"):
        evaluate(SUITE, [], MODEL, generate=never)


@pytest.mark.parametrize("spoil", [lambda answers: answers[1:], lambda answers: (*answers[1:], answers[1])])
def test_an_engine_that_loses_an_answer_is_a_bug(items: list[Item], spoil: Callable[[Any], Any]) -> None:
    honest = answering(lambda item: "x")

    def lossy(items: Sequence[Item], generation: Generation, *, listener: Listener) -> Generated:
        made = honest(items, generation, listener=listener)
        return Generated(spoil(made.answers), made.seconds, made.engine)

    with pytest.raises(ValueError, match="4 items were asked"):
        evaluate(SUITE, items, MODEL, generate=lossy)


@pytest.mark.parametrize(
    ("scorer", "says"),
    [
        ({"number": {}}, "holds no number"),
        ({"classes": {"labels": ["a", "b"]}}, "none of the labels a, b"),
        ({"json_schema": {"against": "nowhere.json"}}, "cannot be read"),
        ({"json_schema": {"against": {}, "fields": True}}, "is no JSON"),
        ({"code": {}}, "are no Python"),
        ({"grounding": {"pattern": "Context:(.*)"}}, "finds no context"),
        ({"evaluate": {"metric": str(Path(__file__).parent)}}, "cannot be loaded"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_what_a_scorer_cannot_use_is_refused_before_a_model_answers(
    items: list[Item], scorer: dict[str, Any], says: str
) -> None:
    def never(*arguments: Any, **others: Any) -> Generated:
        raise AssertionError("the model was asked")

    suite = Suite.model_validate({**SUITE.model_dump(exclude={"scorers"}), "scorers": [scorer]})
    with pytest.raises(InputError, match=says):
        evaluate(suite, items, MODEL, generate=never)


def test_a_score_that_is_no_number_stops_the_evaluation(items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Scorer):
        def names(self) -> tuple[str, ...]:
            return ("broken",)

        def measure(self, items: Sequence[Answered]) -> list[Metric]:
            nan = float("nan")
            return [mean_of("broken", "v1", [nan for _ in items])]

    monkeypatch.setattr(type(SUITE.scorers[0]), "chosen", Broken())
    with pytest.raises(InputError, match="the score broken is nan"):
        evaluate(SUITE, items, MODEL, generate=answering(lambda item: "x"))
