"""`finetune` does everything a recipe says, once: what it leaves is complete, and asked again it answers at once."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from llmops.config import load
from llmops.errors import InputError
from llmops.files import digest_of, folder_digest
from llmops.finetune.job import read_steps
from llmops.finetune.recipe import Recipe
from llmops.finetune.tokens import TokenStore
from llmops.lifecycle.loop import Result
from llmops.records import RunManifest, Step
from llmops.registry.store import versions
from tests.finetune.small_models import TEMPLATE, make_random_base
from tests.lifecycle.sites import Site
from tests.lifecycle.small_recipes import ROWS, write_rows
from tests.listener import Heard

# One worker, so that what all of them look at is trained once.
pytestmark = pytest.mark.xdist_group("loop")

# Rows that are not trained on: the same as the first, without an answer, longer than `max_length`.
BAD_ROWS = [ROWS[0], {"question": "what?", "answer": ""}, {"question": "long?", "answer": "x" * 100}]


@dataclass(frozen=True)
class Ended:
    """A run that went well, with what it said on the way."""

    site: Site
    recipe: Recipe
    result: Result
    heard: Heard

    @property
    def folder(self) -> Path:
        return self.result.finished.folder

    @property
    def manifest(self) -> RunManifest:
        return self.result.finished.manifest


@pytest.fixture(scope="module")
def ended(make_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """One run of full fine-tuning over rows some of which are bad; tests only look at it."""
    site = make_site(tmp_path_factory.mktemp("ended"))
    write_rows(site.folder / "rows.jsonl", [*ROWS, *BAD_ROWS[:2]])
    write_rows(site.folder / "train.jsonl", [*ROWS, *BAD_ROWS])
    recipe = site.recipe(
        data={
            "train": [
                {"source": f"{site.folder}/train.jsonl", "prompt": "{question}", "completion": "{answer}"},
            ],
            "validation": 0.2,
        },
    )
    write_rows(site.folder / "rows.jsonl")
    heard = Heard()
    return Ended(site, recipe, site.run(recipe, heard=heard), heard)


def stores_of(site: Site) -> tuple[TokenStore, TokenStore]:
    (folder,) = (site.workspace.cache / "tokens").iterdir()
    return TokenStore.open(folder / "train.safetensors"), TokenStore.open(folder / "validation.safetensors")


class TestARunLeaves:
    def test_an_artifact_that_transformers_loads_as_it_stands(self, ended: Ended) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        artifact = ended.folder / "artifact"
        model = AutoModelForCausalLM.from_pretrained(artifact, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(artifact, local_files_only=True)
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": "what is 3?"}], add_generation_prompt=True, return_tensors="pt"
        )
        assert model.generate(**asked, max_new_tokens=3, do_sample=False).shape[1] > asked["input_ids"].shape[1]
        before = load_file(ended.site.base / "model.safetensors")
        after = load_file(artifact / "model.safetensors")
        assert before.keys() == after.keys()
        assert all(before[name].dtype == after[name].dtype for name in before)
        assert any(not torch.equal(before[name], after[name]) for name in before)

    def test_a_manifest_in_the_folder_and_beside_the_artifact(self, ended: Ended) -> None:
        written = json.loads((ended.folder / "manifest.json").read_text())
        assert written == json.loads((ended.folder / "artifact" / "manifest.json").read_text())
        assert written == json.loads(json.dumps(asdict(ended.manifest)))
        assert ended.manifest.digest == digest_of(ended.manifest.identity)
        assert ended.folder.name == f"small-{ended.manifest.digest[:12]}"
        assert ended.manifest.artifact_digest == folder_digest(ended.folder / "artifact")
        assert ended.manifest.kind == "full"
        # The bytes of the base, not only its name.
        assert ended.manifest.lineage["base_digest"] == folder_digest(ended.site.base)
        assert ended.manifest.lineage["base"] == str(ended.site.base)
        (source,) = ended.manifest.lineage["sources"]
        assert source["source"].endswith("train.jsonl")
        assert source["rows"] == len(ROWS) + len(BAD_ROWS)

    def test_predicted_and_measured_under_the_same_keys(self, ended: Ended) -> None:
        assert ended.manifest.predicted.keys() == ended.manifest.measured.keys()
        assert ended.manifest.predicted.keys() == {"peak_bytes", "seconds", "tokens_per_s"}
        assert all(value > 0 for value in (*ended.manifest.predicted.values(), *ended.manifest.measured.values()))
        assert ended.manifest.tokens_per_s == pytest.approx(ended.manifest.tokens / ended.manifest.measured["seconds"])

    def test_the_tokens_of_one_epoch_counted_once(self, ended: Ended) -> None:
        train, _ = stores_of(ended.site)
        assert ended.manifest.tokens == train.lengths.sum()
        assert ended.manifest.trained_tokens == train.trained_counts.sum()
        assert ended.manifest.steps == -(-len(train) // 8)

    def test_every_row_that_was_dropped_with_its_reason(self, ended: Ended) -> None:
        dropped = [json.loads(line) for line in (ended.folder / "dropped.jsonl").read_text().splitlines()]
        reasons = {one["line"]: (one["check"], one["reason"]) for one in dropped}
        first = len(ROWS) + 1
        assert reasons.keys() == {first, first + 1, first + 2}
        assert reasons[first] == ("duplicates", "the same as line 1")
        assert reasons[first + 1] == ("unusable rows", "the completion is empty")
        assert reasons[first + 2][0] == "longer than max_length"

    def test_the_recipe_with_every_default_filled_in(self, ended: Ended) -> None:
        text = (ended.folder / "recipe.json").read_text()
        assert Recipe.model_validate_json(text) == ended.recipe
        resolved = json.loads(text)
        assert resolved["optimizer"]["betas"] == [0.9, 0.999]
        assert resolved["data"]["checks"]["similarity"] == 0.9
        assert resolved["adapter"] == {"kind": "none", "freeze": {"embeddings": False, "layers": None}}

    def test_a_mask_report_with_five_samples(self, ended: Ended) -> None:
        report = json.loads((ended.folder / "mask.json").read_text())
        train, _ = stores_of(ended.site)
        assert report["rows"] == len(train)
        assert (report["tokens"], report["trained_tokens"]) == (train.lengths.sum(), train.trained_counts.sum())
        assert report["lost_too_long"] == 1
        assert len(report["samples"]) == 5
        for sample in report["samples"]:
            # The whole answer with its end of turn is trained, and nothing before it.
            prompt, answer = sample.split("⟦")
            assert prompt.endswith("<|assistant|>")
            assert answer.startswith("it is ")
            assert answer.endswith("<|end|>⟧")

    def test_every_update_in_order(self, ended: Ended) -> None:
        steps = list(read_steps(ended.folder))
        assert steps == ended.heard.steps
        assert [step.index for step in steps] == list(range(1, ended.manifest.steps + 1))
        assert ended.heard.totals == {ended.manifest.steps}
        assert steps[-1].validation_loss == ended.manifest.validation_loss

    def test_reports_of_base_and_tuned_model(self, ended: Ended) -> None:
        base, tuned = ended.result.reports
        assert (base.model, tuned.model) == (str(ended.site.base), "small")
        assert base.suite_digest == tuned.suite_digest
        assert tuned.model_digest == ended.manifest.artifact_digest
        assert [score.metric for score in tuned.scores] == ["bleu", "exact_match"]
        for report in (base, tuned):
            assert report.file is not None
            assert report.file.parent == ended.folder / "report"
            assert len(json.loads(report.file.read_text())["items"]) == 4
        (page,) = (ended.folder / "report").glob("compare-*.html")
        assert page.name.endswith(f"-{base.digest[:12]}-{tuned.digest[:12]}.html")

    def test_plots_a_card_and_the_newest_checkpoint(self, ended: Ended) -> None:
        pictures = {path.name for path in (ended.folder / "report").glob("*.png")}
        assert pictures == {"loss.png", "learning_rate.png", "gradient_norm.png", "lengths.png"}
        assert "# small" in (ended.folder / "artifact" / "README.md").read_text()
        checkpoints = sorted(path.name for path in (ended.folder / "checkpoints").iterdir())
        assert checkpoints == ["best", "update-00000004", "update-00000005"]

    def test_no_pickle_anywhere(self, ended: Ended) -> None:
        endings = {path.suffix for path in ended.folder.rglob("*") if path.is_file() and path.stat().st_size}
        assert endings <= {".json", ".jsonl", ".safetensors", ".png", ".md", ".jinja", ".html"}

    def test_lines_with_the_reason_of_what_was_chosen(self, ended: Ended) -> None:
        said = "\n".join(ended.heard.lines)
        for words in (
            "data: duplicates: 1 rows dropped",
            "1 rows lost while encoding",
            "device: CPU, 1 threads",
            "attention: sdpa: ",
            "liger: off: ",
            "plan: 5 updates",
        ):
            assert words in said


@pytest.fixture(scope="module")
def record(ended: Ended) -> Any:
    """A client of MLflow, and what it holds of the run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=ended.site.workspace.tracking_uri)
    run_id = json.loads((ended.folder / "mlflow.json").read_text())["run_id"]
    return client, client.get_run(run_id)


