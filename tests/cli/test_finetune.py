"""`llmops finetune` tells a fault of its input in two parts and seconds, and leaves no trace of it in the registry."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from llmops.cli.main import app
from llmops.errors import EnvironmentFault, InputError
from tests.lifecycle.small_recipes import ROWS, a_small_recipe, write_rows, write_suite

SECONDS = 12.0
"""Of computing: less than five on an idle machine, and waiting for one's turn does not count. Tests share theirs."""


@dataclass(frozen=True)
class Done:
    """How a command ended; `seconds` it computed."""

    code: int
    out: str
    err: str
    seconds: float


@dataclass(frozen=True)
class Place:
    """A folder with rows, a suite, a base and a workspace of its own."""

    folder: Path
    base: Path
    home: Path

    def write(self, **changes: Any) -> Path:
        """A recipe that would train, with other values for some of its sections."""
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(a_small_recipe(self.folder, self.base) | changes, sort_keys=False))
        return path

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "LLMOPS_HOME": str(self.home),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.folder / "hf"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            **more,
        }

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "llmops.cli.main", "finetune", *map(str, arguments)]

    def finetune(self, *arguments: object, around: Sequence[str] = (), **environment: str) -> Done:
        """The command in a process of its own; `around` starts it."""
        began = children_seconds()
        done = subprocess.run(
            [*around, *self.command(*arguments)],
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr, children_seconds() - began)


