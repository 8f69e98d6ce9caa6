"""`llmops models` shows what the registry holds, for people and as JSON, and names the next command."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from llmops.cli.models import register as add_commands
from llmops.errors import InputError
from llmops.files import folder_digest
from llmops.records import Report, RunManifest, Score
from llmops.registry.connection import connect
from llmops.registry.store import register
from llmops.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path) -> Iterator[Path]:
    """A registry with two versions of one model; the first is champion."""
    home = tmp_path_factory.mktemp("home")
    connect(f"sqlite:///{shared_folder / 'mlflow.db'}")  # migrated once per test run, then copied
    shutil.copy(shared_folder / "mlflow.db", home)
    artifact = tmp_path_factory.mktemp("artifact")
    (artifact / "config.json").write_text("{}")
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        environment.setenv("LLMOPS_HOME", str(home))
        workspace = Workspace(home)
        for value in (1.0, 2.0):
            header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
            weights = struct.pack("<Q", len(header)) + header + struct.pack("<f", value)
            (artifact / "model.safetensors").write_bytes(weights)
            report = Report("e2e", "m", "d", 630, (Score("bleu", 30 + value, "case:lc"),), {})
            register("e2e-nlg", artifact, _manifest(artifact), [report], workspace=workspace, run_id="r1")
        connect(workspace.tracking_uri).set_registered_model_alias("e2e-nlg", "champion", "1")
        yield home


def _manifest(artifact: Path) -> RunManifest:
    return RunManifest(
        name="e2e-nlg",
        digest="d" * 64,
        identity={"dataset": "a" * 64},
        recipe={"base": "builtin:tiny"},
        kind="full",
        artifact_digest=folder_digest(artifact),
        steps=10,
        tokens=200,
        trained_tokens=100,
        final_loss=1.25,
        validation_loss=None,
        tokens_per_s=6000.0,
        predicted={},
        measured={},
        environment={},
    )


def call(*arguments: str) -> str:
    app = typer.Typer()
    add_commands(app)
    done = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_list_shows_the_newest_version_its_scores_and_who_is_champion(home: Path) -> None:
    head, row, following = call("list").splitlines()
    assert head.split()[:4] == ["model", "newest", "aliases", "kind"]
    assert row.split()[:4] == ["e2e-nlg", "2", "champion=1", "full"]
    assert row.endswith("e2e.bleu 32")
    assert following == "next: llmops models show e2e-nlg"


def test_list_as_json_has_every_version(home: Path) -> None:
    every = json.loads(call("list", "--json"))
    assert [(one["version"], one["aliases"]) for one in every] == [(2, []), (1, ["champion"])]
    assert every[1]["scores"] == {"e2e.bleu": 31.0}


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("e2e-nlg", "models:/e2e-nlg/2"),
        ("e2e-nlg@champion", "models:/e2e-nlg/1"),
        ("e2e-nlg/1", "models:/e2e-nlg/1"),
        ("models:/e2e-nlg@champion", "models:/e2e-nlg/1"),
    ],
)
def test_show_takes_a_name_an_alias_or_a_version(home: Path, name: str, reference: str) -> None:
    lines = call("show", name).splitlines()
    assert lines[0] == reference
    assert lines[-1] == f"next: llmops finetune RECIPE --set base={reference}"
    assert any(line.split() == ["data", "a" * 64] for line in lines)
    assert json.loads(call("show", name, "--json"))["reference"] == reference


@pytest.mark.parametrize("name", ["e2e-nlg@", "e2e@nobody", "e2e-nlg@champoin", "a/b/c"])
def test_what_is_not_there_is_an_error_with_a_way_out(home: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        call("show", name)
    assert caught.value.fix


def test_an_empty_workspace_says_how_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "empty"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert call("list").splitlines() == ["no models yet", "next: llmops finetune RECIPE"]
    assert json.loads(call("list", "--json")) == []
