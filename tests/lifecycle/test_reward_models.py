"""`finetune` with method reward: from exported feedback to a registered version that judges, and does nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmops.cli.finetune import _plain, _print
from llmops.cli.models import list_models, show
from llmops.config import load
from llmops.data.formats import rows
from llmops.data.section import PreferenceRows
from llmops.errors import InputError, LlmopsError
from llmops.eval.gates import Gate
from llmops.eval.items import items_of
from llmops.eval.scorers.reward import RewardScorer
from llmops.eval.suite import Suite
from llmops.events import Silent
from llmops.feedback.export import export
from llmops.feedback.export_files import write
from llmops.finetune.merge import merge
from llmops.finetune.method import Grpo
from llmops.finetune.run import check_base
from llmops.lifecycle.gate import Judged, kept, verdict_on
from llmops.lifecycle.loop import Result
from llmops.lifecycle.measure import loaded, located, measure
from llmops.lifecycle.rewards import rewards_digest, rewards_of
from llmops.records import ModelSource, Row
from llmops.registry.admission import admit
from llmops.registry.promote import approve
from tests.eval.scorers.test_reward import answered
from tests.feedback.rated_items import PAIRWISE, item, pair, said
from tests.finetune.small_preferences import PAIRS, some_pairs
from tests.lifecycle.sites import Site
from tests.lifecycle.test_preferences import export_of
from tests.listener import Heard

WITH_MARGIN = {**PAIRS, "margin": "margin"}


@pytest.fixture(scope="module")
def site(make_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("rewards"))


@pytest.fixture(scope="module")
def rewarded(site: Site) -> Result:
    source = {**WITH_MARGIN, "source": str(export_of("reward", site.folder / "reward.jsonl"))}
    recipe = site.recipe(
        name="small-reward",
        data={"train": [source], "validation": 0.2, "checks": {"near_duplicates": "keep"}},
        method={"kind": "reward", "margin": 0.5, "centering": 0.01},
        adapter={"kind": "lora", "rank": 8},
        optimizer={"learning_rate": 5e-3},
        schedule={"epochs": 4},
        evaluate=None,
    )
    return site.run(recipe, heard=Heard())


def test_the_run_its_card_and_its_version_say_what_it_is_and_how_good(rewarded: Result, site: Site) -> None:
    manifest = rewarded.finished.manifest
    told = manifest.validation_measures
    assert told.keys() == {"accuracy", "margin", "chosen_reward", "rejected_reward", "mean_reward"}
    assert told["accuracy"] >= 0.8, "12 pairs by chance: 0.5, and 0.8 or more with probability 0.02"
    assert (manifest.kind, manifest.loss_unit) == ("adapter", "nats per pair")
    assert manifest.identity["recipe"]["method"]["kind"] == "reward"
    card = (rewarded.finished.artifact / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "A reward model, which gives answers a number: a LoRA adapter for" in card
    assert f"| validation accuracy | {told['accuracy']:.4f} |" in card
    bom = json.loads((rewarded.finished.artifact / "bom.cdx.json").read_text())
    assert "text-classification" in json.dumps(bom)
    assert rewarded.version is not None
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{site.workspace.home / 'mlflow.db'}")
    (version,) = client.search_model_versions("name='small-reward'")
    assert str(version.description).startswith("reward model, adapter from ")


def test_its_version_scores_answers_of_a_suite(rewarded: Result, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vowels were preferred to consonants."""
    assert rewarded.version is not None
    monkeypatch.setenv("LLMOPS_HOME", str(site.workspace.home))
    scorer = RewardScorer(model=rewarded.version.reference)
    said_of = scorer.consult([answered("ab", "aeiou" * 3), answered("ab", "bcdfg" * 3)], listener=Silent(), cache=None)
    (metric,) = said_of.metrics
    assert metric.per_item[0] > metric.per_item[1]
    assert said_of.measures == {"reward_accuracy": rewarded.finished.manifest.validation_measures["accuracy"]}
    assert rewarded.finished.manifest.artifact_digest[:12] in metric.signature