class TestMlflowHolds:
    def test_its_name_is_that_of_the_folder_the_experiment_and_the_model(
        self, make_site: Callable[[Path], Site], tmp_path: Path
    ) -> None:
        from mlflow import MlflowClient

        site = make_site(tmp_path)
        done = site.run(site.recipe(name="another", evaluate=None))
        assert done.version is not None
        assert done.version.reference == "models:/another/1"
        assert done.finished.folder.name.startswith("another-")
        assert done.finished.manifest.name == "another"
        client = MlflowClient(tracking_uri=site.workspace.tracking_uri)
        run_id = json.loads((done.finished.folder / "mlflow.json").read_text())["run_id"]
        run = client.get_run(run_id)
        assert run.info.run_name == done.finished.folder.name
        assert client.get_experiment(run.info.experiment_id).name == "another"

    def test_the_recipes_values(self, ended: Ended, record: Any) -> None:
        _, run = record
        assert run.info.status == "FINISHED"
        assert run.data.tags["llmops.run_digest"] == ended.manifest.digest
        assert run.data.params["optimizer.learning_rate"] == "0.001"
        assert run.data.params["adapter.kind"] == "none"
        assert run.data.params["base"] == str(ended.site.base)

    @pytest.mark.parametrize(
        ("metric", "value"),
        [
            ("loss", lambda step: step.loss),
            ("gradient_norm", lambda step: step.grad_norm),
            ("learning_rate", lambda step: step.learning_rate),
            ("tokens_per_s", lambda step: step.tokens / step.seconds),
            ("peak_bytes", lambda step: step.peak_bytes),
            ("epoch", lambda step: step.epoch),
        ],
    )
    def test_a_metric_of_every_update(
        self, ended: Ended, record: Any, metric: str, value: Callable[[Step], float]
    ) -> None:
        client, run = record
        history = {one.step: one.value for one in client.get_metric_history(run.info.run_id, metric)}
        assert history == pytest.approx({step.index: value(step) for step in ended.heard.steps})

    def test_held_out_loss_and_scores(self, ended: Ended, record: Any) -> None:
        _, run = record
        assert run.data.metrics["validation_loss"] == pytest.approx(ended.manifest.validation_loss)
        scores = {f"small.{score.metric}": score.value for score in ended.result.reports[1].scores}
        assert {name: run.data.metrics[name] for name in scores} == pytest.approx(scores)

    def test_manifest_reports_and_plots(self, ended: Ended, record: Any) -> None:
        client, run = record
        names = {
            one.path for under in ("", "reports", "plots") for one in client.list_artifacts(run.info.run_id, under)
        }
        assert names >= {"manifest.json", "reports/mask.json", "reports/data.json"}
        assert {f"plots/{name}.png" for name in ("loss", "learning_rate", "gradient_norm", "lengths")} <= names

    def test_a_version_of_the_model_with_its_manifest(self, ended: Ended, record: Any) -> None:
        _, run = record
        (version,) = versions("small", workspace=ended.site.workspace)
        assert version == ended.result.version
        assert ended.result.fault is None
        assert version.digest == ended.manifest.artifact_digest
        assert version.run_id == run.info.run_id
        assert version.tags["llmops.run"] == ended.manifest.digest
        assert version.scores == {f"small.{score.metric}": score.value for score in ended.result.reports[1].scores}
        held = Path(version.source.removeprefix("file://"))
        assert json.loads((held / "manifest.json").read_text())["digest"] == ended.manifest.digest


