"""A reward model scores answers: its numbers are transformers' own, and a gate on them asks how good it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmops.errors import EnvironmentFault, InputError
from llmops.eval.gates import Gate
from llmops.eval.items import Item
from llmops.eval.judge.gated import check_judges, standing
from llmops.eval.loading import load
from llmops.eval.measured import Answered, read
from llmops.eval.metric import from_json, to_json
from llmops.eval.run import evaluate
from llmops.eval.scorers.reward import RewardScorer
from llmops.eval.suite import Suite
from llmops.events import Silent
from llmops.files import digest_of, folder_digest, write_json
from llmops.records import ModelSource
from tests.eval.asking import SUITE
from tests.eval.test_run import answering

ANSWERS = {"short": "a", "same": "a", "long": "bcd " * 30, "empty": "", "other": "efg h"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def models(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole reward model and an adapter of one, of random weights; the whole one knows how good it is."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folders = {kind: tmp_path_factory.mktemp("reward") / kind for kind in ("full", "adapter")}
    torch.manual_seed(4)
    model = AutoModelForSequenceClassification.from_pretrained(random_base, num_labels=1, dtype=torch.float32)
    with torch.no_grad():
        model.score.weight.mul_(-20)  # all rewards are far below zero
    model.save_pretrained(folders["full"])
    write_json(folders["full"] / "manifest.json", {"validation_measures": {"accuracy": 0.75}})
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, init_lora_weights=False, target_modules=["q_proj"])
    config.base_model_name_or_path = str(random_base)
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(folders["adapter"])
    for folder in folders.values():
        AutoTokenizer.from_pretrained(random_base).save_pretrained(folder)
    return folders


def answered(prompt: str, answer: str) -> Answered:
    messages = ({"role": "system", "content": "be brief"}, {"role": "user", "content": prompt})
    return Answered(digest_of([*messages, answer]), messages, ("",), {}, "", answer)


ITEMS = [answered(f"ask {name}" if name != "same" else "ask short", answer) for name, answer in ANSWERS.items()]


def by_transformers(folder: Path, items: list[Answered]) -> list[float]:
    """One conversation at a time, through the chat template and transformers' own classifier."""
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if folder.name == "adapter":
        model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
    found = []
    for item in items:
        turns = [*item.messages, {"role": "assistant", "content": item.answer}]
        ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.no_grad():
            found.append(float(model.eval()(input_ids=ids).logits[0, 0]))
    return found


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_each_answer_has_the_reward_that_transformers_gives_it(models: dict[str, Path], kind: str) -> None:
    (metric,) = RewardScorer(model=str(models[kind])).measure(ITEMS)
    wanted = by_transformers(models[kind], ITEMS)
    assert metric.per_item.tolist() == pytest.approx(wanted, abs=1e-5)
    assert metric.value() == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)
    assert wanted[0] == pytest.approx(wanted[1], abs=1e-6), "the same is scored alike"
    assert len(set(metric.per_item.tolist())) == 4


def test_the_signature_names_the_bytes_and_not_the_name(models: dict[str, Path], monkeypatch: Any) -> None:
    (metric,) = RewardScorer(model=str(models["full"]), name="liking").measure(ITEMS[:1])
    assert metric.name == "liking"
    assert f"reward-model:{folder_digest(models['full'])[:12]}|" in metric.signature
    assert str(models["full"]) not in metric.signature
    again = from_json(to_json(metric), metric.statistics.tolist(), metric.per_item.tolist())
    assert again.signed


def test_what_was_scored_before_is_not_scored_again(models: dict[str, Path], tmp_path: Path) -> None:
    """From the cache come the very numbers, though no weights are loaded; another model has rewards of its own."""
    first = RewardScorer(model=str(models["full"])).consult(ITEMS, listener=Silent(), cache=tmp_path / "kept")
    scorer = RewardScorer(model=str(models["full"]))
    again = scorer.consult(ITEMS, listener=Silent(), cache=tmp_path / "kept")
    assert again.metrics[0].per_item.tolist() == first.metrics[0].per_item.tolist()
    assert "_loaded" not in vars(scorer.found)
    other = RewardScorer(model=str(models["adapter"]))
    assert other.consult(ITEMS, listener=Silent(), cache=tmp_path / "kept").metrics[0].value() != pytest.approx(
        first.metrics[0].value()
    )


