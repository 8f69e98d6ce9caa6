"""`llmops models` shows what the registry holds, for people and as JSON, and names the next command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from llmops.cli.models import register as add_commands
from llmops.errors import InputError
from llmops.records import Report, Score
from llmops.registry.connection import connect
from llmops.registry.store import register
from llmops.workspace import Workspace
from tests.registry.artifacts import manifest_of, write_model


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, make_workspace: Callable[[Path], Workspace]) -> Iterator[Path]:
    """A registry with two versions of one model; the first is champion."""
    home = tmp_path_factory.mktemp("models") / "home"
    workspace = make_workspace(home)
    artifact = tmp_path_factory.mktemp("artifact")
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        environment.setenv("LLMOPS_HOME", str(home))
        for value in (1.0, 2.0):
            write_model(artifact, value)
            report = Report("e2e", "m", "d", 630, (Score("bleu", 30 + value, "case:lc"),), {})
            register(
                "e2e-nlg", artifact, manifest_of(artifact, kind="full"), [report], workspace=workspace, run_id="r1"
            )
        connect(workspace.tracking_uri).set_registered_model_alias("e2e-nlg", "champion", "1")
        yield home


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
