"""`route` learns a router, says what it is worth, and explains a decision, from what a user has."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from llmops.cli.main import app
from llmops.errors import InputError
from llmops.eval.measured import content_of
from llmops.files import digest_of, write_json
from llmops.serve.routing.features import features_of_text
from llmops.serve.routing.router import read_router
from tests.eval.measurements import right
from tests.serve.routing.graded_prompts import made


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["route", *arguments], input=stdin)


def refused(*arguments: str) -> InputError:
    done = run(*arguments)
    assert isinstance(done.exception, InputError), done.output
    return done.exception


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv of graded answers, where some words make a prompt hard."""
    data = made(160, confidence=True)
    assert data.confidence is not None
    file = tmp_path_factory.mktemp("answers") / "answers.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "tiny", "big", "sure"])
        writer.writerows(zip(data.prompts, data.small, data.large, data.confidence, strict=True))
    return file


COLUMNS = ("--prompt", "text", "--small", "tiny", "--large", "big", "--folds", "2")


@pytest.fixture(scope="module")
def calibrated(answers: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("router") / "router.json"
    return out, run(
        "calibrate", str(answers), *COLUMNS, "--confidence", "sure", "--quality", "0.9", "--small-cost", "0.1",
        "--out", str(out),
    )  # fmt: skip


def test_calibrate_writes_a_router_and_says_what_to_expect(calibrated: tuple[Path, Result], answers: Path) -> None:
    out, done = calibrated
    assert done.exit_code == 0, done.output
    router = read_router(out)
    assert (router.aim.value, router.aim.small_cost, router.learning.folds) == (0.9, 0.1, 2)
    assert router.confidence is not None
    assert f"answers stand from a calibrated confidence of {router.confidence.at_least:.3f}" in done.output
    assert "answers.csv: 160 graded prompts" in done.output
    assert f"threshold {router.threshold:.3f}" in done.output
    assert "at least 90.0% of the large model's quality, shown at 95%" in done.output
    assert "the learned router is better than length alone" in done.output
    assert done.output.splitlines()[-1] == (
        f"next: llmops route report {answers} --prompt text --small tiny --large big --router {out}"
    )


def test_report_of_a_router_writes_page_and_picture(
    calibrated: tuple[Path, Result], answers: Path, tmp_path: Path, workspace: Path
) -> None:
    page, plot = tmp_path / "page.html", tmp_path / "plot.png"
    done = run(
        "report", str(answers), *COLUMNS, "--router", str(calibrated[0]), "--html", str(page), "--plot", str(plot)
    )
    assert done.exit_code == 0, done.output
    assert "the router was learned from these rows" in done.output
    assert f"page: {page}" in done.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    for line in ("learned", "length", "random", "oracle"):
        assert f"{line}, APGR" in text
    assert all(target.startswith("#") for target in re.findall(r'(?:src|href)="([^"]*)"', text)), "it asks for nothing"
    assert "<script" not in text


def test_report_without_a_router_learns_one_and_keeps_its_page_in_the_workspace(answers: Path, workspace: Path) -> None:
    done = run("report", str(answers), *COLUMNS, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert Path(record["page"]).parent == workspace / "reports"
    assert record["lines"]["random"]["apgr"]["value"] == 0.5
    assert record["lines"]["learned"]["apgr"]["low"] > 0.5
    assert set(record["lines"]["oracle"]) == {"apgr", "cpt_50%", "cpt_80%"}
    assert record["shown_to_beat_length"] is True
    assert set(record["calibration_error"]) == {"small", "large", "gap"}


WEAK, STRONG = [n % 2 == 0 for n in range(80)], [n % 8 > 0 for n in range(80)]


def report_file(folder: Path, model: str, hits: list[bool], *, sure: list[float] | None = None) -> str:
    """A report as `llmops eval` writes it."""
    report = right(hits, model=model)
    content = content_of(report, scores=[], slices={})
    beside = (
        {} if sure is None else {"confidence": {item.id: one for item, one in zip(report.items, sure, strict=True)}}
    )
    file = folder / f"{model}.json"
    write_json(file, {**content, "digest": digest_of(content), "measures": {}, "seconds": {}, **beside})
    return str(file)


def test_reports_that_say_how_sure_the_small_model_was_give_a_cascade(tmp_path: Path, workspace: Path) -> None:
    strong, out = report_file(tmp_path, "strong", STRONG), tmp_path / "router.json"
    asked = (strong, "--folds", "2", "--quality", "0.9", "--shown", "0.5", "--out", str(out))
    done = run("calibrate", report_file(tmp_path, "weak", WEAK), *asked)
    assert done.exit_code == 0, done.output
    assert "as a cascade: not known how sure the small model was; evaluate it with --engine vllm" in done.output
    assert read_router(out).confidence is None
    sure = [0.9 if hit else 0.4 for hit in WEAK]
    done = run("calibrate", report_file(tmp_path, "weak", WEAK, sure=sure), *asked)
    assert done.exit_code == 0, done.output
    found = read_router(out).confidence
    assert found is not None
    assert found.sure().confidence([math.log(0.9)]) == 1.0  # all that it was so sure of was right
    assert found.expected.quality.value >= 0.9


def test_two_reports_of_one_suite_are_joined(tmp_path: Path, workspace: Path) -> None:
    files = [report_file(tmp_path, "weak", WEAK), report_file(tmp_path, "strong", STRONG)]
    done = run("report", *files, "--folds", "2", "--json")
    assert done.exit_code == 0, done.output
    # All prompts are alike and equally long: nothing can be learned, and that is said.
    record = json.loads(done.stdout)
    assert record["shown_to_beat_length"] is False
    again = run("report", *files, "--folds", "2")
    assert "NOT shown to beat length alone" in again.output


def test_a_ceiling_of_cost(answers: Path, tmp_path: Path) -> None:
    done = run(
        "calibrate", str(answers), *COLUMNS, "--cost", "0.3", "--out", str(tmp_path / "r.json"), "--json"
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["aim"] == {"kind": "cost", "value": 0.3, "confidence": 0.5, "small_cost": 0.0}
    assert record["expected"]["large_share"]["value"] == pytest.approx(0.3, abs=0.1)


def test_explain_says_what_is_seen_and_why(calibrated: tuple[Path, Result], tmp_path: Path) -> None:
    done = run("explain", "What is the capital of France?")
    assert done.output.splitlines()[-1].startswith("small: routine: about ")
    assert "prompt tokens" in done.output
    learned = run("explain", "red kernel tree", "--router", str(calibrated[0]))
    router = read_router(calibrated[0])
    gap = router.model.chances(features_of_text("red kernel tree")).gap
    size = "large" if gap >= router.threshold else "small"
    assert learned.output.splitlines()[-1].startswith(f"{size}: learned: gap {gap:.3f}, ")
    assert "chances  small " in learned.output
    assert run("explain", "-", stdin="word " * 900).output.splitlines()[-1].startswith("large: length: ")
    assert run("explain", "hello", "--small-context", "5").output.splitlines()[-1].startswith("large: context: ")


def test_explain_reads_the_body_of_a_request(tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"messages": [{"role": "user", "content": "hello"}], "tools": [{"type": "function"}]}))
    record: dict[str, Any] = json.loads(run("explain", "--body", str(body), "--json").stdout)
    assert (record["size"], record["kind"], record["features"]["tools"]) == ("large", "tools", 1)
    assert "text" not in record["features"]
    body.write_text("[1]")
    assert "no body" in refused("explain", "--body", str(body)).problem
    body.write_text("{")
    assert "no JSON" in refused("explain", "--body", str(body)).problem


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("calibrate", "{}", "--quality", "0.9", "--cost", "0.5"), "a floor of quality and a ceiling"),
        (("calibrate", "{}", "--prompt", "question"), "no column 'question'"),
        (("calibrate", "{}", "--cost", "0.1", "--small-cost", "0.2", *COLUMNS), "is the ceiling"),
        (("report", "{}", "--plot", "plot.pdf"), "neither .png nor .svg"),
        (("report", "{}", "--router", "none.json"), "cannot be read"),
        (("report", "{}", "--router", "none.json", "--cost", "0.5"), "its threshold was picked for"),
        (("report", "{}", "{}"), "2 file(s) are given"),
        (("explain", "hello", "--router", "none.json"), "cannot be read"),
        (("explain", "--body", "none.json"), "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused(answers: Path, arguments: tuple[str, ...], said: str, workspace: Path) -> None:
    given = [one.format(answers) for one in arguments]
    assert said in refused(*given, *(("--small", "tiny", "--large", "big") if "question" in given else ())).problem