def test_the_command_and_the_registry_show_it_where_scores_stand(
    rewarded: Result, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version, told = rewarded.version, rewarded.finished.manifest.validation_measures
    assert version is not None
    assert version.scores == {f"held-out.{name}": value for name, value in told.items()}
    _print(rewarded)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["on", "held-out", "rows", "small-reward"] in lines
    assert ["accuracy", f"{told['accuracy']:.4f}"] in lines
    assert lines[-1][:4] == ["next:", "llmops", "eval", version.reference]
    assert _plain(rewarded)["held_out"] == {
        "loss": rewarded.finished.manifest.validation_loss, "loss_unit": "nats per pair", **told
    }  # fmt: skip
    monkeypatch.setenv("LLMOPS_HOME", str(site.workspace.home))
    monkeypatch.setenv("COLUMNS", "400")
    show(version.name, as_json=False)
    list_models(as_json=False)
    shown = capsys.readouterr().out
    assert shown.count(f"held-out.accuracy {told['accuracy']:.4g}") == 2


def pairs_suite(site: Site) -> Suite:
    """Pairs that the run has not seen, two of each prompt."""
    rows = some_pairs(40, 99)
    lines = [
        {**row.content, "prompt": rows[number // 2].content["messages"][0]["content"]}
        for number, row in enumerate(rows)
    ]
    file = site.folder / "held-out.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    items = {"source": str(file), "prompt": "{prompt}", "chosen": "{chosen}", "rejected": "{rejected}"}
    return Suite.model_validate({"name": "pairs", "items": items, "scorers": [{"reward_accuracy": {}}]})


def test_a_gate_on_pairs_it_has_not_seen_lets_it_be_approved(rewarded: Result, site: Site, tmp_path: Path) -> None:
    """By `llmops eval VERSION SUITE --gate GATE`, as any other model: nobody has to override anything."""
    version = rewarded.version
    assert version is not None
    with pytest.raises(LlmopsError, match="was never judged by a gate"):
        approve(version, "ann", workspace=site.workspace)
    suite = pairs_suite(site)
    asked = [(suite, items_of(suite))]
    subject = loaded(version.reference, site.workspace, Silent())
    found = measure(subject, asked, folder=tmp_path, listener=Silent())
    gate = Gate.model_validate({"rules": [{"suite": "pairs", "metric": "reward_accuracy", "at_least": 0.6}]})
    judged = Judged(None, subject.source, subject.source, asked)
    verdict = verdict_on(
        gate, judged, found, {}, named="g.yaml", against=None, workspace=site.workspace, listener=Silent()
    )
    assert verdict.result == "PASS"
    score = next(one for one in found["pairs"].scores if one.metric == "reward_accuracy")
    assert score.low is not None
    assert 0.6 <= score.low <= score.value
    assert len(set(found["pairs"].clusters)) == 20
    assert kept(verdict, version.reference, workspace=site.workspace)
    assert approve(version, "ann", workspace=site.workspace).verdict == verdict.digest


def test_it_answers_no_suite_that_wants_answers_and_no_task(rewarded: Result, site: Site, tmp_path: Path) -> None:
    subject = loaded(str(rewarded.finished.artifact), site.workspace, Silent())
    suite = load(site.folder / "suite.yaml", Suite, what="suite")
    for asked, tasks in (([(suite, items_of(suite))], []), ([], ["gsm8k"])):
        with pytest.raises(InputError, match="is a reward model: it scores answers and writes none"):
            measure(subject, asked, folder=tmp_path, listener=Silent(), tasks=tasks)


def test_its_rewards_can_be_learned_from_and_another_model_makes_another_run(
    rewarded: Result, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOPS_HOME", str(site.workspace.home))

    def method(model: Path) -> Grpo:
        return Grpo.model_validate({"kind": "grpo", "rewards": [{"scorer": {"reward": {"model": str(model)}}}]})

    artifact = rewarded.finished.artifact
    (reward,) = rewards_of(method(artifact))
    asked = {"messages": [{"role": "user", "content": "ab"}], "references": ["?"]}
    good, bad = reward.score([asked, asked], ["aeiou" * 3, "bcdfg" * 3])
    assert good > bad
    shutil.copytree(artifact, tmp_path / "m")
    before = rewards_digest(method(tmp_path / "m"))
    assert rewards_digest(method(tmp_path / "m")) == before
    config = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    (tmp_path / "m" / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 1}))
    assert rewards_digest(method(tmp_path / "m")) != before


class TestWhereAnswersAreWanted:
    """It is refused by its name, with what it is for."""

    def test_serving(self, rewarded: Result, site: Site) -> None:
        assert rewarded.version is not None
        with pytest.raises(InputError, match=f"{rewarded.version.reference} is a reward model") as refused:
            admit(rewarded.version.reference, require="none", workspace=site.workspace)
        assert "under the scorers of a suite" in refused.value.fix

    def test_evaluation_and_batches(self, rewarded: Result, site: Site) -> None:
        with pytest.raises(InputError, match="is a reward model"):
            located(str(rewarded.finished.artifact), site.workspace, Silent())

    def test_merging(self, rewarded: Result, site: Site, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a reward model, and those are not merged"):
            merge(rewarded.finished.artifact, base=site.base, out=tmp_path / "merged", dtype=None)

    def test_a_base_to_go_on_from(self, site: Site, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForSequenceClassification"]}))
        with pytest.raises(InputError, match="is a reward model"):
            check_base(site.recipe(), ModelSource("m", tmp_path, None, "0" * 64), world=1)


def test_an_export_for_reward_loads_with_its_margins(tmp_path: Path) -> None:
    """As `recipes/reward-from-feedback.yaml` names its columns."""
    items = [item(said(pair(2)), said(pair(1)), answers=[f"good {n}", f"bad {n}"]) for n in range(6)]
    made, exported = export([rating for one in items for rating in one.ratings], items, "reward", PAIRWISE)
    write(tmp_path / "export", made, exported, campaign={"name": "c"}, file_format="jsonl")
    file = tmp_path / "export" / "train.jsonl"
    spec = PreferenceRows(**{**WITH_MARGIN, "source": str(file)})
    loaded = list(rows(spec))
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(loaded) == 6
    for row, line in zip(loaded, written, strict=True):
        assert isinstance(row, Row)
        assert row.content["margin"] == line["margin"] > 0
        assert row.content["chosen"] == line["chosen"][0]["content"]


@pytest.mark.parametrize("margin", ["much", -1, None, True, float("inf")], ids=repr)
def test_a_margin_that_is_none_costs_the_row(margin: Any) -> None:
    columns = {"prompt": "p", "chosen": "c", "rejected": "r", "margin": margin}
    spec = PreferenceRows(**WITH_MARGIN)
    (found,) = rows(spec, [(1, columns)])
    assert not isinstance(found, Row)
    assert "margin" in found.reason