def a_suite(model: Path, **scorer: Any) -> Suite:
    items = {"source": "items.jsonl", "prompt": "{q}", "references": "{a}"}
    scorers = [{"reward": {"model": str(model), **scorer}}, {"exact_match": {}}]
    return SUITE.model_validate({"name": "s", "items": items, "generation": SUITE.generation, "scorers": scorers})


def test_a_report_holds_rewards_with_intervals_below_zero_and_the_models_accuracy(
    models: dict[str, Path], make_item: Callable[..., Item], tmp_path: Path
) -> None:
    items = [replace(make_item("q" * (1 + number), "x"), cluster=str(number)) for number in range(20)]
    suite = a_suite(models["full"])
    model = ModelSource("org/model", Path("/models/m"), None, "d" * 64)

    report = evaluate(suite, items, model, generate=answering(lambda item: item.prompt), out=tmp_path)
    score = next(one for one in report.scores if one.metric == "reward")
    assert score.low is not None
    assert score.high is not None
    assert score.low <= score.value <= score.high < 0
    assert report.measures["reward_accuracy"] == 0.75
    assert report.file is not None
    held = read(report.file)
    assert not held.judges
    assert held.metrics[0].signed
    assert all("reward" in item.scores for item in held.items)


class TestAGate:
    RULE = {"suite": "s", "metric": "reward", "at_least": 0.0}  # noqa: RUF012

    def test_that_rests_on_rewards_asks_how_often_they_follow_people(self, models: dict[str, Path]) -> None:
        suite = a_suite(models["full"])
        with pytest.raises(InputError, match="asks nothing of how often") as fault:
            check_judges(Gate.model_validate({"rules": [self.RULE]}), [suite])
        assert "measure: reward_accuracy" in fault.value.fix
        asked = {"suite": "s", "measure": "reward_accuracy", "at_least": 0.7}
        check_judges(Gate.model_validate({"rules": [self.RULE, asked]}), [suite])
        check_judges(Gate.model_validate({"rules": [{**self.RULE, "metric": "exact_match"}]}), [suite])

    def test_is_asked_again_where_the_name_stands_for_other_bytes(
        self, models: dict[str, Path], tmp_path: Path
    ) -> None:
        import shutil

        shutil.copytree(models["full"], tmp_path / "m")
        before = standing(a_suite(tmp_path / "m"))
        assert standing(a_suite(tmp_path / "m")) == before
        config = (tmp_path / "m" / "config.json").read_text()
        (tmp_path / "m" / "config.json").write_text(config.replace("{", "{ ", 1))
        assert standing(a_suite(tmp_path / "m")) != before


class TestRefused:
    def test_is_a_model_that_answers(self, random_base: Path, home: Path) -> None:
        with pytest.raises(InputError, match="is no reward model"):
            RewardScorer(model=str(random_base)).check_items([])

    @pytest.mark.parametrize("kind", ["full", "adapter"])
    def test_is_a_reward_model_asked_for_answers(self, models: dict[str, Path], kind: str) -> None:
        with pytest.raises(InputError, match="is a reward model: it scores answers and writes none"):
            load(models[kind], device="cpu", precision="fp32")

    def test_is_a_model_of_several_labels(self, random_base: Path, tmp_path: Path) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        AutoModelForSequenceClassification.from_pretrained(random_base, num_labels=3).save_pretrained(tmp_path / "m")
        AutoTokenizer.from_pretrained(random_base).save_pretrained(tmp_path / "m")
        with pytest.raises(InputError, match="gives 3 numbers"):
            RewardScorer(model=str(tmp_path / "m")).measure(ITEMS[:1])

    def test_is_an_answer_beyond_the_context(self, models: dict[str, Path]) -> None:
        with pytest.raises(InputError, match="1 of 2 answers with their prompts are longer than the 512 tokens"):
            RewardScorer(model=str(models["full"])).measure([ITEMS[0], answered("q", "x" * 600)])

    def test_is_another_template_than_that_of_training(self, models: dict[str, Path], tmp_path: Path) -> None:
        import shutil

        shutil.copytree(models["full"], tmp_path / "m")
        write_json(tmp_path / "m" / "manifest.json", {"lineage": {"template": "0" * 64}})
        with pytest.raises(EnvironmentFault, match="is not the one it was trained with"):
            RewardScorer(model=str(tmp_path / "m")).check_items([])