def seconds_to_load() -> float:
    """What a process computes on this machine, now, to have torch and transformers."""
    began = children_seconds()
    subprocess.run([sys.executable, "-c", "import torch, transformers.models.auto.modeling_auto"], check=True)
    return children_seconds() - began


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def place(tmp_path: Path, random_base: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_rows(tmp_path / "rows.jsonl")
    write_suite(tmp_path)
    return Place(tmp_path, random_base, tmp_path / "home")


def refused(done: Done, place: Place, *problem: str, fix: str) -> None:
    """Exit 2, the problem and the next thing to do, quickly, and no registry was begun."""
    print(f"{done.seconds:.2f} s")
    assert done.code == 2, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    error, arrow, advice = done.err.rpartition("\n  → ")
    assert arrow, done.err
    error = error[error.index("error: ") :]
    for words in problem:
        assert words in error
    assert fix in advice
    assert advice.count("\n") == 1
    # A slow machine takes long for what every such command loads, too; to train takes more than that.
    assert done.seconds < SECONDS or done.seconds < 4 * seconds_to_load()
    assert not (place.home / "mlflow.db").exists()
    assert not list((place.home / "objects").glob("models/*"))
    assert not list(place.home.glob("runs/*/artifact"))


class TestBadInput:
    def test_a_misspelt_key_is_told_with_its_line_and_the_nearest_name(self, place: Place) -> None:
        recipe = place.write(optimiser={"learning_rate": 1e-3}, schedule={"epoch": 1, "shape": "cosine"})
        done = place.finetune(recipe)
        refused(done, place, "optimiser: no such key; did you mean `optimizer`?", fix="llmops explain recipe")
        # All faults at once, each with its line.
        number = recipe.read_text().splitlines().index("  epoch: 1") + 1
        assert f"line {number}: schedule.epoch: no such key; did you mean `epochs`?" in done.err

    def test_a_misspelt_override_too(self, place: Place) -> None:
        done = place.finetune(place.write(), "--set", "adapter.rnk=4", "--set", "adapter.kind=lora")
        refused(done, place, "adapter.rnk: no such key; did you mean `rank`?", "--set", fix="mend the keys above")

    def test_a_wrong_type_is_told_with_what_was_given(self, place: Place) -> None:
        done = place.finetune(place.write(batch={"sequences": "many", "per_device": 8}))
        refused(done, place, "batch.sequences", "integer", "'many'", fix="mend the keys above")

    def test_a_recipe_that_is_not_there(self, place: Place) -> None:
        place.write()
        done = place.finetune(place.folder / "recpie.yaml")
        refused(done, place, "there is no file", "did you mean `recipe.yaml`?", fix="a .yaml file")

    def test_a_missing_file_of_rows(self, place: Place) -> None:
        done = place.finetune(place.write(), "--set", f"data.train.0.source={place.folder}/row.jsonl")
        refused(done, place, "there is no file or folder", "did you mean `rows.jsonl`?", fix="check `source:`")

    def test_a_column_that_does_not_exist_names_those_that_do(self, place: Place) -> None:
        done = place.finetune(place.write(), "--set", "data.train.0.completion='{anwser}'")
        refused(done, place, "no column `anwser`", *ROWS[0], fix="name one of these columns")

    def test_an_empty_data_set(self, place: Place) -> None:
        (place.folder / "rows.jsonl").write_text("")
        refused(place.finetune(place.write(evaluate=None)), place, "has no rows", fix="at least one row")

    def test_rows_of_which_the_checks_leave_none(self, place: Place) -> None:
        rows = [{"question": f"what is {number}?", "answer": " "} for number in range(5)]
        (place.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = place.finetune(place.write(evaluate=None))
        refused(done, place, "no row is left to train on", "the completion is empty", fix="llmops data check")

    def test_a_base_that_is_not_there_offline(self, place: Place) -> None:
        done = place.finetune(place.write(base="some-lab/some-model"))
        refused(done, place, "some-lab/some-model is not on this machine", fix="hf download some-lab/some-model")

    def test_a_base_folder_that_is_not_there(self, place: Place) -> None:
        done = place.finetune(place.write(base="./none"))
        refused(done, place, "there is no folder ./none", fix="builtin:tiny")

    def test_a_base_that_is_an_adapter(self, place: Place) -> None:
        adapter = place.folder / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text("{}")
        shutil.copy(place.base / "model.safetensors", adapter / "adapter_model.safetensors")
        done = place.finetune(place.write(base=str(adapter)))
        refused(done, place, "is an adapter", fix=f"llmops merge {adapter}")

    def test_a_base_whose_weights_are_cut_short(self, place: Place) -> None:
        torn = place.folder / "torn"
        shutil.copytree(place.base, torn)
        with (torn / "model.safetensors").open("r+b") as file:
            file.truncate(1000)
        done = place.finetune(place.write(base=str(torn)))
        refused(done, place, "model.safetensors", fix="copy or download the file again")

    def test_a_rank_above_the_layers_size(self, place: Place) -> None:
        done = place.finetune(place.write(adapter={"kind": "lora", "rank": 65}))
        refused(done, place, "adapter.rank is 65", "64 × 64", fix="at most 64")

    def test_a_batch_that_cannot_be_split_over_the_processes(self, place: Place) -> None:
        done = place.finetune(place.write(), "--gpus", 3)
        refused(done, place, "batch.sequences is 8", "3 process(es)", fix="24")

    def test_rows_longer_than_the_base_looks_back(self, place: Place) -> None:
        done = place.finetune(place.write(), "--set", "batch.max_length=1024")
        refused(done, place, "looks back on 512 tokens", fix="at most 512")

    def test_a_chat_template_that_cannot_be_masked(self, place: Place) -> None:
        """Its generation prompt is not how it begins an answer, so nobody can say what the model wrote."""
        base = place.folder / "unmaskable"
        shutil.copytree(place.base, base)
        (base / "chat_template.jinja").write_text(
            "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}your answer: {% endif %}"
        )
        done = place.finetune(place.write(base=str(base)))
        refused(done, place, "a chat template that cannot be masked", "your answer", fix="{% generation %}")

    def test_a_suite_with_a_fault(self, place: Place) -> None:
        suite = place.folder / "suite.yaml"
        suite.write_text(suite.read_text().replace("max_tokens", "max_token"))
        refused(place.finetune(place.write()), place, "max_token", "did you mean `max_tokens`?", fix="explain suite")

    def test_a_suite_whose_column_is_not_there(self, place: Place) -> None:
        suite = place.folder / "suite.yaml"
        suite.write_text(suite.read_text().replace("{answer}", "{answers}"))
        refused(place.finetune(place.write()), place, "there is no column `answers`", fix="question, answer")

    def test_a_gate_with_a_fault(self, place: Place) -> None:
        gate = place.folder / "gate.yaml"
        gate.write_text("rules:\n  - {suite: small, metric: bleu, at_lest: 25}\n")
        done = place.finetune(place.write(evaluate={"suites": [str(place.folder / "suite.yaml")], "gate": str(gate)}))
        refused(done, place, "at_lest", fix="explain gate")

    def test_a_usage_that_is_none(self, place: Place) -> None:
        for arguments in ((), (place.write(), "--gpus", "0"), (place.write(), "--no-such-option")):
            done = place.finetune(*arguments)
            assert done.code == 2
            assert "Traceback" not in done.err
        assert not place.home.exists()


class TestAnOutputThatCannotBeWritten:
    def test_below_a_file(self, place: Place) -> None:
        (place.folder / "file").write_text("")
        done = place.finetune(place.write(), "--out", place.folder / "file" / "out")
        refused(done, place, "cannot be written", fix="--out")

    def test_a_workspace_below_a_file(self, place: Place) -> None:
        (place.folder / "home").write_text("")
        done = place.finetune(place.write())
        assert done.code == 2
        assert "workspace folder" in done.err
        assert "LLMOPS_HOME" in done.err

    def test_a_disk_that_is_read_only(self, place: Place) -> None:
        out = place.folder / "disk"
        done = place.finetune(place.write(), "--out", out / "run", around=mounted(out, "ro,size=2m"))
        refused(done, place, "cannot be written", "Read-only", fix="--out")

    def test_a_disk_that_is_too_small_for_the_checkpoints(self, place: Place) -> None:
        """The weights and two moments in 32 bits, two checkpoints and the best, do not go into 2 MiB."""
        out = place.folder / "disk"
        done = place.finetune(place.write(), "--out", out / "run", around=mounted(out, "size=2m"))
        refused(done, place, "disk", fix="checkpoints.keep")


def mounted(folder: Path, options: str) -> list[str]:
    """Starts a command that sees a small disk at `folder`; the mount ends with the command."""
    folder.mkdir()
    around = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    script = f'mount -t tmpfs -o {options} tmpfs "{folder}" && exec "$@"'
    tried = subprocess.run([*around, script, "sh", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this machine does not let a test mount a disk: {tried.stderr.strip()}")
    return [*around, script, "sh"]


@pytest.fixture(scope="module")
def site(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place that the tests of one recipe share, in any order."""
    folder = tmp_path_factory.mktemp("fine")
    write_rows(folder / "rows.jsonl")
    write_suite(folder)
    return Place(folder, random_base, folder / "home")


class TestARecipeThatIsFine:
    """In this process: trained once, asked again, planned, and trained while the registry is away."""

    @pytest.fixture
    def llmops(self, site: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        monkeypatch.setenv("LLMOPS_HOME", str(site.home))
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

        def call(*arguments: object) -> Any:
            return CliRunner().invoke(app, ["finetune", *map(str, arguments)])

        return call

    def test_prints_scores_what_training_took_and_the_next_command(
        self, site: Place, llmops: Callable[..., Any]
    ) -> None:
        done = llmops(site.write(name="printed"))
        assert done.exit_code == 0, done.output
        lines = done.stdout.splitlines()
        assert lines[0].split() == ["suite", "metric", str(site.base), "printed", "difference"]
        assert [line.split()[:2] for line in lines[1:3]] == [["small", "bleu"], ["exact_match", lines[2].split()[1]]]
        (trained,) = (line for line in lines if line.startswith("trained "))
        said = r"trained 5 updates on \d+ trained tokens in .* \([\d,]+ tokens/s\); peak memory .* GiB, predicted .*"
        assert re.fullmatch(said, trained)
        (run,) = (site.home / "runs").glob("printed-*")
        assert lines[-3:] == [
            f"run: {run}",
            "registered: models:/printed/1 (full)",
            "next: llmops models show printed/1",
        ]
        assert "update 5/5" in done.stderr

    def test_answers_at_once_when_asked_again(self, site: Place, llmops: Callable[..., Any]) -> None:
        llmops(site.write())
        done = llmops(site.write())
        assert done.exit_code == 0, done.output
        assert "trained before" in done.stderr
        assert "update" not in done.stderr
        assert not any(line.startswith("trained ") for line in done.stdout.splitlines())
        assert done.stdout.splitlines()[-1] == "next: llmops models show small/1"

    def test_answers_in_json(self, site: Place, llmops: Callable[..., Any]) -> None:
        done = llmops(site.write(), "--json")
        assert done.exit_code == 0, done.output
        answer = json.loads(done.stdout)
        assert done.stderr == ""
        assert answer["version"] == "models:/small/1"
        assert json.loads((Path(answer["run"]) / "manifest.json").read_text())["digest"] == answer["digest"]
        assert [report["model"] for report in answer["reports"]] == [str(site.base), "small"]
        assert answer["predicted"].keys() == answer["measured"].keys()

    def test_is_planned_without_a_trace(self, site: Place, llmops: Callable[..., Any], tmp_path: Path) -> None:
        recipe = site.write(name="planned")
        before = {path for path in site.folder.rglob("*") if "mlflow" not in path.name}
        done = llmops(recipe, "--dry-run")
        assert done.exit_code == 0, done.output
        assert "updates" in done.stdout
        assert done.stdout.splitlines()[-1] == f"next: llmops finetune {recipe}"
        assert {path for path in site.folder.rglob("*") if "mlflow" not in path.name} == before

    def test_is_refused_where_its_rows_are_all_too_long(self, site: Place, llmops: Callable[..., Any]) -> None:
        done = llmops(site.write(name="long", batch={"sequences": 8, "per_device": 8, "max_length": 4}))
        assert isinstance(done.exception, InputError)
        assert "max_length" in done.exception.problem
        assert not list((site.home / "runs").glob("long-*"))

    def test_is_refused_where_its_base_has_no_chat_template(self, site: Place, llmops: Callable[..., Any]) -> None:
        bare = site.folder / "bare"
        shutil.copytree(site.base, bare)
        (bare / "chat_template.jinja").unlink()
        done = llmops(site.write(name="bare", base=str(bare)))
        assert isinstance(done.exception, InputError)
        assert "no chat template" in done.exception.problem
        assert "text: column" in done.exception.fix
        assert not list((site.home / "runs").glob("bare-*"))

    def test_is_kept_while_the_registry_is_away(
        self, site: Place, llmops: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The result is printed, then the error says at the very end what is missing."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/")  # discard: nobody listens
        done = llmops(site.write(name="away", evaluate=None, seed=8))
        assert isinstance(done.exception, EnvironmentFault)
        assert "away is trained, but not registered" in done.exception.problem
        assert "run the same command again" in done.exception.fix
        lines = done.stdout.splitlines()
        assert lines[-1].startswith("run: ")
        assert (Path(lines[-1].removeprefix("run: ")) / "artifact" / "model.safetensors").is_file()
        assert "MLflow: not sent" in done.stderr
