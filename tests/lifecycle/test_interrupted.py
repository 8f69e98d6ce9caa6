"""A run that was stopped, killed, or could not reach MLflow loses nothing: the same command makes it whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmops.config import load
from llmops.errors import EnvironmentFault, InputError, Interrupted
from llmops.files import folder_digest
from llmops.finetune.job import read_steps
from llmops.finetune.recipe import Recipe
from llmops.records import Step
from tests.lifecycle.sites import Site
from tests.lifecycle.small_recipes import a_small_recipe
from tests.listener import Heard
from tests.local_server import free_port
from tests.patience import HANG_S


class TestResume:
    def test_with_nothing_to_go_on_from(self, site: Site) -> None:
        with pytest.raises(InputError) as refused:
            site.run(site.recipe(), resume=True)
        assert "there is no run to resume" in refused.value.problem
        assert "--resume" in refused.value.fix
        assert not list(site.workspace.runs.iterdir())

    def test_after_a_changed_key_names_it_and_the_unchanged_recipe_goes_on(self, site: Site) -> None:
        recipe = site.recipe(evaluate=None)
        with pytest.raises(Interrupted):
            site.run(recipe, heard=Heard(on_step=interrupting_after(3)))
        with pytest.raises(InputError, match=r"optimizer\.learning_rate: 0\.001 → 0\.002"):
            site.run(site.recipe(evaluate=None, optimizer={"learning_rate": 2e-3}), resume=True)
        heard = Heard()
        done = site.run(recipe, resume=True, heard=heard)
        assert [step.index for step in heard.steps] == [4, 5]
        assert done.finished.manifest.steps == 5

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_a_signal_saves_ends_with_its_code_and_is_recorded(
        self, site: Site, number: signal.Signals, code: int
    ) -> None:
        from mlflow import MlflowClient

        with pytest.raises(Interrupted) as stopped:
            site.run(site.recipe(evaluate=None), heard=Heard(on_step=interrupting_after(2, number)))
        assert stopped.value.exit_code == code
        assert "update 2 of 5" in stopped.value.problem
        (folder,) = site.workspace.runs.iterdir()
        assert (folder / "checkpoints" / "update-00000002" / "progress.json").is_file()
        assert not (folder / "artifact").exists()
        run_id = json.loads((folder / "mlflow.json").read_text())["run_id"]
        client = MlflowClient(tracking_uri=site.workspace.tracking_uri)
        assert client.get_run(run_id).info.status == "KILLED"
        assert client.search_registered_models() == []

    def test_after_training_is_only_measured_and_recorded(self, site: Site) -> None:
        """Stopped while the suite is answered: the trained model is kept, and MLflow gets the whole result later."""
        from mlflow import MlflowClient

        def stop(what: str) -> None:
            if what == "answers":
                raise Interrupted("interrupted", fix="run the same command again", exit_code=130)

        with pytest.raises(Interrupted):
            site.run(site.recipe(), heard=Heard(on_advance=stop))
        (folder,) = site.workspace.runs.iterdir()
        run_id = json.loads((folder / "mlflow.json").read_text())["run_id"]
        client = MlflowClient(tracking_uri=site.workspace.tracking_uri)
        assert client.get_run(run_id).info.status == "KILLED"
        heard = Heard()
        done = site.run(site.recipe(), heard=heard)
        assert done.finished.cached
        assert heard.steps == []
        assert len(done.reports) == 2
        run = client.get_run(run_id)
        assert run.info.status == "FINISHED"
        assert "small.bleu" in run.data.metrics
        assert "manifest.json" in {one.path for one in client.list_artifacts(run_id)}
        assert done.version is not None
        assert done.version.run_id == run_id


def interrupting_after(update: int, number: signal.Signals = signal.SIGTERM) -> Callable[[Step], None]:
    """Sends this process a signal at an update, as a scheduler would."""

    def on_step(step: Step) -> None:
        if step.index == update:
            os.kill(os.getpid(), number)

    return on_step


class TestTheWholeCommand:
    def test_killed_and_run_again_leaves_the_bytes_of_an_uninterrupted_run(
        self, make_site: Callable[[Path], Site], tmp_path: Path
    ) -> None:
        """Killed with −9 and stopped by SIGTERM in processes of its own, then finished here."""
        site = make_site(tmp_path)
        changes: dict[str, Any] = {
            "schedule": {"steps": 100},
            "checkpoints": {"every": 5},
            "adapter": {"kind": "lora", "rank": 4, "dropout": 0.1},
            "validation": {"every": 3},
            "evaluate": None,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(a_small_recipe(tmp_path, site.base) | changes))
        recipe = load(path, Recipe, what="recipe")
        assert killed_after(site, path, updates=15, number=signal.SIGKILL) == -signal.SIGKILL
        assert killed_after(site, path, updates=40, number=signal.SIGTERM) == 143
        (folder,) = (path for path in site.workspace.runs.iterdir() if path.is_dir())
        assert not (folder / "artifact").exists()
        heard = Heard()
        finished = site.run(recipe, heard=heard).finished
        assert finished.folder == folder
        assert heard.steps[0].index > 40
        assert [step.index for step in read_steps(folder)] == list(range(1, 101))
        whole = site.run(recipe, out=tmp_path / "whole").finished
        assert whole.manifest.artifact_digest == finished.manifest.artifact_digest
        for file in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json"):
            assert (whole.artifact / file).read_bytes() == (finished.artifact / file).read_bytes()
        assert [step.loss for step in read_steps(whole.folder)] == [step.loss for step in read_steps(folder)]


def killed_after(site: Site, recipe: Path, *, updates: int, number: signal.Signals) -> int:
    """How the command ends that gets a signal once so many updates were made."""
    environment = {**os.environ, "LLMOPS_HOME": str(site.workspace.home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "llmops.cli.main", "finetune", str(recipe)]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 3 * HANG_S
    while sum(log.read_bytes().count(b"\n") for log in site.workspace.runs.glob("*/steps.jsonl")) < updates:
        assert child.poll() is None, child.stderr and child.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    child.send_signal(number)
    _, said = child.communicate(timeout=HANG_S)
    if number != signal.SIGKILL:
        assert "a checkpoint is saved" in said
        assert "→ run the same command again" in said
    return child.returncode


class TestMlflowDown:
    def test_never_stops_training_and_is_made_up_for_later(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        from mlflow import MlflowClient

        recipe = site.recipe()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
        heard = Heard()
        result = site.run(recipe, heard=heard)
        assert len(heard.steps) == 5
        assert folder_digest(result.finished.artifact) == result.finished.manifest.artifact_digest
        assert len(result.reports) == 2
        assert result.version is None
        assert isinstance(result.fault, EnvironmentFault)
        assert result.fault.exit_code == 2
        assert "trained, but not registered" in result.fault.problem
        assert "run the same command again" in result.fault.fix
        assert any(line.startswith("MLflow: not sent") and "unsent.jsonl" in line for line in heard.lines)
        unsent = result.finished.folder / "unsent.jsonl"
        assert unsent.is_file()

        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        later = Heard()
        again = site.run(recipe, heard=later)
        assert again.finished.cached
        assert later.steps == []
        assert again.fault is None
        assert again.version is not None
        assert again.version.digest == result.finished.manifest.artifact_digest
        assert not unsent.exists()
        client = MlflowClient(tracking_uri=site.workspace.tracking_uri)
        assert again.version.run_id is not None
        history = client.get_metric_history(again.version.run_id, "loss")
        assert [one.value for one in history] == pytest.approx([step.loss for step in heard.steps])
        assert client.get_run(again.version.run_id).info.status == "FINISHED"
