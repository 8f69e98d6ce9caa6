"""`llmops models` shows what the registry holds, for people and as JSON, and names the next command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from llmops.cli.models import register as add_commands
from llmops.database import open_database
from llmops.errors import InputError
from llmops.records import Report, Score
from llmops.registry.connection import connect
from llmops.registry.store import register
from llmops.registry.verdicts import attach, sealed
from llmops.workspace import Workspace
from tests.registry.artifacts import manifest_of, write_model


@pytest.fixture
def empty(tmp_path: Path, make_workspace: Callable[[Path], Workspace], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry without a model."""
    home = tmp_path / "home"
    make_workspace(home)
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return home


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


def _register_quantized(home: Path, folder: Path, scheme: str, original: str) -> str:
    """The digest of a version that says it was quantized."""
    artifact = write_model(folder / "artifact")
    (artifact / "config.json").write_text(json.dumps({"scheme": scheme, "of": original}))
    made = manifest_of(
        artifact,
        kind="quantized",
        recipe={"base": original, "method": {"kind": "quantize", "scheme": scheme}},
        measured={"disk_bytes": 5_590_000, "original_bytes": 16_060_000},
        trained_tokens=0,
        final_loss=0.0,
    )
    facts = {"llmops.scheme": scheme, "llmops.quantized_version": original}
    return str(register(f"q-{scheme}", artifact, made, workspace=Workspace(home), facts=facts).digest)


def _judge(home: Path, digest: str, result: str) -> None:
    facts = {"gate": "g.yaml", "model_digest": digest, "against": None, "confidence": 0.95}
    rest = {"rules": (), "reports": (), "code_version": "1"}
    attach(open_database(Workspace(home)), sealed({"result": result, **facts, **rest}))


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


def test_a_quantized_version_is_shown_as_what_it_is(empty: Path, tmp_path: Path) -> None:
    digest = _register_quantized(empty, tmp_path, "w4a16", "models:/e2e-nlg/1")
    shown = call("show", "q-w4a16")
    assert "w4a16 from models:/e2e-nlg/1, 5.6 MB of weights instead of 16.1 MB" in shown
    assert "trained tokens" not in shown
    assert shown.splitlines()[-1] == "next: llmops models card q-w4a16/1"
    for result, following in (
        ("PASS", "llmops serve GATEWAY, an engine of which says {model: models:/e2e-nlg/1, quantization: w4a16}"),
        ("FAIL", "llmops models card q-w4a16/1"),
    ):
        _judge(empty, digest, result)
        assert call("show", "q-w4a16").splitlines()[-1] == f"next: {following}"


@pytest.mark.parametrize(("scheme", "original"), [("nf4", "models:/e2e-nlg/1"), ("w8a8", "./folder")])
def test_what_no_engine_of_a_gateway_could_name_is_not_said_to_be_served(
    empty: Path, tmp_path: Path, scheme: str, original: str
) -> None:
    _judge(empty, _register_quantized(empty, tmp_path, scheme, original), "PASS")
    assert call("show", f"q-{scheme}").splitlines()[-1] == f"next: llmops models card q-{scheme}/1"


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
