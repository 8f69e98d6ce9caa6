"""`llmops plan` says what a recipe takes, offline and without torch, as a table or as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from llmops.cli.main import app
from llmops.errors import EnvironmentFault, FileFaults, InputError
from llmops.finetune.known_shapes import find_shape

RECIPE = """
name: chat
base: {base}
data: {{train: [{{source: rows.jsonl, prompt: "{{a}}", completion: "{{b}}"}}]}}
adapter: {{kind: lora, rank: 8}}
batch: {{sequences: 8, per_device: 4, max_length: 256}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "rows.jsonl").write_text('{"a": "what is it", "b": "it is a test"}\n' * 40)
    write(tmp_path, "builtin:tiny")
    return tmp_path


def write(folder: Path, base: str) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.format(base=base))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", "recipe.yaml", *arguments], catch_exceptions=True)


def as_json(*arguments: str) -> dict[str, Any]:
    done = run("--json", *arguments)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.usefixtures("folder")
def test_the_table_names_every_part_and_the_next_command() -> None:
    done = run("--gpu", "l4")
    assert done.exit_code == 0, done.output
    for word in ("weights", "optimizer", "activations", "logits", "updates", "tokens", "time", "4N", "fits on", "L4"):
        assert word in done.stdout
    assert done.stdout.rstrip().endswith("next: llmops finetune recipe.yaml")


@pytest.mark.usefixtures("folder")
def test_json_holds_the_numbers() -> None:
    found = as_json("--gpu", "l4")
    assert found["updates"] == 5
    assert found["lengths"]["rows"] == 40
    memory = found["memory"]
    assert memory["total"] == sum(amount for part, amount in memory.items() if part != "total")
    assert found["fits_device"] is True
    assert found["base"]["parameters"]["total"] == find_shape("builtin:tiny").shape.parameters.total


@pytest.mark.usefixtures("folder")
def test_overrides_and_gpus_change_the_plan() -> None:
    assert as_json("--gpu", "l4", "--gpus", "2")["passes"] == 1
    assert as_json("--set", "schedule.epochs=3")["updates"] == 15


def test_the_price_of_the_folder_is_multiplied(folder: Path) -> None:
    assert as_json("--gpu", "l4")["cost"] is None
    (folder / "configs").mkdir()
    (folder / "configs" / "prices.yaml").write_text("usd_per_gpu_hour: {l4: 2.0}\n")
    found = as_json("--gpu", "l4", "--gpus", "2")
    assert found["cost"] == pytest.approx(2.0 * 2 * found["seconds"] / 3600)


@pytest.mark.usefixtures("folder")
def test_without_a_gpu_named_it_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = as_json()
    assert found["device"]["kind"] == "cpu"
    assert found["memory"]["process"] > 0


def test_a_base_that_is_not_on_this_machine_is_planned_from_the_table(folder: Path) -> None:
    write(folder, "meta-llama/Llama-3.1-8B-Instruct")
    found = as_json("--gpu", "h200")
    assert found["weights"] == 8_030_261_248
    assert "table" in found["base"]["origin"]


def test_a_gpu_that_is_too_small_is_told_with_what_helps(folder: Path) -> None:
    write(folder, "meta-llama/Llama-3.1-70B-Instruct")
    done = run("--gpu", "l4")
    assert done.exit_code == 0, "a plan answers, a run refuses"
    assert "too large for NVIDIA L4" in done.stdout
    assert "adapter.base_bits 4" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "fault", "says"),
    [
        pytest.param(["--set", "batch.sequnces=4"], FileFaults, "did you mean `sequences`", id="misspelt key"),
        pytest.param(["--set", "data.train.0.source=no.jsonl"], InputError, r"no\.jsonl", id="missing file"),
        pytest.param(["--set", "data.train.0.prompt='{c}'"], InputError, "no column `c`", id="missing column"),
        pytest.param(["--set", "adapter.rank=500"], InputError, "adapter.rank is 500", id="rank"),
        pytest.param(["--gpu", "h10"], InputError, "no GPU called 'h10'", id="unknown GPU"),
        pytest.param(["--gpu", "t4"], EnvironmentFault, "no bf16", id="precision"),
        pytest.param(["--gpus", "3"], InputError, "batch.sequences is 8", id="batch"),
        pytest.param(["--set", "base=org/unheard-of"], EnvironmentFault, "hf download", id="base"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_faults_name_what_to_mend(arguments: list[str], fault: type[Exception], says: str) -> None:
    done = run(*arguments)
    assert isinstance(done.exception, fault), done.output
    with pytest.raises(fault, match=says):
        raise done.exception


@pytest.mark.usefixtures("folder")
def test_nothing_heavy_is_imported_and_nothing_is_written(folder: Path) -> None:
    heavy = {"torch", "transformers", "numpy", "pyarrow", "datasets", "mlflow", "peft"}
    script = (
        "import sys\nfrom llmops.cli.main import app\n"
        "try:\n    app(['plan', 'recipe.yaml', '--gpu', 'l4', '--json'])\nexcept SystemExit as end:\n"
        f"    assert not end.code\nprint('HEAVY', sorted({heavy!r} & set(sys.modules)))"
    )
    before = sorted(folder.rglob("*"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "HEAVY []" in done.stdout, done.stdout[-300:] + done.stderr[-1000:]
    assert sorted(folder.rglob("*")) == before
