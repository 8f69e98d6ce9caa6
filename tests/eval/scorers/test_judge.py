"""A judge as scorer: its mean with who it is and what it said; too few verdicts or silence stop the evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import EnvironmentFault, InputError
from llmops.eval.compare import compare
from llmops.eval.engines.engine import Answer, Generated
from llmops.eval.gates import Gate
from llmops.eval.items import Item
from llmops.eval.measured import Answered, Measured, read
from llmops.eval.run import evaluate
from llmops.eval.suite import Generation, Suite
from llmops.eval.verdict import judge as decide
from llmops.events import Listener
from llmops.prediction_powered import corrected_mean
from llmops.records import ModelSource
from tests.eval.asking import item_of
from tests.eval.chat_server import Reply, Served, chat, serving

LIKERT = "scale: {kind: likert, labels: [bad, poor, so-so, good, best]}"
PAIRWISE = "scale: {kind: pairwise}"
ITEMS = [
    replace(item_of(f"q{place}", "r" * (place + 1), half="a" if place < 10 else "b"), cluster=f"c{place}")
    for place in range(20)
]


@pytest.fixture
def suite(tmp_path: Path) -> Callable[..., Suite]:
    """A suite with one judge, its files beside it."""

    def made(served: Served, scale: str = LIKERT, template: str = "", **settings: Any) -> Suite:
        (tmp_path / "r.yaml").write_text(f"name: r\nversion: 2\nquestion: How good?\n{scale}\n")
        texts = "FIRST {first}\nSECOND {second}" if "pairwise" in scale else "ANSWER {answer}"
        (tmp_path / "p.md").write_text(template or f"PROMPT {{prompt}}\n{texts}\n{{verdict}}")
        judge = {"rubric": str(tmp_path / "r.yaml"), "prompt": str(tmp_path / "p.md"), "endpoint": served.url}
        return Suite.model_validate(
            {
                "name": "s",
                "items": {"source": "s.csv", "prompt": "{q}", "references": "{a}", "slices": {"half": "half"}},
                "scorers": [{"judge": {**judge, "model": "m", "attempts": 1, **settings}}, {"exact_match": {}}],
            }
        )

    return made


class Recites:
    """A model that answers as it is told, and counts how often it was asked."""

    def __init__(self, say: Callable[[Item], str]) -> None:
        self.say = say
        self.calls = 0

    def __call__(self, items: Sequence[Item], generation: Generation, *, listener: Listener) -> Generated:
        self.calls += 1
        return Generated(tuple(Answer(one.id, self.say(one), 1, "stop", 0.1) for one in items), 1.0, {"name": "stub"})


def run(suite: Suite, out: Path, say: Callable[[Item], str] = lambda item: "x" * len(item.prompt)) -> Measured:
    model = ModelSource("org/model", Path("/models/m"), "abc", "d" * 64)
    report = evaluate(suite, ITEMS, model, generate=Recites(say), out=out, judged=out / "judged")
    assert report.file is not None
    return read(report.file)


def shown(body: dict[str, Any], what: str) -> str:
    lines = body["messages"][0]["content"].splitlines()
    return next(line.removeprefix(f"{what} ") for line in lines if line.startswith(what))


def number_of(body: dict[str, Any]) -> int:
    return int(shown(body, "PROMPT").removeprefix("q"))


def steps(_: int, body: dict[str, Any]) -> Reply:
    """Rates question n with step 1 + n mod 5."""
    return chat(f"Let me see.\nVERDICT: {1 + number_of(body) % 5}")


def longer(_: int, body: dict[str, Any]) -> Reply:
    gap = len(shown(body, "FIRST")) - len(shown(body, "SECOND"))
    return chat(f"VERDICT: {'A' if gap > 0 else 'B' if gap else 'TIE'}")


def test_the_mean_rating_is_scaled_from_nothing_to_one_with_interval_and_slices(
    suite: Callable[..., Suite], tmp_path: Path
) -> None:
    with serving(steps) as served:
        report = run(suite(served), tmp_path)
    metric = report.metric("judge")
    assert metric is not None
    assert metric.per_item.tolist() == [(place % 5) / 4 for place in range(20)]
    score = report.scores[0]
    assert score.metric == "judge"
    assert score.value == pytest.approx(0.5)
    assert score.low is not None
    assert score.high is not None
    assert score.low < 0.5 < score.high
    assert set(report.slices) == {"half=a", "half=b"}
    assert report.measures["judge_unparsed_share"] == 0.0


def test_the_report_says_who_judged_by_what_and_what_was_said(suite: Callable[..., Suite], tmp_path: Path) -> None:
    with serving(steps) as served:
        report = run(suite(served), tmp_path)
    judge = report.judges["judge"]
    assert (judge["model"], judge["endpoint"], judge["model_root"]) == ("m", served.url, "/weights/m")
    assert (judge["rubric"]["name"], judge["rubric"]["version"]) == ("r", 2)
    assert judge["generation"]["temperature"] == 0.0
    assert judge["replies"][ITEMS[7].id] == ["Let me see.\nVERDICT: 3"]
    assert judge["calibration"] is None
    signature = report.scores[0].signature
    assert f"judge:m|endpoint:{served.url}|prompt:{judge['prompt'][:12]}|rubric:r@2:" in signature


def test_against_the_reference_the_order_is_swapped_and_ties_count_half(
    suite: Callable[..., Suite], tmp_path: Path
) -> None:
    # Answers are 5 long, references 1 to 20: four lose, one ties, the rest win for the reference.
    with serving(longer) as served:
        report = run(suite(served, PAIRWISE), tmp_path, lambda item: "x" * 5)
    assert len(served.asked) == 40
    assert report.scores[0].value == pytest.approx((4 + 0.5) / 20)
    assert report.measures["judge_inconsistent_share"] == 0.0
    assert report.measures["judge_first_share"] == 0.5


def test_a_judge_that_takes_what_comes_first_finds_nothing_but_ties(
    suite: Callable[..., Suite], tmp_path: Path
) -> None:
    with serving(lambda number, body: chat("VERDICT: A")) as served:
        report = run(suite(served, PAIRWISE), tmp_path)
    assert set(report.metric("judge").per_item.tolist()) == {0.5}  # type: ignore[union-attr]
    assert report.measures["judge_inconsistent_share"] == 1.0
    assert set(map(tuple, report.judges["judge"]["orders"].values())) == {("A", "B")}, "the answer, then the reference"
    assert report.measures["judge_first_share"] == 1.0


def test_items_without_a_verdict_are_asked_again_once_then_left_out_of_the_mean_and_counted(
    suite: Callable[..., Suite], tmp_path: Path
) -> None:
    def says(number: int, body: dict[str, Any]) -> Reply:
        return chat("Hard to say.") if number_of(body) == 4 else steps(number, body)

    with serving(says) as served:
        report = run(suite(served), tmp_path)
    assert len(served.asked) == 21
    assert report.scores[0].value == pytest.approx(sum(place % 5 for place in range(20) if place != 4) / 4 / 19)
    assert report.measures["judge_unparsed_share"] == 1 / 20
    assert report.measures["judge_asked_again_share"] == 1 / 20
    assert json.loads(report.file.read_text())["items"][4]["scores"]["judge"] is None  # type: ignore[union-attr]


def test_a_slice_without_any_verdict_has_no_score(suite: Callable[..., Suite], tmp_path: Path) -> None:
    def says(number: int, body: dict[str, Any]) -> Reply:
        return chat("Hard to say.") if number_of(body) < 10 else steps(number, body)

    with serving(says) as served:
        report = run(suite(served, unparsed_at_most=0.5), tmp_path)
    assert [score.metric for score in report.slices["half=a"]] == ["exact_match"]
    assert [score.metric for score in report.slices["half=b"]] == ["judge", "exact_match"]


def test_too_many_without_a_verdict_stop_the_evaluation(suite: Callable[..., Suite], tmp_path: Path) -> None:
    def says(number: int, body: dict[str, Any]) -> Reply:
        return chat("Hard to say.") if number_of(body) < 2 else steps(number, body)

    with serving(says) as served, pytest.raises(InputError, match=r"no verdict on 2 of 20 items, asked twice; 5\.0%"):
        run(suite(served), tmp_path)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        pytest.param((500, {}, b"out of memory"), "the judge m does not answer: .*status 500", id="an error"),
        pytest.param(chat(""), "the judge m says nothing to 1 of 20 questions", id="silence"),
        pytest.param(chat(None, finish="length"), "1 replies were cut before a word", id="cut while thinking"),
        pytest.param((200, {}, b"{}"), "does not answer: .*no chat completion", id="no completion"),
    ],
)
def test_a_judge_that_does_not_answer_is_an_error_never_a_score(
    suite: Callable[..., Suite], tmp_path: Path, reply: Reply, says: str
) -> None:
    def mute(number: int, body: dict[str, Any]) -> Reply:
        return reply if number_of(body) == 3 else steps(number, body)

    with serving(mute) as served, pytest.raises(EnvironmentFault, match=says):
        run(suite(served), tmp_path)
    assert not list(tmp_path.glob("s-*.json"))


def test_what_was_said_is_kept_so_that_an_interrupted_evaluation_goes_on(
    suite: Callable[..., Suite], tmp_path: Path
) -> None:
    down = True

    def says(number: int, body: dict[str, Any]) -> Reply:
        return (503, {}, b"") if down and number_of(body) == 15 else steps(number, body)

    with serving(says) as served:
        one_by_one = suite(served, concurrency=1)
        with pytest.raises(EnvironmentFault, match="15 of 20 answers are kept"):
            run(one_by_one, tmp_path)
        down = False
        report = run(one_by_one, tmp_path)
        assert len(served.asked) == 16 + 5
        assert run(one_by_one, tmp_path).digest == report.digest
        assert len(served.asked) == 21
        run(suite(served, max_tokens=7), tmp_path)  # decoded otherwise, it is another judge
        assert len(served.asked) == 41


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param({"model": "mm"}, "has no model 'mm'", id="another model"),
        pytest.param({"api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY is empty or not set", id="no key"),
        pytest.param({"calibration": "none.json"}, "the calibration none.json cannot be read", id="no calibration"),
        pytest.param({"template": "{prompt} {answer}"}, "lacks {verdict}", id="a prompt that does not fit"),
        pytest.param({"rubric": "none.yaml"}, "none.yaml", id="no rubric"),
    ],
)
def test_faults_of_the_judge_show_before_the_model_is_asked(
    suite: Callable[..., Suite], settings: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    never = Recites(lambda item: "x")
    with serving(steps) as served, pytest.raises(InputError) as caught:
        evaluate(suite(served, **settings), ITEMS, ModelSource("m", Path("/m"), None, "d" * 64), generate=never)
    assert says in str(caught.value)
    assert never.calls == 0


def test_the_key_is_read_from_the_environment_and_written_nowhere(
    suite: Callable[..., Suite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    with serving(steps) as served:
        report = run(suite(served, api_key_env="JUDGE_KEY"), tmp_path)
    assert served.headers[0]["authorization"] == "Bearer s3cret"
    assert report.file is not None
    assert "s3cret" not in report.file.read_text()
    assert "JUDGE_KEY" not in report.file.read_text()


def test_reports_by_different_judges_refuse_to_be_compared(suite: Callable[..., Suite], tmp_path: Path) -> None:
    with serving(steps) as served:
        one = run(suite(served), tmp_path)
        same = run(suite(served), tmp_path, lambda item: "other")
        other = run(suite(served, template="PROMPT {prompt}\nBe strict. ANSWER {answer}\n{verdict}"), tmp_path)
    assert compare(one, same).differences[0].metric == "judge"
    with pytest.raises(InputError, match="measure different things"):
        compare(one, other)
    # The same words to another model behind the same name and address:
    metric = replace(one.metrics[0], signature=one.metrics[0].signature.replace("judge:m|", "judge:n|"))
    with pytest.raises(InputError, match="judge of org/model was computed as"):
        compare(one, replace(one, metrics=(metric, *one.metrics[1:])))


def test_how_fast_it_is_asked_changes_nothing_that_is_measured(suite: Callable[..., Suite], tmp_path: Path) -> None:
    with serving(steps) as served:
        one, other = (run(suite(served, concurrency=number), tmp_path) for number in (1, 4))
    assert one.digest == other.digest


def test_people_who_rated_some_of_the_answers_correct_the_mean_in_the_report(
    suite: Callable[..., Suite], tmp_path: Path
) -> None:
    # The judge says 1 to 5 evenly; people, of half of the answers, one less where they can: 0, 0, 1, 2, 3 of 4.
    table = tmp_path / "ratings.jsonl"
    rows = [{"prompt": f"q{n}", "answer": f"to q{n}", "rating": max(1, n % 5)} for n in range(10)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(steps) as served:
        judged = suite(served, ratings=str(table))
        report = run(judged, tmp_path, lambda item: f"to {item.prompt}")
        unrated = run(judged, tmp_path, lambda item: "another answer")
    people, judge = [max(0, n % 5 - 1) / 4 for n in range(10)], [n % 5 / 4 for n in range(20)]
    expected = corrected_mean(people, judge[:10], judge[10:], span=1.0)
    assert report.measures["judge_corrected"] == pytest.approx(expected.value)
    gate = Gate.model_validate({"rules": [{"suite": "s", "measure": "judge_corrected", "at_least": 0.1}]})
    (rule,) = decide(gate, {"s": report}, {}, name="g", against=None).rules
    assert (rule["low"], rule["high"]) == pytest.approx(expected.interval(0.95))
    assert "judge_corrected" not in unrated.measures
    with pytest.raises(InputError, match="judge_corrected, which the report on s does not hold"):
        decide(gate, {"s": unrated}, {}, name="g", against=None)


def test_it_measures_like_any_other_scorer(suite: Callable[..., Suite]) -> None:
    items = [Answered(one.id, one.messages, one.references, {}, one.cluster, "x") for one in ITEMS]
    with serving(steps) as served:
        (metric,) = suite(served).scorers[0].chosen.measure(items)
    assert metric.value() == pytest.approx(0.5)
