"""`llmops eval` answers, scores, prints the table and the next command, and leaves a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from llmops.cli import evaluate
from llmops.errors import FileFaults, InputError
from tests.eval.chat_server import chat, serving

pytestmark = pytest.mark.filterwarnings("ignore:::lm_eval", "ignore:::datasets", "ignore:::multiprocess")

SUITE = """\
name: greetings
items: {source: %s, prompt: "{q}", references: "{a}"}
generation: {max_tokens: 4}
scorers:
  - bleu: {}
  - exact_match: {}
"""


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()

    @made.callback()
    def _root() -> None:
        """More commands than one, as in the real one."""

    evaluate.register(made)
    return made


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    rows = tmp_path / "rows.csv"
    rows.write_text("q,a\n" + "".join(f"question {number},answer\n" for number in range(5)))
    path = tmp_path / "greetings.yaml"
    path.write_text(SUITE % rows)
    return path


def test_the_table_the_report_and_the_next_command_are_printed(
    app: typer.Typer, suite: Path, random_base: Path, workspace: Path
) -> None:
    done = CliRunner().invoke(app, ["eval", str(random_base), str(suite)], catch_exceptions=False)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["suite", "metric", str(random_base), "95%", "interval"]
    assert lines[1].split()[:2] == ["greetings", "bleu"]
    assert "greetings: 5 of 5 answers were cut; raise its generation.max_tokens" in lines
    (report,) = (workspace / "reports").glob("greetings-*.json")
    assert f"report: {report}" in lines
    page = report.with_suffix(".html")
    assert f"page: {page}" in lines
    assert json.loads(report.read_text())["digest"] in page.read_text()
    assert lines[-1] == f"next: llmops compare ANOTHER-MODEL {random_base} {suite}, to see by how much they differ"


def test_json_holds_the_reports_and_nothing_else_goes_to_standard_output(
    app: typer.Typer, suite: Path, random_base: Path, workspace: Path, tmp_path: Path
) -> None:
    arguments = ["eval", str(random_base), str(suite), "--limit", "3", "--json", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    told = json.loads(done.stdout)
    assert told["verdict"] is None
    (report,) = told["reports"]
    assert (report["suite"], report["items"]) == ("greetings", 3)
    assert [score["metric"] for score in report["scores"]] == ["bleu", "exact_match"]
    written = json.loads(Path(report["file"]).read_text())
    assert Path(report["file"]).parent == tmp_path / "out"
    assert written["digest"] == report["digest"]
    assert len(written["items"]) == 3


def test_an_adapter_is_measured_on_the_base_it_names(
    app: typer.Typer, suite: Path, random_base: Path, workspace: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(random_base))
    adapter = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapter.save_pretrained(str(tmp_path / "adapter"))
    done = CliRunner().invoke(app, ["eval", str(tmp_path / "adapter"), str(suite)], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == (
        f"next: llmops compare ANOTHER-MODEL {tmp_path / 'adapter'} {suite}, to see by how much they differ"
    )


def test_recorded_answers_are_judged_and_no_model_is_looked_for(
    app: typer.Typer, suite: Path, workspace: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": f"question {number}", "said": "answer" if number < 2 else "x"} for number in range(5)]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["eval", "their-model", str(suite), "--answers", str(file), "--answer-key", "said"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.stdout.splitlines()[0].split() == ["suite", "metric", "their-model", "95%", "interval"]
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    (report,) = json.loads(done.stdout)["reports"]
    assert {score["metric"]: score["value"] for score in report["scores"]}["exact_match"] == 2 / 5
    # Neither times nor tokens are known of answers from elsewhere.
    assert report["measures"] == {
        "words_mean": 1.0,
        "repetition_mean": 0.0,
        "empty_share": 0.0,
        "refusal_share": 0.0,
        "toxic_share": 0.0,
    }
    limited = CliRunner().invoke(app, [*arguments, "--json", "--limit", "3"], catch_exceptions=False)
    assert json.loads(limited.stdout)["reports"][0]["items"] == 3


def test_a_served_model_is_asked_and_its_bytes_are_said_not_to_be_seen(
    app: typer.Typer, suite: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_OF_IT", "s3cret")
    with serving(lambda number, body: chat("answer")) as served:
        arguments = ["eval", "m", str(suite), "--endpoint", served.url, "--api-key-env", "KEY_OF_IT", "--json"]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        again = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert len(served.asked) == 5
        with pytest.raises(InputError, match="the variable NO_KEY is empty or not set"):
            CliRunner().invoke(app, [*arguments, "--api-key-env", "NO_KEY"], catch_exceptions=False)
    (report,) = json.loads(done.stdout)["reports"]
    assert {score["metric"]: score["value"] for score in report["scores"]}["exact_match"] == 1.0
    assert report["digest"] == json.loads(again.stdout)["reports"][0]["digest"]
    written = Path(report["file"]).read_text()
    assert json.loads(written)["model"]["revision"] == "served, bytes not seen"
    kept = [file.read_text() for file in workspace.rglob("*.jsonl")]
    assert "s3cret" not in written + "".join(kept)


def test_answers_come_from_one_place(app: typer.Typer, suite: Path, workspace: Path) -> None:
    both = ["eval", "m", str(suite), "--endpoint", "http://h/v1", "--answers", "a.jsonl"]
    with pytest.raises(InputError, match="not from both"):
        CliRunner().invoke(app, both, catch_exceptions=False)
    with pytest.raises(InputError, match="--api-key-env is for an --endpoint"):
        CliRunner().invoke(app, ["eval", "m", str(suite), "--api-key-env", "X"], catch_exceptions=False)


def test_the_weights_of_an_adapter_and_its_base_can_be_bounded_by_a_gate(
    app: typer.Typer, suite: Path, random_base: Path, workspace: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text("rules:\n  - {suite: greetings, measure: weights_gib, at_most: 0.01}\n")
    arguments = ["eval", str(random_base), str(suite), "--gate", str(gate), "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    (rule,) = json.loads(done.stdout)["verdict"]["rules"]
    assert rule["result"] == "PASS"
    assert rule["value"] == sum(file.stat().st_size for file in random_base.glob("*.safetensors")) / 2**30


def test_a_second_evaluation_asks_nothing_unless_told_to(
    app: typer.Typer, suite: Path, random_base: Path, workspace: Path
) -> None:
    def run(*options: str) -> tuple[dict[str, Any], str]:
        arguments = ["eval", str(random_base), str(suite), *options]
        spoken = CliRunner().invoke(app, arguments, catch_exceptions=False)
        as_json = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
        return json.loads(as_json.stdout)["reports"][0], spoken.stderr

    anew, spoken = run("--no-cache")
    assert "from the cache" not in spoken
    assert not list((workspace / "cache" / "answers").glob("*"))
    assert "items_per_s" in anew["measures"]
    kept, spoken = run()
    assert "from the cache" not in spoken
    again, spoken = run()
    assert "5 of 5 answers come from the cache" in spoken
    assert again["digest"] == kept["digest"] == anew["digest"]
    assert "items_per_s" not in again["measures"]
    assert again["measures"]["latency_p95_ms"] == kept["measures"]["latency_p95_ms"]


def test_faults_of_a_suite_are_named_before_the_model_is_looked_for(
    app: typer.Typer, suite: Path, workspace: Path
) -> None:
    suite.write_text(suite.read_text().replace("exact_match", "exact_macth"))
    with pytest.raises(FileFaults, match="did you mean `exact_match`"):
        CliRunner().invoke(app, ["eval", "no/such-model", str(suite)], catch_exceptions=False)


def test_a_model_that_is_not_there_is_named(app: typer.Typer, suite: Path, workspace: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder \./nowhere"):
        CliRunner().invoke(app, ["eval", "./nowhere", str(suite)], catch_exceptions=False)
    assert not list((workspace / "reports").glob("*"))


GATE = """\
rules:
  - {suite: greetings, metric: exact_match, at_least: %s}
