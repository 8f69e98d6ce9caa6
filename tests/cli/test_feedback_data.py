"""Commands on campaigns: one from its file to rows, what is said on the way, and what is refused with its fix."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from llmops.cli.feedback import feedback
from llmops.config import load
from llmops.database import open_database
from llmops.errors import LlmopsError
from llmops.feedback.campaign import Campaign
from llmops.feedback.desk import Desk
from llmops.feedback.events import events
from llmops.feedback.faults import RubricChanged
from llmops.feedback.making import Beginning, begin
from llmops.feedback.raters import add_rater
from llmops.feedback.tasks import Task
from llmops.rubric import load_rubric
from llmops.workspace import Workspace
from tests.cli.feedback_command import run
from tests.feedback.small_campaigns import given

FEEDBACK = Path(__file__).parents[2] / "feedback"
ANSWERS = ("--prompt", "{q}", "--response", "{a}", "--response", "{b}")
PRINT_NO_RESULT = {"serve"}
"""Runs until it is ended."""


def told(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


def rows(file: Path, *numbers: int) -> Path:
    lines = [{"q": f"question {n}", "a": f"good {n}", "b": f"bad {n}", "m": "x/1"} for n in numbers]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def campaign(workspace: Path, home: Workspace, tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(
        f"name: small\nkind: pairwise\nrubric: {FEEDBACK}/rubrics/helpfulness.yaml\n"
        f"items: {{from: rows, rows: {{source: {rows(tmp_path / 'rows.jsonl', 0, 1, 2)}}}, prompt: '{{q}}', "
        "responses: ['{a}', '{b}'], models: ['{m}', y]}\n"
    )
    return file


@pytest.fixture
def desk(campaign: Path, workspace: Path) -> Desk:
    """Of the campaign, made."""
    run("create", str(campaign))
    return Desk(open_database(Workspace(workspace)))


def rate_all(desk: Desk, workspace: Path, rater: str = "r-ann") -> int:
    add_rater(open_database(Workspace(workspace)), rater)
    done = 0
    while isinstance(task := desk.next("small", rater), Task):
        step = 2 if task.responses[0].startswith("good") else -2
        desk.submit(given(task, {"kind": "pairwise", "step": step}), rater)
        done += 1
    return done


def test_a_campaign_from_its_file_to_rows_and_back(campaign: Path, workspace: Path, tmp_path: Path) -> None:
    assert told("create", str(campaign), "--dry-run")["created"] is False
    assert told("list") == []
    assert told("create", str(campaign))["items"] == 3
    more = told("import", "small", str(rows(tmp_path / "more.jsonl", 3, 4)), *ANSWERS)
    assert (more["campaign"], more["items"]) == ("small", 2)
    assert rate_all(Desk(open_database(Workspace(workspace))), workspace) == 5
    (small,) = told("list")
    assert small["half_made"] is False
    assert (small["items"], small["wanted"], small["done"], small["raters"]) == (5, 5, 5, 1)
    sheet = tmp_path / "ratings.csv"
    found = told("report", "small", "--sheet", str(sheet))
    assert (found["complete"], found["ratings"]) == (5, 5)
    assert [row["verdict"] for row in csv.DictReader(sheet.read_text().splitlines())] == ["+2"] * 5
    about = told("export", "small", "--for", "dpo", "--validation", "0", "--out", str(tmp_path / "out"))
    assert (about["rows"], about["raters"]) == ({"train": 5}, ["r-ann"])
    done = told("erase-rater", "r-ann", "--drop-ratings", "--yes")
    assert (done["rater"], done["ratings"], done["exports"]) == ("r-ann", 5, [str(tmp_path / "out")])
    assert (told("list")[0]["done"], told("report", "small")["ratings"]) == (0, 0)
    audit = told("verify")
    assert audit["events"] == len(list(events(open_database(Workspace(workspace)))))
    assert told("verify", "--contains", audit["head"]) == audit
    assert run("verify").splitlines()[0] == f"{audit['events']} events, each as it was written"


def test_what_was_left_half_made_is_told_and_completed(campaign: Path, workspace: Path) -> None:
    settings = load(campaign, Campaign, what="campaign")
    begin(open_database(Workspace(workspace)), settings, load_rubric(Path(settings.rubric)), Beginning(time.time(), 7))
    assert (told("list")[0]["items"], told("list")[0]["half_made"]) == (0, True)
    assert "small is being made, or was left half-made" in run("list")
    made = told("create", str(campaign))
    assert (made["items"], made["notes"]) == (3, ["the making of small was interrupted after 0 of 3 items"])
    assert (told("list")[0]["items"], told("list")[0]["half_made"]) == (3, False)


def test_every_table_says_what_is_next(desk: Desk, workspace: Path, tmp_path: Path) -> None:
    rate_all(desk, workspace)
    for arguments in (["list"], ["report", "small"], ["export", "small", "--for", "dpo", "--out", str(tmp_path / "o")]):
        assert run(*arguments).splitlines()[-1].startswith("next: "), arguments


def test_a_question_is_asked_in_other_words_from_then_on(desk: Desk, workspace: Path, tmp_path: Path) -> None:
    add_rater(open_database(Workspace(workspace)), "r-ann")
    task = desk.next("small", "r-ann")
    assert isinstance(task, Task)
    newer = tmp_path / "newer.yaml"
    old = (FEEDBACK / "rubrics/helpfulness.yaml").read_text()
    newer.write_text(old.replace("version: 1", "version: 2").replace("helps", "serves"))
    said = told("reword", "small", str(newer))
    assert (said["changed"], [one["version"] for one in said["versions"]]) == (True, [1, 2])
    with pytest.raises(RubricChanged):
        desk.submit(given(task), "r-ann")
    assert "serves" in desk.task(task.assignment, "r-ann").rubric.question
    assert told("reword", "small", str(newer))["changed"] is False


def scores(folder: Path) -> list[str]:
    (folder / "r.yaml").write_text((FEEDBACK / "rubrics/fluency.yaml").read_text())
    return ["reword", "small", str(folder / "r.yaml")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda folder: ["report", "smal"], "no campaign 'smal'; did you mean `small`"),
        (lambda folder: ["create", str(folder / "small.yaml")], "there is a campaign 'small' already"),
        (lambda folder: ["import", "small", "x.jsonl"], "no answers are named"),
        (
            lambda folder: ["import", "small", "http://127.0.0.1/x.jsonl", "--response", "{a}", "--response", "{b}"],
            "127",
        ),
        (lambda folder: ["import-thumbs", "small"], "is of kind pairwise"),
        (lambda folder: ["export", "small", "--for", "dpo"], "no rating of small makes a row"),
        (lambda folder: ["erase-rater", "nobody", "--yes"], "there is no rater 'nobody'"),
        (scores, "begin another campaign"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_said_with_its_fix(
    desk: Desk, tmp_path: Path, arguments: Callable[[Path], list[str]], said: str
) -> None:
    with pytest.raises(LlmopsError) as caught:
        run(*arguments(tmp_path))
    assert caught.value.fix
    assert said in f"{caught.value.problem}; {caught.value.fix}"


def test_every_command_answers_in_json_too() -> None:
    command: Any = typer.main.get_command(feedback)
    without = {
        name for name, one in command.commands.items() if not any("--json" in option.opts for option in one.params)
    }
    assert without == PRINT_NO_RESULT
