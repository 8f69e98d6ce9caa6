"""`method: {kind: grpo}` is a run as any other: rewarded by our scorers, recorded, judged and registered."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from llmops.errors import EnvironmentFault, InputError, Interrupted
from llmops.files import folder_digest
from llmops.finetune.grpo import answers_with, read_prompts, reinforce, updates_of
from llmops.finetune.job import read_steps
from llmops.finetune.method import Grpo
from llmops.finetune.recipe import Recipe
from llmops.lifecycle.loop import Result, finetune
from llmops.lifecycle.rewards import check_rewards, rewards_digest, rewards_of
from tests.finetune.small_runs import ALONE
from tests.lifecycle.sites import Site
from tests.lifecycle.small_recipes import ROWS
from tests.listener import Heard

UPDATES = 3
ROUGE = {"scorer": {"rouge": {"variants": ["rougeL"]}}}


def a_method(*rewards: dict[str, Any], **settings: Any) -> Grpo:
    return Grpo.model_validate({"kind": "grpo", "rewards": list(rewards) or [ROUGE], **settings})


def a_recipe(site: Site, **changes: Any) -> Recipe:
    return site.recipe(
        **{
            "method": {"kind": "grpo", "rewards": [{"scorer": {"chrf": {}}}], "generations": 4, "max_tokens": 16},
            "adapter": {"kind": "lora", "rank": 8},
            "batch": {"sequences": 16, "per_device": 8, "max_length": 64},
            "optimizer": {"learning_rate": 2e-3},
            "schedule": {"steps": UPDATES},
            "checkpoints": {},
            **changes,
        }
    )


@dataclass(frozen=True)
class Ended:
    site: Site
    recipe: Recipe
    result: Result
    heard: Heard


@pytest.fixture(scope="module")
def ended(make_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """One run, of random weights that chance upon some letters; tests only look at it."""
    site = make_site(tmp_path_factory.mktemp("grpo"))
    recipe = a_recipe(site)
    heard = Heard()
    return Ended(site, recipe, site.run(recipe, heard=heard), heard)


class TestARun:
    def test_tells_the_reward_of_every_update(self, ended: Ended) -> None:
        steps = ended.heard.steps
        assert [step.index for step in steps] == list(range(1, UPDATES + 1))
        assert ended.heard.totals == {UPDATES}
        for step in steps:
            assert 0 < step.measures["reward"] < 100
            assert step.measures["reward_deviation"] > 0
            assert 0 < step.measures["answer_tokens"] <= 16
            assert step.tokens > step.trained_tokens > 0
            assert math.isfinite(step.loss)
        assert list(read_steps(ended.result.finished.folder)) == steps

    def test_leaves_manifest_artifact_and_version_as_any_other(self, ended: Ended) -> None:
        finished = ended.result.finished
        assert (finished.manifest.kind, finished.manifest.steps) == ("adapter", UPDATES)
        assert finished.manifest.artifact_digest == folder_digest(finished.artifact)
        assert set(finished.manifest.validation_measures) == {"reward", "reward_before"}
        assert ended.result.version is not None
        assert len(ended.result.reports) == 2
        assert not list(finished.folder.glob("trl"))
        weights = load_file(finished.artifact / "adapter_model.safetensors")
        assert any(bool(one.any()) for name, one in weights.items() if "lora_B" in name)

    def test_answers_at_once_when_asked_again_and_is_another_run_with_other_rewards(self, ended: Ended) -> None:
        again = ended.site.run(ended.recipe)
        assert again.finished.cached
        method: Any = ended.recipe.method
        assert ended.result.finished.manifest.identity["rewards"] == rewards_digest(method)
        assert rewards_digest(a_method({"scorer": {"chrf": {"lowercase": True}}})) != rewards_digest(method)

    def test_asks_the_prompts_of_the_rows_that_were_kept_with_their_answers_as_references(self, ended: Ended) -> None:
        folder = ended.result.finished.folder
        train, held_out = read_prompts(folder, "train"), read_prompts(folder, "validation")
        assert len(train) + len(held_out) == len(ROWS)
        for prompt in train:
            assert [turn["role"] for turn in prompt["messages"]] == ["user"]
            assert all(isinstance(one, str) and one for one in prompt["references"])

    def test_keeps_the_bases_configuration(self, ended: Ended) -> None:
        """What the trainer notes for itself in a model's configuration does not reach the artifact."""
        artifact = ended.result.finished.artifact
        own, base = (json.loads((one / "generation_config.json").read_text()) for one in (artifact, ended.site.base))
        assert own == base

    def test_that_is_asked_to_stop_leaves_no_artifact_and_says_that_it_begins_anew(
        self, ended: Ended, tmp_path: Path
    ) -> None:
        for file in ended.result.finished.folder.glob("*.json*"):
            if file.name == "job.json" or file.name.startswith("prompts-"):
                shutil.copy(file, tmp_path)
        method: Any = ended.recipe.method
        with pytest.raises(Interrupted, match="after update 1 of 3") as stopped:
            reinforce(tmp_path, rewards_of(method), ALONE, stop=lambda: 15)
        assert stopped.value.exit_code == 143
        assert "begins anew" in stopped.value.fix
        assert not (tmp_path / "artifact").exists()

    def test_of_several_processes_is_refused_before_anything_is_read(self, ended: Ended) -> None:
        with pytest.raises(InputError, match="method grpo runs in one process, and 2 are asked for"):
            finetune(
                a_recipe(ended.site, batch={"sequences": 8, "per_device": 4}),
                workspace=ended.site.workspace,
                out=None,
                gpus=2,
                resume=False,
                listener=Heard(),
            )

    def test_without_trl_says_what_to_install(self, ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "trl", None)
        with pytest.raises(EnvironmentFault, match="needs the package trl") as missing:
            ended.site.run(ended.recipe)
        assert missing.value.fix == "run `pip install 'llmops[grpo]'`"


