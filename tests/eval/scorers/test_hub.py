"""A metric of Hugging Face evaluate gives what it gives by itself, by item where it is a mean over items."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import f1_score

from llmops.errors import EnvironmentFault, InputError
from llmops.eval.compare import compare
from llmops.eval.gates import Gate
from llmops.eval.metric import Metric, estimates, from_json, to_json
from llmops.eval.scorers.hub import Evaluate
from llmops.eval.verdict import judge
from tests.eval.measurements import answered, measured

SCRIPT = """
import datasets
import evaluate


class {name}(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features({{"predictions": {predictions}, "references": {references}}}),
        )

    def _compute(self, predictions, references, **settings):
{body}
"""
TEXT = 'datasets.Value("string")'


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where evaluate keeps the code it runs, one place for a process; else it would be the home folder."""
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture
def metric(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a metric's folder."""
    import evaluate.config

    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(cache / "modules"))
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(cache / "values"))

    def make(name: str, body: str, *, predictions: str = TEXT, references: str = TEXT) -> str:
        folder = tmp_path / name
        folder.mkdir()
        indented = "\n".join("        " + line for line in body.splitlines())
        (folder / f"{name}.py").write_text(
            SCRIPT.format(name=name.capitalize(), predictions=predictions, references=references, body=indented)
        )
        return str(folder)

    return make


HITS = "hits = [float(p == r) for p, r in zip(predictions, references)]\n"
ANSWERS, TRUTH = ["a", "b", "b", "c", "a", "a"], ["a", "b", "c", "c", "b", "a"]


def one(scorer: Evaluate, answers: list[str], references: list[list[str]]) -> Metric:
    (found,) = scorer.measure(answered(answers, references))
    assert (found.name,) == scorer.names()
    return found


def test_a_mean_over_items_is_kept_by_item_and_has_intervals(metric: Any) -> None:
    folder = metric("same", HITS + "return {'same': sum(hits) / len(hits) * settings['scale']}")
    found = one(Evaluate(metric=folder, settings={"scale": 100}, span=100), ANSWERS, [[t] for t in TRUTH])
    assert found.name == "same"
    assert found.value() == pytest.approx(100 * 4 / 6)
    assert found.per_item.tolist() == [100.0, 100.0, 0.0, 100.0, 0.0, 100.0]
    assert found.value([2, 3]) == 50.0
    low, high = estimates([found], {"": range(6)})[""]["same"].interval(0.95)
    assert 0 <= low < found.value() < high <= 100
    assert "by:item" in found.signature


def test_one_value_per_item_is_kept_by_item_too(metric: Any) -> None:
    folder = metric("each", HITS + "return {'f1': hits, 'hashcode': 'x'}")
    found = one(Evaluate(metric=folder, field="f1"), ANSWERS, [[t] for t in TRUTH])
    assert found.per_item.tolist() == [1, 1, 0, 1, 0, 1]


MACRO = "from sklearn.metrics import f1_score\nreturn {'f1': f1_score(references, predictions, average='macro')}"


def test_what_is_no_mean_over_items_has_a_value_and_nothing_that_would_need_more(metric: Any) -> None:
    scorer = Evaluate(metric=metric("macro", MACRO), field="f1", name="macro")
    found = one(scorer, ANSWERS, [[t] for t in TRUTH])
    expected = f1_score(TRUTH, ANSWERS, average="macro")
    assert found.value() == pytest.approx(expected)
    assert math.isnan(found.value([0, 1]))
    assert "by:all" in found.signature
    assert estimates([found], {"": range(6)})[""]["macro"].interval(0.95) == (-math.inf, math.inf)


