"""From human ratings to a gate that rests on a judge: calibrate, evaluate, decide, correct, compare."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from llmops.cli.main import app
from llmops.errors import EnvironmentFault, InputError
from tests.eval.chat_server import Reply, Served, chat, serving

NUMBER = 60
ONE_TEXT = "scale: {kind: likert, labels: [bad, poor, so-so, good, best]}"


def quality(text: str) -> int:
    """Tests agree that an answer is as good as the number it ends in."""
    return int(text.rsplit("-", 1)[1])


def judging(_: int, body: dict[str, Any]) -> Reply:
    """Sees quality, and prefers the better of two."""
    lines = body["messages"][0]["content"].splitlines()
    shown = {line.split()[0]: line.split()[-1] for line in lines if line.split()[:1] and line.split()[0].isupper()}
    if "ANSWER" in shown:
        return chat(f"VERDICT: {quality(shown['ANSWER'])}")
    first, second = quality(shown["FIRST"]), quality(shown["SECOND"])
    return chat(f"VERDICT: {'A' if first > second else 'B' if second > first else 'TIE'}")


@dataclass
class Site:
    """A folder with suites, rubrics, prompts and tables, and the judge's server."""

    folder: Path
    served: Served

    def file(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return str(self.folder / name)

    def suite(self, name: str = "s", *, scale: str = ONE_TEXT, calibration: str = "null") -> str:
        rubric = self.file(f"{name}-rubric.yaml", f"name: r\nversion: 1\nquestion: How good?\n{scale}\n")
        texts = "FIRST {first}\nSECOND {second}" if "pairwise" in scale else "ANSWER {answer}"
        prompt = self.file(f"{name}-prompt.md", f"PROMPT {{prompt}}\n{texts}\n{{verdict}}")
        items = [{"q": f"q-{place}", "a": f"good-{1 + place % 5}"} for place in range(NUMBER)]
        source = self.rows("items.jsonl", items)
        judge = (
            f"{{rubric: {rubric}, prompt: {prompt}, endpoint: {self.served.url}, model: m, attempts: 1, "
            f"calibration: {calibration}}}"
        )
        return self.file(
            f"{name}.yaml",
            f"name: {name}\nitems: {{source: {source}, prompt: '{{q}}', references: '{{a}}'}}\n"
            f"scorers:\n  - judge: {judge}\n  - exact_match: {{}}\n",
        )

    def rows(self, name: str, rows: list[dict[str, Any]]) -> str:
        return self.file(name, "".join(json.dumps(row) + "\n" for row in rows))

    def answers(self, name: str, gain: int = 0) -> str:
        made = [{"prompt": f"q-{n}", "answer": f"{name}-{min(5, 1 + n % 5 + gain)}"} for n in range(NUMBER)]
        return self.rows(f"{name}.jsonl", made)

    def report(self, suite: str, name: str, gain: int = 0) -> str:
        done = run("eval", name, suite, "--answers", self.answers(name, gain), "--json")
        assert done.exit_code == 0, done.output
        return str(json.loads(done.stdout)["reports"][0]["file"])

    def ratings(self, off: int) -> str:
        """Human ratings of other answers, every `off`-th one step from what the judge will say."""
        rows = []
        for place in range(100):
            step = 1 + place % 5
            moved = step if place % off else min(5, step + 1)
            rows.append({"prompt": f"p-{place}", "answer": f"x-{step}", "rating": moved})
        return self.rows("ratings.jsonl", rows)


@pytest.fixture
def site(tmp_path: Path, workspace: Path) -> Iterator[Site]:
    with serving(judging) as served:
        yield Site(tmp_path, served)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_gate_rests_on_a_judge_once_it_is_calibrated(site: Site) -> None:
    gate = site.file("gate.yaml", "rules: [{suite: s, metric: judge, at_least: 0.3}]")
    suite, answers = site.suite(), site.answers("new", 1)
    refused = run("eval", "new", suite, "--answers", answers, "--gate", gate)
    assert isinstance(refused.exception, InputError)
    assert "agrees with people is not known" in str(refused.exception)
    assert site.served.asked == []  # before anything was measured

    out = str(site.folder / "calibration.json")
    done = run("judge", "calibrate", suite, site.ratings(off=10), "--out", out)
    assert done.exit_code == 0, done.output
    assert "judge m by r@1: 100 ratings of 100 things on 100 prompts" in done.output
    assert "agreement      0.900" in done.output  # ten of them moved by a step
    assert "a gate may rest on it" in done.output

    passed = run("eval", "new", site.suite(calibration=out), "--answers", answers, "--gate", gate)
    assert passed.exit_code == 0, passed.output
    assert "PASS" in passed.output
    assert "judge m: kappa 0.9" in passed.output
    asked = len(site.served.asked)
    assert run("eval", "new", site.suite(calibration=out), "--answers", answers, "--gate", gate).exit_code == 0
    assert len(site.served.asked) == asked == 100 + NUMBER  # what it said before is kept


def test_a_judge_that_agrees_too_little_is_no_gate(site: Site) -> None:
    rows = [{"prompt": f"p-{n}", "answer": f"x-{1 + n % 5}", "rating": 1 + (n // 5) % 5} for n in range(100)]
    out = str(site.folder / "calibration.json")
    done = run("judge", "calibrate", site.suite(), site.rows("ratings.jsonl", rows), "--out", out, "--json")
    found = json.loads(done.stdout)
    assert abs(found["kappa"]["value"]) < 0.01
    assert found["file"] == out
    gate = site.file("gate.yaml", "rules: [{suite: s, metric: judge, at_least: 0.3}]")
    refused = run("eval", "new", site.suite(calibration=out), "--answers", site.answers("new"), "--gate", gate)
    assert isinstance(refused.exception, InputError)
    assert "agrees too little with people" in str(refused.exception)


def test_a_changed_prompt_is_another_judge_than_the_one_calibrated(site: Site) -> None:
    out = str(site.folder / "calibration.json")
    assert run("judge", "calibrate", site.suite(), site.ratings(off=10), "--out", out).exit_code == 0
    suite = site.suite(calibration=out)
    site.file("s-prompt.md", "Be strict.\nANSWER {answer}\nPROMPT {prompt}\n{verdict}")
    refused = run("eval", "new", suite, "--answers", site.answers("new"))
    assert isinstance(refused.exception, InputError)
    assert "is of another judge: prompt " in str(refused.exception)


def test_people_who_rated_some_answers_correct_the_mean_of_all(site: Site) -> None:
    report = site.report(site.suite(), "new")
    rated = [{"prompt": f"q-{n}", "answer": f"new-{1 + n % 5}", "rating": max(1, n % 5)} for n in range(0, NUMBER, 2)]
    done = run("judge", "correct", report, site.rows("rated.jsonl", rated), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    # The judge says steps 1 to 5 evenly; people one less, where they can.
    assert found["judge"] == pytest.approx(0.5)
    assert found["people"]["value"] == pytest.approx(0.3)
    assert found["corrected"]["low"] < 0.3 < found["corrected"]["high"]
    assert found["corrected"]["high"] - found["corrected"]["low"] < found["people"]["high"] - found["people"]["low"]
    shown = run("judge", "correct", report, site.rows("rated.jsonl", rated))
    assert "people     0.3000" in shown.output
    assert "corrected  0.3" in shown.output


def test_two_reports_are_compared_by_a_judge_in_both_orders(site: Site) -> None:
    suite, pairwise = site.suite(), site.suite("pairs", scale="scale: {kind: pairwise}")
    old, new = site.report(suite, "old"), site.report(suite, "new", gain=1)
    asked = len(site.served.asked)
    done = run("compare", old, new, "--judge", pairwise)
    assert done.exit_code == 0, done.output
    # One of five is at the top already: a tie.
    assert "prefers new in 90.0%" in done.output
    assert "48 wins, 12 ties, 0 losses; the order changed 0 of 60 verdicts" in done.output
    assert len(site.served.asked) == asked + 2 * NUMBER
    (found,) = json.loads(run("compare", old, new, "--judge", pairwise, "--json").stdout)
    assert (found["judge"]["wins"], found["judge"]["judge"]["model"]) == (48, "m")


@pytest.mark.parametrize(
    ("change", "arguments", "says"),
    [
        pytest.param("  - judge: {", [], "has no judge", id="no judge"),
        pytest.param("", ["--metric", "jugde"], "has no judge called 'jugde'", id="no such judge"),
        pytest.param("", ["--means", "3"], "--means 3 says nothing", id="a meaning without one"),
        pytest.param("", ["--rating", "mark"], "no column `mark`", id="no such column"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(site: Site, change: str, arguments: list[str], says: str) -> None:
    suite = Path(site.suite())
    if change:
        kept = [line for line in suite.read_text().splitlines() if not line.startswith(change)]
        suite.write_text("\n".join(kept))
    done = run("judge", "calibrate", str(suite), site.ratings(off=10), *arguments)
    assert isinstance(done.exception, InputError)
    assert says in str(done.exception)


def test_a_judge_that_is_down_is_an_error_and_leaves_no_calibration(site: Site) -> None:
    site.served.says = lambda number, body: (503, {}, b"overloaded")
    out = site.folder / "calibration.json"
    done = run("judge", "calibrate", site.suite(), site.ratings(off=10), "--out", str(out))
    assert isinstance(done.exception, EnvironmentFault)
    assert "the judge m does not answer" in str(done.exception)
    assert not out.exists()