"""


def recorded(folder: Path, right: int) -> Path:
    file = folder / "answers.jsonl"
    rows = [{"prompt": f"question {n}", "answer": "answer" if n < right else "no"} for n in range(60)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def sixty(tmp_path: Path) -> Path:
    rows = tmp_path / "sixty.csv"
    rows.write_text("q,a\n" + "".join(f"question {number},answer\n" for number in range(60)))
    path = tmp_path / "sixty.yaml"
    path.write_text(SUITE % rows)
    return path


@pytest.mark.parametrize(
    ("bound", "code", "result"), [("0.5", 0, "PASS"), ("0.95", 3, "FAIL"), ("0.78", 4, "INCONCLUSIVE")]
)
def test_a_gate_ends_in_its_exit_code_and_in_files_for_a_pull_request(
    app: typer.Typer, sixty: Path, workspace: Path, tmp_path: Path, bound: str, code: int, result: str
) -> None:
    from xml.etree import ElementTree

    gate = tmp_path / "gate.yaml"
    gate.write_text(GATE % bound)
    answers = recorded(tmp_path, 48)
    files = ["--junit", str(tmp_path / "junit.xml"), "--markdown", str(tmp_path / "scores.md")]
    arguments = ["eval", "elsewhere", str(sixty), "--answers", str(answers), "--gate", str(gate), *files]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, done.output
    assert f"{result} by {gate}" in done.stdout
    (case,) = ElementTree.parse(tmp_path / "junit.xml").getroot().iter("testcase")
    assert case.get("name") == f"greetings exact_match ≥ {float(bound):g}"
    assert [child.tag for child in case] == [{"PASS": "system-out", "FAIL": "failure"}.get(result, "error")]
    assert f"**{result}**" in (tmp_path / "scores.md").read_text()
    assert "| greetings | bleu |" in (tmp_path / "scores.md").read_text()
    (verdict,) = (workspace / "reports").glob("verdict-*.json")
    assert json.loads(verdict.read_text())["result"] == result


def test_a_gate_compares_with_a_report(app: typer.Typer, sixty: Path, workspace: Path, tmp_path: Path) -> None:
    CliRunner().invoke(app, ["eval", "old", str(sixty), "--answers", str(recorded(tmp_path, 30))])
    (report,) = (workspace / "reports").glob("greetings-*.json")
    gate = tmp_path / "gate.yaml"
    gate.write_text("against: champion\nrules:\n  - {suite: greetings, metric: exact_match, better_by: 0.1}\n")
    arguments = ["--answers", str(recorded(tmp_path, 58)), "--gate", str(gate), "--against", str(report), "--json"]
    done = CliRunner().invoke(app, ["eval", "new", str(sixty), *arguments])
    assert done.exit_code == 0, done.output
    verdict = json.loads(done.stdout)["verdict"]
    assert (verdict["result"], verdict["against"], len(verdict["reports"])) == ("PASS", str(report), 2)


def test_what_is_for_a_gate_needs_one(app: typer.Typer, sixty: Path, workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no gate to judge by"):
        CliRunner().invoke(app, ["eval", "m", str(sixty), "--junit", "x.xml"], catch_exceptions=False)
    gate = tmp_path / "gate.yaml"
    gate.write_text(GATE.replace("greetings", "greting") % 1)
    with pytest.raises(InputError, match="did you mean `greetings`"):
        CliRunner().invoke(app, ["eval", "m", str(sixty), "--gate", str(gate)], catch_exceptions=False)


def test_rules_that_compare_are_not_left_out_unless_said(
    app: typer.Typer, sixty: Path, workspace: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text("against: champion\nrules:\n  - {suite: greetings, metric: exact_match, better_by: 0.1}\n")
    arguments = ["eval", "new", str(sixty), "--answers", str(recorded(tmp_path, 58)), "--gate", str(gate)]
    with pytest.raises(InputError, match="compares with `champion`, and new is no name in the registry"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    done = CliRunner().invoke(app, [*arguments, "--against", "none"])
    assert done.exit_code == 0, done.output
    assert "nothing to compare with" in done.stdout


def test_scores_stand_with_their_intervals(app: typer.Typer, sixty: Path, workspace: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["eval", "m", str(sixty), "--answers", str(recorded(tmp_path, 48))])
    (line,) = [line for line in done.stdout.splitlines() if "exact_match" in line]
    # Wilson's interval of 48 in 60.
    assert line.split() == ["exact_match", "0.8000", "0.6822", "to", "0.8817"]
    assert "latency" not in done.stdout


def test_a_task_of_the_harness_is_judged_like_a_suite(
    app: typer.Typer, random_base: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness (extra lm-eval)")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"q": f"is it {n}?", "right": n % 2}) + "\n" for n in range(40)))
    (tmp_path / "coin.yaml").write_text(
        f"task: coin\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: ['no', 'yes']\n"
        "doc_to_target: '{{right}}'\nmetric_list: [{metric: acc}]\n"
    )
    gate = tmp_path / "gate.yaml"
    gate.write_text("rules:\n  - {suite: 'lm-eval:coin', metric: acc, at_least: 0.05}\n")
    arguments = ["eval", str(random_base), f"lm-eval:{tmp_path}/coin.yaml", "--gate", str(gate), "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [report["suite"] for report in told["reports"]] == ["lm-eval:coin"]
    assert told["verdict"]["rules"][0]["rule"] == "lm-eval:coin acc ≥ 0.05"
    with pytest.raises(InputError, match="asks the model itself"):
        CliRunner().invoke(app, [*arguments, "--answers", str(rows)], catch_exceptions=False)
