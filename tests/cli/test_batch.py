"""`llmops batch` says what it did in one line, and by its exit code whether a request failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmops.cli.main import app
from llmops.errors import InputError
from tests.eval.chat_server import Reply, chat, serving
from tests.lifecycle.test_batch import lines, written


def says(_: int, body: dict[str, Any]) -> Reply:
    text = body["messages"][-1]["content"]
    return (400, {}, b"no") if text == "bad" else chat(f"to {text}")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["batch", *map(str, arguments)])


def test_rows_are_answered_with_their_cost_and_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    source = written(tmp_path / "in.jsonl", [{"q": "a"}, {"q": "b"}])
    with serving(says) as served:
        done = run(
            *("m", source, tmp_path / "out.jsonl", "--endpoint", served.url, "--prompt", "q", "--system", "Be brief."),
            *("--max-tokens", 5, "--temperature", 0, "--api-key-env", "SECRET", "--usd-per-hour", 3600, "--json"),
        )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["usd"] == pytest.approx(said["seconds"], abs=0.01)
    assert (said["rows"], said["failed"], said["completion_tokens"]) == (2, 0, 6)
    assert [line["answer"] for line in lines(tmp_path / "out.jsonl")] == ["to a", "to b"]
    assert served.headers[-1]["authorization"] == "Bearer s3cret"
    assert served.asked[-1]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (served.asked[-1]["max_tokens"], served.asked[-1]["temperature"]) == (5, 0.0)


def test_a_failed_request_is_counted_and_makes_the_exit_code_2(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", [{"q": "a"}, {"q": "bad"}])
    with serving(says) as served:
        done = run("m", source, tmp_path / "out.jsonl", "--endpoint", served.url, "--prompt", "q")
    assert "1 of 2 answered" in done.output
    assert isinstance(done.exception, InputError)
    assert "1 of 2 requests failed" in done.exception.problem
    assert "--retry-failed" in done.exception.fix
    assert done.exception.exit_code == 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--api-key-env", "X"], "--api-key-env is for an --endpoint"),
        (["--endpoint", "http://h/v1", "--max-length", "9"], "--max-length is for vLLM here"),
        (["--endpoint", "nowhere"], "no address"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, options: list[str], problem: str) -> None:
    done = run("m", written(tmp_path / "in.jsonl", [{"q": "a"}]), tmp_path / "out.jsonl", *options)
    assert isinstance(done.exception, InputError)
    assert problem in done.exception.problem
