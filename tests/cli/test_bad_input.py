"""What a user gets wrong ends in exit code 2 and says the problem and the fix, in two lines and without a traceback."""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmops.cli.main import main
from llmops.client import Patience
from llmops.eval.engines import endpoint
from llmops.registry import store
from llmops.registry.promote import this_person
from llmops.workspace import Workspace

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The whole command line; answers its exit code and what it says on standard error from `error:` on."""

    def llmops(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["llmops", *arguments])
        before = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGINT, before)
        said = capsys.readouterr().err
        return int(ended.value.code or 0), said[said.find("error:") :] if "error:" in said else ""

    return llmops


def expect(run: Run, arguments: list[str], *problem: str, lines: int = 2) -> None:
    code, said = run(*arguments)
    assert code == 2, said
    assert "Traceback" not in said
    for part in problem:
        assert part in said
    assert len(said.strip().splitlines()) == lines, said
    assert said.strip().splitlines()[-1].startswith("  → ")


def write(folder: Path, *, name: str = "s", scorer: str = "exact_match", rows: str = "q,a\none,1\ntwo,2\n") -> str:
    (folder / f"{name}.csv").write_text(rows)
    suite = folder / f"{name}.yaml"
    suite.write_text(
        f"name: {name}\nitems: {{source: {folder}/{name}.csv, prompt: '{{q}}', references: '{{a}}'}}\n"
        f"scorers: [{{{scorer}: {{}}}}]\n"
    )
    return str(suite)


def answers(folder: Path, *rows: dict[str, str]) -> str:
    file = folder / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


GIVEN = ({"prompt": "one", "answer": "1"}, {"prompt": "two", "answer": "x"})


def report_of(run: Run, folder: Path, workspace: Path, suite: str) -> str:
    before = set((workspace / "reports").glob("*.json"))
    code, said = run("eval", "m", suite, "--answers", answers(folder, *GIVEN))
    assert code == 0, said
    (made,) = set((workspace / "reports").glob("*.json")) - before
    return str(made)


# Evaluation


def test_an_unknown_scorer_is_named_with_the_nearest_and_its_line(run: Run, tmp_path: Path, workspace: Path) -> None:
    suite = write(tmp_path, scorer="exact_macth")
    expect(run, ["eval", "m", suite], "line 3", "did you mean `exact_match`", lines=3)


def test_references_that_are_missing(run: Run, tmp_path: Path, workspace: Path) -> None:
    expect(run, ["eval", "m", write(tmp_path, rows="q\none\n")], "no column `a`")
    expect(run, ["eval", "m", write(tmp_path, rows="q,a\none,\n")], "s.csv:2")


def test_reports_of_different_suites_or_scorers(run: Run, tmp_path: Path, workspace: Path) -> None:
    first = report_of(run, tmp_path, workspace, write(tmp_path))
    other = report_of(run, tmp_path, workspace, write(tmp_path, name="t"))
    expect(run, ["compare", first, other], "are reports of")
    cased = write(tmp_path, scorer="bleu")
    plain = report_of(run, tmp_path, workspace, cased)
    Path(cased).write_text(Path(cased).read_text().replace("bleu: {}", "bleu: {lowercase: true}"))
    lower = report_of(run, tmp_path, workspace, cased)
    expect(run, ["compare", plain, lower], "scorers")


def test_a_report_changed_by_hand(run: Run, tmp_path: Path, workspace: Path) -> None:
    file = Path(report_of(run, tmp_path, workspace, write(tmp_path)))
    file.write_text(file.read_text().replace('"x"', '"2"'))
    expect(run, ["compare", str(file), str(file)], "was changed")


def test_no_answers_or_too_few(run: Run, tmp_path: Path, workspace: Path) -> None:
    suite = write(tmp_path)
    expect(run, ["eval", "m", suite, "--answers", answers(tmp_path)], "holds no answers")
    expect(run, ["eval", "m", suite, "--answers", answers(tmp_path, GIVEN[0])], "no answer to 1 of 2 items")


def test_a_score_that_is_no_number(run: Run, tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric, mean_of
    from llmops.eval.scorers.text import ExactMatch

    def broken(self: Any, items: list[Answered]) -> list[Metric]:
        return [mean_of("exact_match", "v", [float("nan") for _ in items])]

    monkeypatch.setattr(ExactMatch, "measure", broken)
    expect(run, ["eval", "m", write(tmp_path), "--answers", answers(tmp_path, *GIVEN)], "is nan, which is no number")


def test_an_endpoint_that_is_down(run: Run, tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "Patience", partial(Patience, first_wait_s=0.01))
    arguments = ["eval", "m", write(tmp_path), "--endpoint", "http://127.0.0.1:9/v1"]
    expect(run, arguments, "http://127.0.0.1:9/v1 failed 6 times in a row")


# Decisions


def test_approving_ones_own_run(run: Run, two_versions: Workspace) -> None:
    expect(run, ["models", "approve", "m/1", "--as", this_person()], "cannot approve it too")


def test_approving_and_promoting_what_failed_its_gate(run: Run, two_versions: Workspace) -> None:
    expect(run, ["models", "approve", "m/2", "--as", "ann"], "the newest verdict on models:/m/2 is FAIL")
    expect(run, ["models", "promote", "m/2"], "models:/m/2 is not approved")


def test_bytes_that_were_damaged(run: Run, two_versions: Workspace) -> None:
    assert run("models", "approve", "m/1", "--as", "ann")[0] == 0
    folder = store.fetch(store.find("m", "1", workspace=two_versions), workspace=two_versions)
    weights = next(folder.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(bytes(content))
    expect(run, ["models", "promote", "m/1"], "are not those that were registered")
    assert run("models", "show", "m@champion")[0] == 2


def test_a_verdict_altered_in_the_database(run: Run, two_versions: Workspace) -> None:
    """Even by somebody who takes the database's own guard away."""
    with sqlite3.connect(two_versions.home / "llmops.db") as database:
        guards = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'verdicts'")
        for (name,) in guards.fetchall():
            database.execute(f"DROP TRIGGER {name}")
        database.execute("UPDATE verdicts SET content = replace(content, '\"FAIL\"', '\"PASS\"')")
    expect(run, ["models", "approve", "m/2", "--as", "ann"], "was changed after it was written")


def test_a_database_of_a_newer_schema(run: Run, two_versions: Workspace) -> None:
    with sqlite3.connect(two_versions.home / "llmops.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    expect(run, ["models", "approve", "m/1", "--as", "ann"], "has schema 9999", "update llmops")


def test_a_model_or_version_that_is_not_there(run: Run, two_versions: Workspace) -> None:
    expect(run, ["models", "promote", "n/1"], "no model is called 'n'")
    expect(run, ["models", "promote", "m/7"], "has no version '7'")