def test_whether_it_is_one_does_not_depend_on_how_good_the_model_is(metric: Any) -> None:
    """Where every answer is right a macro F1 happens to be the mean over items; it must stay comparable."""
    scorer = Evaluate(metric=metric("macro", MACRO), field="f1", name="macro")
    slices = [{"kind": "x"}] * 3 + [{"kind": "y"}] * 3
    wrong, right = (
        measured([one(scorer, answers, [[t] for t in TRUTH])], model=model, slices=slices)
        for model, answers in (("m", ANSWERS), ("n", TRUTH))
    )
    found = compare(wrong, right)
    assert [row.group for row in found.differences] == [""]
    assert found.of("macro").value == pytest.approx(1 - f1_score(TRUTH, ANSWERS, average="macro"))
    assert found.of("macro").finding == "inconclusive"
    gate = Gate.model_validate(
        {"against": "champion", "rules": [{"suite": "s", "metric": "macro", "at_least": 0.1}]},
    )
    assert judge(gate, {"s": right}, {}, name="g", against=None).result == "INCONCLUSIVE"
    sliced = Gate.model_validate(
        {"against": "champion", "rules": [{"suite": "s", "metric": "macro", "at_least": 0.1, "per_slice": True}]},
    )
    with pytest.raises(InputError, match="only known of all items together"):
        judge(sliced, {"s": right}, {}, name="g", against=None)


def test_a_metric_that_has_no_value_of_one_item_is_kept_as_it_is(metric: Any) -> None:
    folder = metric("pairs", "assert len(predictions) == 6\nreturn {'pairs': 0.25}")
    found = one(Evaluate(metric=folder), ANSWERS, [[t] for t in TRUTH])
    assert found.value() == pytest.approx(0.25)
    assert not found.by_item
    again = from_json(to_json(found), found.statistics.tolist(), found.per_item.tolist())
    assert again.value() == pytest.approx(0.25)
    assert not again.by_item


def test_a_metric_that_fails_says_why(metric: Any) -> None:
    folder = metric("picky", "return {'picky': settings['beta']}")
    with pytest.raises(InputError, match="failed: KeyError: 'beta'"):
        one(Evaluate(metric=folder), ["a"], [["a"]])


def test_a_metric_that_takes_several_references_gets_all_of_them(metric: Any) -> None:
    folder = metric(
        "any",
        "hits = [float(p in r) for p, r in zip(predictions, references)]\nreturn {'any': sum(hits) / len(hits)}",
        references='datasets.Sequence(datasets.Value("string"))',
    )
    assert one(Evaluate(metric=folder), ["a", "b"], [["x", "a"], ["c"]]).per_item.tolist() == [1.0, 0.0]


def test_a_metric_of_one_reference_is_not_given_several(metric: Any) -> None:
    folder = metric("same", HITS + "return {'same': sum(hits) / len(hits)}")
    with pytest.raises(InputError, match="takes one reference per item"):
        one(Evaluate(metric=folder), ["a"], [["a", "b"]])


def test_numbers_are_made_of_texts_where_the_metric_asks_for_numbers(metric: Any) -> None:
    whole = 'datasets.Value("int32")'
    folder = metric(
        "error",
        "far = [abs(p - r) for p, r in zip(predictions, references)]\nreturn {'mae': sum(far) / len(far)}",
        predictions=whole,
        references=whole,
    )
    scorer = Evaluate(metric=folder, better="lower")
    found = one(scorer, [" 3", "5"], [["1"], ["5"]])
    assert (found.value(), found.better) == (1.0, "lower")
    with pytest.raises(InputError, match="the answer 'three' is no int32"):
        one(scorer, ["three"], [["3"]])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "computes precision, recall"),
        ({"field": "recal"}, "computes no 'recal'; did you mean `recall`"),
        ({"field": "precision"}, "which is no number"),
    ],
)
def test_a_field_that_is_no_number_is_refused(metric: Any, settings: dict[str, Any], says: str) -> None:
    folder = metric("two", "return {'precision': 'high', 'recall': 1.0}")
    with pytest.raises(InputError, match=says):
        one(Evaluate(metric=folder, **settings), ["a"], [["a"]])


def test_a_folder_without_a_metric_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot be loaded"):
        one(Evaluate(metric=str(tmp_path / "empty")), ["a"], [["a"]])


def test_without_the_hub_an_id_is_a_fault_of_the_machine_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate.config

    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    with pytest.raises(EnvironmentFault, match="the hub cannot be reached") as fault:
        one(Evaluate(metric="no_such_metric"), ["a"], [["a"]])
    assert "local copy" in fault.value.fix
