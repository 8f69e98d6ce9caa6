"""`serve key create`, `list` and `revoke` work on the file that gateway.yaml names; a secret is shown once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from llmops.cli.serve_key import register
from llmops.errors import InputError, LlmopsError
from llmops.serve.keys import digest, read

GATEWAY = """
engines: {small: {model: ./m}}
routes: {auto: {policy: direct, engine: small}, e2e: {policy: direct, engine: small}}
keys: {file: keys/all.json}
"""


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # its paths are read from where llmops is started, like those of every file
    file = tmp_path / "gateway.yaml"
    file.write_text(GATEWAY)
    return file


def run(gateway: Path, *arguments: str, fails: bool = False) -> Result:
    serve = typer.Typer()
    register(serve)
    done = CliRunner().invoke(serve, ["key", *arguments, "--gateway", str(gateway)])
    if fails:
        assert isinstance(done.exception, LlmopsError)
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def test_a_key_is_made_with_all_it_may_and_shown_once(gateway: Path) -> None:
    said = run(
        gateway, "create", "ann", "--routes", "auto, e2e", "--rpm", "60", "--tpm", "100000", "--budget-usd", "50",
        "--expires", "2099-01-01", "--tag", "team=x", "--tag", "app=y",
    ).stdout  # fmt: skip
    secret = said.splitlines()[0]
    (made,) = read(gateway.parent / "keys" / "all.json")
    assert digest(secret).hex() == made.sha256
    assert (made.name, made.routes, made.rpm, made.tpm, made.budget_usd) == ("ann", ("auto", "e2e"), 60, 100000, 50)
    assert made.expires is not None
    assert made.expires.isoformat() == "2099-01-01T00:00:00+00:00"
    assert made.tags == {"team": "x", "app": "y"}
    assert said.count(secret) == 1
    assert said.splitlines()[-1].startswith("next: curl http://127.0.0.1:8000/v1/chat/completions")


def test_the_list_says_which_are_valid_and_shows_no_digest(gateway: Path) -> None:
    run(gateway, "create", "ann", "--rpm", "5")
    run(gateway, "create", "bob")
    run(gateway, "revoke", "bob")
    ann, bob = read(gateway.parent / "keys" / "all.json")
    table = run(gateway, "list").stdout
    head, first, second, after = table.splitlines()
    assert head.split()[:3] == ["key", "name", "state"]
    assert first.split()[:3] == [ann.id, "ann", "valid"]
    assert "all routes; 5 requests/min" in first
    assert second.split()[:3] == [bob.id, "bob", "revoked"]
    assert after.startswith("next: ")
    plain = json.loads(run(gateway, "list", "--json").stdout)
    assert [one["id"] for one in plain] == [ann.id, bob.id]
    assert ann.sha256 not in table + json.dumps(plain)


def test_as_json_the_secret_is_there_once_too(gateway: Path) -> None:
    made = json.loads(run(gateway, "create", "ann", "--json").stdout)
    (there,) = read(gateway.parent / "keys" / "all.json")
    assert digest(made["secret"]).hex() == there.sha256
    assert json.loads(run(gateway, "revoke", made["id"], "--json").stdout)["revoked"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param(["create", "a", "--routes", "outo"], "no route 'outo'.*auto", id="an unknown route"),
        pytest.param(["create", "a", "--routes", " , "], "names none", id="no route"),
        pytest.param(["create", "a", "--expires", "soon"], "'soon' is no time", id="no time"),
        pytest.param(["create", "a", "--expires", "2020-01-01"], "which is over", id="a time in the past"),
        pytest.param(["create", "a", "--tag", "team"], "'team' is no tag", id="no tag"),
        pytest.param(["create", "a", "--budget-usd", "-1"], "budget_usd", id="a negative budget"),
        pytest.param(["revoke", "nobody"], "no file of keys", id="no keys yet"),
        pytest.param(["list"], "no file of keys", id="nothing to list"),
    ],
)
def test_what_cannot_be_is_said_with_its_fix(gateway: Path, arguments: list[str], problem: str) -> None:
    with pytest.raises(LlmopsError, match=problem):
        run(gateway, *arguments, fails=True)
    assert not (gateway.parent / "keys" / "all.json").exists()


def test_a_gateway_without_keys_says_what_to_add(gateway: Path) -> None:
    gateway.write_text(GATEWAY.replace("keys: {file: keys/all.json}", ""))
    with pytest.raises(InputError) as told:
        run(gateway, "create", "ann", fails=True)
    assert "add `keys: {file: keys.json}`" in told.value.fix