class TestTheSameRecipeAgain:
    def test_is_answered_in_one_line_without_training(self, ended: Ended) -> None:
        artifact = ended.folder / "artifact" / "model.safetensors"
        before = artifact.stat().st_mtime_ns
        heard, began = Heard(), time.process_time()
        again = ended.site.run(ended.recipe, heard=heard)
        assert time.process_time() - began < 2
        assert again.finished.cached
        assert heard.lines == [f"this recipe was trained before, with the same data and base: {ended.folder}"]
        assert heard.steps == []
        assert artifact.stat().st_mtime_ns == before
        assert again.version == ended.result.version
        assert again.reports == ended.result.reports

    def test_from_another_folder_written_another_way_too(self, ended: Ended, tmp_path: Path) -> None:
        """Defaults written out, keys in another order: the same resolved recipe."""
        path = tmp_path / "other.yaml"
        path.write_text(yaml.safe_dump(ended.recipe.model_dump(mode="json"), sort_keys=True))
        assert ended.site.run(load(path, Recipe, what="recipe")).finished.cached

    def test_with_a_new_suite_only_measures(self, make_site: Callable[[Path], Site], tmp_path: Path) -> None:
        site = make_site(tmp_path)
        first = site.run(site.recipe())
        text = (site.folder / "suite.yaml").read_text()
        (site.folder / "suite.yaml").write_text(text.replace("limit: 4", "limit: 3"))
        second = site.run(site.recipe())
        assert second.finished.cached
        assert [report.items for report in first.reports] == [4, 4]
        assert [report.items for report in second.reports] == [3, 3]

    def test_with_a_damaged_artifact_makes_it_again(self, site: Site) -> None:
        recipe = site.recipe(evaluate=None)
        first = site.run(recipe).finished
        with (first.artifact / "model.safetensors").open("r+b") as file:
            file.seek(5000)
            file.write(b"\0" * 50)
        heard = Heard()
        again = site.run(recipe, heard=heard).finished
        assert not again.cached
        assert folder_digest(again.artifact) == first.manifest.artifact_digest
        assert again.manifest.artifact_digest == first.manifest.artifact_digest
        # What the last checkpoint holds is not trained again.
        assert heard.steps == []


