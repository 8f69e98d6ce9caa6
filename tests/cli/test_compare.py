"""`compare` says by how much two models differ on the same items, from reports or from models."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from llmops.cli.main import app
from llmops.errors import InputError
from llmops.eval.measured import content_of
from llmops.files import digest_of, write_json
from tests.eval.measurements import right


def written(folder: Path, model: str, hits: list[float]) -> Path:
    report = right(hits, model=model, slices=[{"half": "a" if place % 2 else "b"} for place in range(len(hits))])
    content = content_of(report, scores=[], slices={})
    seconds = {item.id: item.seconds for item in report.items}
    file = folder / f"{model}.json"
    write_json(file, {**content, "digest": digest_of(content), "measures": dict(report.measures), "seconds": seconds})
    return file


@pytest.fixture
def reports(tmp_path: Path, workspace: Path) -> tuple[str, str]:
    draw = np.random.default_rng(0)
    old = (draw.random(300) < 0.4).astype(float)
    new = np.maximum(old, (draw.random(300) < 0.3).astype(float))
    return str(written(tmp_path, "old", old.tolist())), str(written(tmp_path, "new", new.tolist()))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["compare", *arguments])


def test_two_reports_give_a_table_and_the_items_that_changed(reports: tuple[str, str]) -> None:
    done = run(*reports)
    assert done.exit_code == 0, done.output
    assert "s: old (first) and new (second)" in done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith("exact_match   ")]
    assert line.rstrip().endswith("better")
    assert "half=a" in done.output
    assert "exact_match +1" in done.output
    assert "answer of new" in done.output
    assert "half=a" not in run(*reports, "--no-slices").output


def test_as_json_and_as_markdown(reports: tuple[str, str], tmp_path: Path) -> None:
    done = run(*reports, "--json", "--markdown", str(tmp_path / "table.md"))
    (found,) = json.loads(done.stdout)
    assert (found["first"]["reference"], found["second"]["reference"]) == ("old", "new")
    first = found["differences"][0]
    assert first["finding"] == "better"
    assert first["low"] > 0
    assert len(found["changed"]) == 3
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[2].count("|") == table[4].count("|") == 11
    assert table[4].startswith("| exact_match |  |")


def refused(*arguments: str) -> InputError:
    done = run(*arguments)
    assert isinstance(done.exception, InputError), done.output
    return done.exception


def test_a_report_changed_by_hand_is_refused(reports: tuple[str, str]) -> None:
    file = Path(reports[1])
    record = json.loads(file.read_text())
    record["items"][0]["statistics"]["exact_match"] = [1.0, 1.0]
    record["items"][0]["answer"] = "better"
    write_json(file, record)
    assert "was changed after it was written" in refused(*reports).problem


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "it is no JSON"), ("[]", "no report of llmops"), ('{"format": 1, "items": []}', "has format 1")],
)
def test_what_is_no_report_is_refused(reports: tuple[str, str], text: str, said: str) -> None:
    Path(reports[0]).write_text(text)
    assert said in refused(*reports).problem


def test_models_need_suites_and_reports_none(reports: tuple[str, str]) -> None:
    assert "none is given" in refused("builtin:tiny", "builtin:small").problem
    assert "the other is a model" in refused("builtin:tiny", reports[0]).problem
    assert "without a suite" in refused(*reports, "eval/suites/e2e.yaml").problem
    assert "cannot be read" in refused("none.json", reports[0]).problem


def test_every_field_of_a_difference_is_in_the_json(reports: tuple[str, str]) -> None:
    from llmops.eval.compare import compare
    from llmops.eval.measured import read

    found = compare(*(read(Path(one)) for one in reports))
    (told,) = json.loads(run(*reports, "--json").stdout)
    assert told["differences"] == [asdict(one) for one in found.differences]


def test_the_page_is_kept_with_the_reports_or_where_it_is_told(
    reports: tuple[str, str], tmp_path: Path, workspace: Path
) -> None:
    done = run(*reports)
    (kept,) = (workspace / "reports").glob("compare-s-*.html")
    assert f"page: {kept}" in done.output
    told = tmp_path / "page.html"
    assert f"page: {told}" in run(*reports, "--html", str(told)).output
    assert told.read_text() == kept.read_text()
    assert "<h1>new against old</h1>" in told.read_text()
