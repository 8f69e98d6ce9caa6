"""`llmops quantize` says beforehand what it would take, refuses early, and prints quality, size and speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from llmops.cli import quantize
from llmops.errors import EnvironmentFault, InputError, LlmopsError
from tests.eval.lively_models import small_llama
from tests.finetune.small_models import make_random_base


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_llama(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    rows = tmp_path / "rows.csv"
    rows.write_text("q,a\n" + "".join(f"question {number},answer\n" for number in range(4)))
    path = tmp_path / "suite.yaml"
    path.write_text(
        f"name: s\nitems: {{source: {rows}, prompt: '{{q}}', references: '{{a}}'}}\n"
        "generation: {max_tokens: 6}\nscorers: [{exact_match: {}}]\n"
    )
    return path


def run(*arguments: object) -> Result:
    app = typer.Typer()
    quantize.register(app)
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    if isinstance(done.exception, LlmopsError) or (done.exception and not isinstance(done.exception, SystemExit)):
        raise done.exception
    return done


def test_a_dry_run_says_of_every_scheme_where_it_runs_and_what_it_takes(workspace: Path, model: Path) -> None:
    printed = run(model, "--all", "--dry-run").stdout
    assert "w4a16: 4-bit weights" in printed
    assert "runs on GPU of compute capability 8.9 or more; served by vllm" in printed
    assert "of memory to make it" in printed
    assert printed.splitlines()[-1] == f"next: llmops quantize {model} --scheme w4a16"
    said = {row["scheme"]: row for row in json.loads(run(model, "--all", "--dry-run", "--json").stdout)}
    assert set(said) == {"w4a16", "w8a16", "w8a8", "fp8", "nf4"}
    assert said["nf4"]["served_by"] == "transformers"
    assert said["w4a16"]["disk_bytes"] < said["w8a8"]["disk_bytes"] < said["w8a8"]["original_bytes"]


def test_a_shape_that_does_not_fit_is_refused_before_a_suite_or_a_row_is_looked_for(
    workspace: Path, tmp_path: Path
) -> None:
    make_random_base(tmp_path / "narrow", hidden=64)
    with pytest.raises(InputError, match="does not fit w4a16: q_proj has 64 inputs") as refused:
        run(tmp_path / "narrow", "--scheme", "w4a16")
    assert refused.value.fix == "use a scheme that fits: nf4, w8a8"


def test_a_gpu_that_is_not_there_is_said(workspace: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(EnvironmentFault, match=r"w8a16 needs a GPU of compute capability 7\.5") as refused:
        run(model, "--scheme", "w8a16")
    assert "w4a16" in refused.value.fix


def test_where_no_scheme_can_be_made_each_says_why(workspace: Path, model: Path) -> None:
    with pytest.raises(InputError, match=r"no scheme makes .* smaller here") as refused:
        run(model, "--all", "--beside")
    assert f"w4a16: {model} is no adapter" in refused.value.problem


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param([], "say which scheme", id="no scheme"),
        pytest.param(["--all", "--scheme", "nf4"], "say which scheme", id="all and one"),
        pytest.param(["--scheme", "w4a61"], "did you mean `w4a16`", id="misspelt"),
        pytest.param(["--scheme", "nf4", "--fast", "--iters", "3"], "--fast tunes nothing", id="fast and tuned"),
        pytest.param(["--scheme", "nf4"], "by which suites", id="no suite"),
    ],
)
def test_what_cannot_be_meant_is_refused(workspace: Path, model: Path, arguments: list[str], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        run(model, *arguments)


def test_a_scheme_is_made_judged_and_registered(workspace: Path, model: Path, suite: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text('against: original\nrules: [{suite: "*", weights_at_most: 0.9}]\n')
    asked = (model, "--scheme", "nf4", "--fast", "--suite", suite, "--gate", gate)
    done = run(*asked)
    assert done.exit_code == 0, done.output
    beforehand = done.stderr.index("served by transformers; here: yes")
    assert beforehand < done.stderr.index("of memory to make it") < done.stderr.index("answers through")
    assert "✓ PASS" in done.stdout
    assert "nf4: PASS → models:/small-nf4/1" in done.stdout
    assert done.stdout.splitlines()[-1] == "next: llmops models approve small-nf4/1 --as SOMEBODY-ELSE"
    (found,) = json.loads(run(*asked, "--json").stdout)
    assert (found["version"], found["cached"], found["verdict"]["result"]) == ("models:/small-nf4/1", True, "PASS")
    gate.write_text('against: original\nrules: [{suite: "*", weights_at_most: 0.1}]\n')
    assert run(*asked).exit_code == 3


def test_its_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom llmops.cli.main import app\n"
        "try:\n    app(['quantize', '--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('HEAVY', sorted({'torch', 'transformers', 'mlflow', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "HEAVY []" in done.stdout, done.stdout[-500:] + done.stderr[-2000:]