@pytest.fixture(scope="module")
def claimed(make_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site whose folder `out` holds a finished run."""
    site = make_site(tmp_path_factory.mktemp("claimed"))
    site.run(site.recipe(evaluate=None), out=site.folder / "out")
    return site


class TestAnythingElse:
    """A changed recipe, row, base or template is another run."""

    def changed(self, site: Site, what: str) -> Recipe:
        match what:
            case "recipe":
                return site.recipe(seed=6, evaluate=None)
            case "rows":
                write_rows(site.folder / "rows.jsonl", [{**ROWS[0], "answer": "it is 99"}, *ROWS[1:]])
            case "base":
                make_random_base(site.folder / "other", hidden=32)
                return site.recipe(base=str(site.folder / "other"), evaluate=None)
            case "template":
                other = shutil.copytree(site.base, site.folder / "other")
                (other / "chat_template.jinja").write_text(TEMPLATE.replace("<|end|>", "<|end|>\n"))
                return site.recipe(base=str(other), evaluate=None)
        return site.recipe(evaluate=None)

    @pytest.mark.parametrize(
        ("what", "named"),
        [
            ("recipe", "recipe.seed: 5 → 6"),
            ("rows", "dataset: "),
            ("base", "base: "),
            ("template", "template: "),
        ],
    )
    def test_is_refused_in_the_same_folder_by_name(self, claimed: Site, what: str, named: str) -> None:
        out = claimed.folder / "out"
        try:
            with pytest.raises(InputError) as refused:
                claimed.run(self.changed(claimed, what), out=out)
        finally:
            write_rows(claimed.folder / "rows.jsonl")
            shutil.rmtree(claimed.folder / "other", ignore_errors=True)
        assert f"{out} holds another run" in refused.value.problem
        assert named in refused.value.problem
        assert "--out" in refused.value.fix

    def test_is_refused_to_resume_by_name(self, claimed: Site) -> None:
        with pytest.raises(InputError, match=r"recipe\.seed: 5 → 6"):
            claimed.run(self.changed(claimed, "recipe"), out=claimed.folder / "out", resume=True)

    def test_gets_a_folder_and_a_version_of_its_own(self, claimed: Site) -> None:
        first = claimed.run(claimed.recipe(evaluate=None), out=claimed.folder / "out")
        second = claimed.run(self.changed(claimed, "recipe"))
        assert first.version is not None
        assert second.version is not None
        assert (first.version.version, second.version.version) == (1, 2)
        assert first.finished.folder != second.finished.folder
        assert first.finished.manifest.artifact_digest != second.finished.manifest.artifact_digest


class TestWhatIsTrained:
    def test_one_results_folder_is_the_next_ones_base(self, site: Site) -> None:
        """Continued pre-training on text, then supervised fine-tuning of what came out."""
        texts = [{"body": f"{row['question']} {row['answer']}."} for row in ROWS]
        write_rows(site.folder / "texts.jsonl", texts)
        text = site.recipe(
            name="domain", data={"train": [{"source": f"{site.folder}/texts.jsonl", "text": "body"}]}, evaluate=None
        )
        first = site.run(text).finished
        mask = json.loads((first.folder / "mask.json").read_text())
        # All of a text but its first token is trained.
        assert mask["mask_from"] == "text"
        assert mask["trained_tokens"] == mask["tokens"] - mask["sequences"]
        second = site.run(site.recipe(base=str(first.artifact), evaluate=None)).finished
        assert second.manifest.lineage["base_digest"] == first.manifest.artifact_digest
        third = site.run(site.recipe(base="models:/domain@latest", evaluate=None)).finished
        assert third.manifest.lineage["base_digest"] == first.manifest.artifact_digest
        # The same bytes under another name train to the same weights.
        assert third.manifest.artifact_digest == second.manifest.artifact_digest

    def test_an_adapter_that_peft_loads_as_it_stands(self, site: Site) -> None:
        from peft import AutoPeftModelForCausalLM

        done = site.run(site.recipe(adapter={"kind": "lora", "rank": 4})).finished
        assert done.manifest.kind == "adapter"
        model = AutoPeftModelForCausalLM.from_pretrained(done.artifact)
        grown = [float(one.abs().max()) for name, one in model.named_parameters() if "lora_B" in name]
        assert len(grown) == 2 * 7
        assert all(value > 0 for value in grown)

    def test_an_adapter_merged_into_its_base(self, site: Site) -> None:
        from transformers import AutoModelForCausalLM

        recipe = site.recipe(adapter={"kind": "lora", "rank": 4, "variant": "dora", "merge": True})
        heard = Heard()
        done = site.run(recipe, heard=heard).finished
        assert done.manifest.kind == "merged"
        assert any(line.startswith("merged into ") for line in heard.lines)
        assert not (done.artifact / "adapter_config.json").exists()
        assert (done.folder / "adapter" / "adapter_model.safetensors").is_file()
        assert done.manifest.artifact_digest == folder_digest(done.artifact)
        merged = AutoModelForCausalLM.from_pretrained(done.artifact).state_dict()
        base = AutoModelForCausalLM.from_pretrained(site.base).state_dict()
        assert not torch.equal(merged["model.layers.0.mlp.up_proj.weight"], base["model.layers.0.mlp.up_proj.weight"])
        assert torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
        assert site.run(recipe).finished.cached
        shutil.rmtree(done.artifact)
        assert site.run(recipe).finished.manifest.artifact_digest == done.manifest.artifact_digest

    def test_sources_as_often_as_their_weights_say(self, site: Site) -> None:
        write_rows(site.folder / "twice.jsonl", [{"question": f"a{n}", "answer": "x" * 3} for n in range(6)])
        write_rows(site.folder / "half.jsonl", [{"question": f"b{n}", "answer": "y" * 9} for n in range(6)])
        train = [
            {
                "source": f"{site.folder}/{name}.jsonl",
                "prompt": "{question}",
                "completion": "{answer}",
                "weight": weight,
            }
            for name, weight in (("twice", 2), ("half", 0.5))
        ]
        recipe = site.recipe(
            data={"train": train},
            schedule={"epochs": 2},
            batch={"sequences": 5, "per_device": 5, "max_length": 64},
            evaluate=None,
        )
        done = site.run(recipe).finished
        # An answer is its letters and the end of turn; over two epochs four of the first, one of the second.
        assert done.manifest.trained_tokens == 6 * 4 * (3 + 1) + 6 * 1 * (9 + 1)

    def test_tools_as_the_template_shows_them(self, site: Site) -> None:
        base = shutil.copytree(site.base, site.folder / "with-tools")
        shown = "{% for tool in tools or [] %}<|tool|>{{ tool['function']['name'] }}<|end|>{% endfor %}"
        (base / "chat_template.jinja").write_text("{{ bos_token }}" + shown + TEMPLATE.removeprefix("{{ bos_token }}"))
        tool = {"type": "function", "function": {"name": "clock", "description": "the time", "parameters": {}}}
        rows = [
            {
                "turns": [
                    {"role": "user", "content": f"time {number}?"},
                    {"role": "assistant", "content": f"{number} o'clock"},
                ],
                "functions": [tool],
            }
            for number in range(10)
        ]
        write_rows(site.folder / "calls.jsonl", rows)
        source = {"source": f"{site.folder}/calls.jsonl", "messages": "turns", "tools": "functions"}
        done = site.run(site.recipe(base=str(base), data={"train": [source]}, evaluate=None)).finished
        for sample in json.loads((done.folder / "mask.json").read_text())["samples"]:
            assert "<|tool|>clock<|end|><|user|>" in sample.split("⟦")[0]

    def test_frozen_parts_keep_their_bits(self, site: Site) -> None:
        recipe = site.recipe(
            adapter={"kind": "none", "freeze": {"embeddings": True, "layers": "0"}},
            optimizer={"learning_rate": 1e-3, "weight_decay": 0.1},
            evaluate=None,
        )
        done = site.run(recipe).finished
        before, after = load_file(site.base / "model.safetensors"), load_file(done.artifact / "model.safetensors")
        kept = {name for name in before if torch.equal(before[name], after[name])}
        assert kept == {name for name in before if "layers.0." in name or "embed_tokens" in name}
