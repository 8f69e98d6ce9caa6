"""A reward model is measured on pairs that people judged: how often the chosen answer is rewarded more, and by what."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import InputError
from llmops.eval.gates import Gate
from llmops.eval.items import Item, items_of, prompts
from llmops.eval.measured import Answered, Measured, read
from llmops.eval.reward_model import RewardModel, Rewards
from llmops.eval.run import evaluate
from llmops.eval.scorers.pairs import RewardAccuracy
from llmops.eval.suite import Suite
from llmops.eval.verdict import judge
from llmops.finetune.objective import preferred
from llmops.records import ModelSource
from llmops.stats import resampled
from llmops.workspace import Workspace

ROWS: list[dict[str, Any]] = [
    {"p": "hello", "c": "world", "r": "a number", "group": "one"},
    {"p": "hello", "c": "it is", "r": "world", "group": "one"},
    {"p": "why?", "c": "what", "r": "seven of them", "group": "two"},
]


def suite(folder: Path, rows: Sequence[dict[str, Any]] = ROWS, *scorers: str, **items: Any) -> Suite:
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"source": str(folder / "pairs.jsonl"), "prompt": "{p}", "chosen": "{c}", "rejected": "{r}", **items}
    named: list[dict[str, Any]] = [{name: {}} for name in scorers or ["reward_accuracy"]]
    return Suite.model_validate({"name": "s", "items": source, "scorers": named})


@pytest.fixture(scope="module")
def model(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("pairs") / "model"
    torch.manual_seed(4)
    AutoModelForSequenceClassification.from_pretrained(random_base, num_labels=1, dtype=torch.float32).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(random_base).save_pretrained(folder)
    return folder


def nobody(*_: Any, **__: Any) -> Any:
    raise AssertionError("no answer is needed")


def measured(one: Suite, model: Path, out: Path) -> Measured:
    rewards = Rewards(RewardModel.named(str(model), Workspace(out / "home")), out / "kept")
    source = ModelSource("m", model, None, "d")
    report = evaluate(one, items_of(one), source, generate=nobody, out=out, rewards=rewards)
    assert report.file is not None
    return read(report.file)


def by_transformers(model: Path, prompt: str, answer: str) -> float:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    ids = AutoTokenizer.from_pretrained(model).apply_chat_template(turns, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        return float(AutoModelForSequenceClassification.from_pretrained(model).eval()(**ids).logits[0, 0])


def test_accuracy_and_margin_are_those_of_transformers_pair_by_pair(model: Path, tmp_path: Path) -> None:
    found = measured(suite(tmp_path), model, tmp_path)
    margins = [by_transformers(model, row["p"], row["c"]) - by_transformers(model, row["p"], row["r"]) for row in ROWS]
    assert len(found.items) == 3, "two pairs of one prompt are two items"
    for row, item, margin in zip(ROWS, found.items, margins, strict=True):
        assert item.scores["reward_margin"] == pytest.approx(margin, abs=1e-5)
        assert item.scores["reward_accuracy"] == float(margin > 0)
        assert item.answer == (row["c"] if margin > 0 else row["r"]), "what it finds better is what it says"
    scores = {score.metric: score for score in found.scores}
    assert scores["reward_accuracy"].value == pytest.approx(sum(one > 0 for one in margins) / 3)
    assert scores["reward_margin"].value == pytest.approx(sum(margins) / 3, abs=1e-5)
    assert (found.engine["reads"], found.measures.get("latency_p95_ms")) == ("rewards", None)


REWARDS = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=30)


@given(REWARDS)
def test_ties_are_right_half_of_the_time_as_where_it_was_trained(rewards: list[tuple[float, float]]) -> None:
    items = [Answered(str(n), (), ("c",), {}, str(n), "", choices=("c", "r")) for n in range(len(rewards))]
    accuracy, margin = RewardAccuracy().weigh(items, rewards)
    chosen, rejected = (torch.tensor(side, dtype=torch.float64) for side in zip(*rewards, strict=True))
    told = preferred(chosen, rejected) / len(rewards)
    assert accuracy.value() == pytest.approx(float(told[0]))
    assert margin.value() == pytest.approx(float(told[1]), abs=1e-12)
    assert accuracy.binary == (0.5 not in accuracy.per_item)


def test_pairs_of_one_prompt_are_resampled_together(tmp_path: Path) -> None:
    rows = [{"p": f"p{n // 2}", "c": f"c{n}", "r": f"r{n}"} for n in range(40)]
    one = suite(tmp_path, rows)
    items = items_of(one)
    assert len({item.id for item in items}) == 40
    assert len({item.cluster for item in items}) == 20
    by_column = items_of(suite(tmp_path, [{**row, "g": n // 8} for n, row in enumerate(rows)], cluster="g"))
    assert len({item.cluster for item in by_column}) == 5
    rewards = {text: float(n // 2 % 4 != 0) - 0.5 for n, row in enumerate(rows) for text in [row["c"]]}

    class Stub:
        def __call__(self, asked: Any, *, prompt: str, listener: Any) -> list[float]:
            return [rewards.get(text, 0.0) for _, text in asked]

        def engine(self) -> dict[str, str]:
            return {"name": "stub"}

    source = ModelSource("m", tmp_path, None, "d")
    report = evaluate(one, items, source, generate=nobody, out=tmp_path, rewards=Stub())  # type: ignore[arg-type]
    score = next(score for score in report.scores if score.metric == "reward_accuracy")
    assert score.value == 0.75
    hits = [[rewards[row["c"]] > 0, 1.0] for row in rows]
    draws = resampled(
        np.array(hits, dtype=float), lambda sums: sums[..., 0] / sums[..., 1], [n // 2 for n in range(40)]
    )
    low, high = np.quantile(draws, [0.025, 0.975])
    assert score.low is not None
    assert score.high is not None
    assert [score.low, score.high] == pytest.approx([float(low), float(high)], abs=0.05)
    wilson = 2 * 1.96 * math.sqrt(0.75 * 0.25 / 40)
    assert score.high - score.low > wilson, "20 prompts say less than 40 pairs"
    file = report.file
    assert file is not None

    def asked(bound: float) -> str:
        rule = {"suite": "s", "metric": "reward_accuracy", "at_least": bound}
        return judge(Gate.model_validate({"rules": [rule]}), {"s": read(file)}, {}, name="g", against=None).result

    assert [asked(score.low - 0.05), asked(0.7), asked(0.99)] == ["PASS", "INCONCLUSIVE", "FAIL"]


def test_a_pair_is_read_as_an_export_has_it(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]
    row = {"p": turns, "c": [{"role": "assistant", "content": "so"}], "r": "no"}
    one = suite(tmp_path, [row])
    (item,) = items_of(one)
    assert [dict(turn) for turn in item.messages] == turns
    assert (item.references, item.choices) == (("so",), ("so", "no"))
    assert prompts(one) == ["why?"], "what must not have been trained on"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"p": "a", "c": "same", "r": "same"}, "the same"),
        ({"p": "a", "c": "x"}, "no column `r`"),
        ({"p": "a", "r": "x", "c": [{"role": "assistant", "content": n} for n in "ab"]}, "several turns"),
    ],
)
def test_what_is_no_pair_is_named(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        items_of(suite(tmp_path, [row]))


def test_a_suite_and_a_model_that_do_not_fit_are_refused(model: Path, tmp_path: Path) -> None:
    source = ModelSource("m", model, None, "d")
    reading = suite(tmp_path)
    rewards = Rewards(RewardModel.named(str(model), Workspace(tmp_path / "home")))
    for one, readers, says in (
        (reading, {}, "only its answers can be had"),
        (reading, {"likelihoods": object()}, "writes answers and rewards none"),
        (suite(tmp_path, ROWS, "multiple_choice"), {"rewards": rewards}, "is a reward model"),
        (reading.model_copy(update={"generation": reading.generation.model_copy(update={"prompt": "plain"})}),
         {"rewards": rewards}, "reads conversations"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            evaluate(one, items_of(one), source, generate=nobody, **readers)


def test_choices_that_are_all_right_tell_nothing() -> None:
    item = Item("i", (), "which?", ("a", "b"), {}, choices=("a", "b"))
    with pytest.raises(InputError, match="nothing to tell apart"):
        RewardAccuracy().check_items([item])