class TestRewards:
    ROWS = (
        {"messages": [{"role": "user", "content": "?"}], "references": ["one two three", "four"]},
        {"messages": [{"role": "user", "content": "?"}], "references": ["one two three"]},
    )

    def test_are_what_the_scorer_says_of_each_answer_alone(self) -> None:
        squad = {"scorer": {"squad_f1": {}}, "metric": "squad_f1", "weight": 2.0}
        exact, f1 = rewards_of(a_method({"scorer": {"exact_match": {}}}, squad))
        assert (exact.name, exact.weight, f1.name, f1.weight) == ("exact_match", 1.0, "squad_f1", 2.0)
        assert exact.score(self.ROWS, ["four", "four"]) == [1.0, 0.0]
        # Two of two words are among three: precision 1, recall 2/3.
        assert f1.score(self.ROWS, ["one two", "three four"]) == pytest.approx([0.8, 0.4])

    def test_two_of_one_metric_have_names_of_their_own(self) -> None:
        twice = a_method({"scorer": {"exact_match": {}}}, {"scorer": {"exact_match": {"lowercase": True}}})
        assert [name for name, *_ in check_rewards(twice)] == ["exact_match", "exact_match_2"]

    def test_count_negatively_where_lower_is_better(self) -> None:
        (found,) = rewards_of(a_method({"scorer": {"ter": {}}}))
        assert found.score(self.ROWS, ["one two three", "x"])[0] == 0.0
        assert found.score(self.ROWS, ["one two three", "x"])[1] < 0

    def test_may_be_a_reward_model_whose_bytes_are_part_of_the_run(
        self, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
        method = a_method({"scorer": {"reward": {"model": str(tmp_path / "judge")}}})
        with pytest.raises(InputError, match="there is no folder"):
            rewards_of(method)
        digests = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = AutoModelForSequenceClassification.from_pretrained(random_base, num_labels=1, dtype=torch.float32)
            model.save_pretrained(tmp_path / "judge")
            AutoTokenizer.from_pretrained(random_base).save_pretrained(tmp_path / "judge")
            (found,) = rewards_of(method)
            values = found.score(self.ROWS, ["one", "another answer"])
            assert values[0] != values[1]
            digests.append(rewards_digest(method))
        assert digests[0] != digests[1]

    @pytest.mark.parametrize(
        ("reward", "problem"),
        [
            pytest.param({"scorer": {"bluu": {}}}, "no scorer is called 'bluu'; did you mean `bleu`?", id="unknown"),
            pytest.param({"scorer": {"bleu": {"lower": True}}}, "method.rewards.0.scorer.bleu.lower", id="settings"),
            pytest.param({"scorer": {"squad_f1": {}}}, "this scorer has several metrics", id="several metrics"),
            pytest.param({"scorer": {"bleu": {}}, "metric": "blue"}, "no metric 'blue'", id="unknown metric"),
            pytest.param(
                {"scorer": {"perplexity": {}}, "metric": "perplexity"},
                "the model itself look at texts",
                id="likelihood",
            ),
        ],
    )
    def test_that_cannot_be_are_refused_with_their_key(self, reward: dict[str, Any], problem: str) -> None:
        with pytest.raises(InputError) as refused:
            check_rewards(a_method(reward))
        assert problem in refused.value.problem
        assert "method.rewards.0" in refused.value.problem


@given(
    prompts=st.integers(1, 500),
    groups=st.integers(1, 16),
    generations=st.integers(2, 8),
    iterations=st.integers(1, 3),
    epochs=st.sampled_from([1.0, 2.0, 0.5]),
)
def test_an_epoch_asks_every_prompt_once(
    prompts: int, groups: int, generations: int, iterations: int, epochs: float
) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "a",
            "base": "b",
            "data": {"train": [{"source": "s", "prompt": "{p}", "completion": "{c}"}]},
            "method": a_method(generations=generations, iterations=iterations),
            "batch": {"sequences": groups * generations, "per_device": generations},
            "schedule": {"epochs": epochs},
        }
    )
    updates = updates_of(recipe, prompts)
    assert updates % iterations == 0
    asked = updates // iterations * groups
    assert epochs * prompts <= asked < epochs * prompts + groups


def test_vllm_answers_only_where_a_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answers_with(a_method(), "cpu") == (False, "transformers: there is no GPU")
    assert answers_with(a_method(), "cuda")[0]
    assert answers_with(a_method(generate="transformers"), "cuda") == (False, "transformers, as the recipe says")
    with pytest.raises(EnvironmentFault, match=r"method\.generate is vllm, but there is no GPU"):
        answers_with(a_method(generate="vllm"), "cpu")
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert answers_with(a_method(), "cuda") == (False, "transformers: vllm is not installed")
