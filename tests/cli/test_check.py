"""`llmops explain` says what every key means, and what cannot be used ends in two parts and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmops.eval.gates import Gate
from llmops.eval.suite import Suite
from llmops.explain import keys
from llmops.finetune.recipe import Recipe


def llmops(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmops.cli.main", *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


def test_every_key_is_printed_with_its_type_default_and_meaning() -> None:
    done = llmops("explain", "recipe")
    assert done.returncode == 0
    assert "batch.packing: true | false  (default false)\n    Put several rows into one sequence" in done.stdout
    assert "base: text  (required)\n    Model to start from" in done.stdout
    printed = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert len(printed) == len(list(keys(Recipe)))


def test_one_key_is_printed_with_those_below_it() -> None:
    done = llmops("explain", "recipe", "data.checks.similarity")
    assert done.stdout.splitlines()[0] == "data.checks.similarity: number  (default 0.9)"
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize(("kind", "model"), [("recipe", Recipe), ("suite", Suite), ("gate", Gate)])
def test_programs_read_the_keys_as_json(kind: str, model: type[Recipe | Suite | Gate]) -> None:
    printed = json.loads(llmops("explain", kind, "--json").stdout)
    assert [one["path"] for one in printed] == [key.path for key in keys(model)]


@pytest.mark.parametrize(("kind", "model"), [("recipe", Recipe), ("suite", Suite), ("gate", Gate)])
def test_editors_read_the_schema(kind: str, model: type[Recipe | Suite | Gate]) -> None:
    schema = json.loads(llmops("explain", kind, "--json-schema").stdout)
    assert set(schema["properties"]) == set(model.model_fields)


@pytest.mark.parametrize(
    ("arguments", "problem", "fix"),
    [
        pytest.param(
            ["recipe", "batch.packng"],
            "error: there is no key 'batch.packng'; did you mean `batch.packing`?",
            "  → leave the key out to see all of them",
            id="a key",
        ),
        pytest.param(
            ["recepie"],
            "error: there is no kind of file called 'recepie'; did you mean `recipe`?",
            "  → use one of: recipe, suite, gate, gateway, rubric, prices, campaign, feedback",
            id="a kind of file",
        ),
    ],
)
def test_a_misspelt_name_ends_in_two_lines_and_exit_code_2(arguments: list[str], problem: str, fix: str) -> None:
    done = llmops("explain", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [problem, fix]


FAULTY = """\
nmae: x
base: builtin:tiny
data: {train: [{source: a.jsonl, text: t}]}
batch: {sequences: 0}
"""


@pytest.mark.parametrize("command", [["finetune", "--dry-run"], ["plan"]], ids=" ".join)
def test_a_faulty_recipe_ends_with_all_its_faults_the_fix_and_exit_code_2(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "bad.yaml").write_text(FAULTY)
    done = llmops(*command, "bad.yaml", "--set", "seed=-1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: bad.yaml is not a valid recipe:",
        "  line 1: nmae: no such key; did you mean `name`?",
        "  line 4: batch.sequences: Input should be greater than 0 (got 0)",
        "  name: missing",
        "  seed: Input should be greater than or equal to 0 (got -1) (given by --set)",
        "  → mend the keys above; `llmops explain recipe` lists all of them",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"], "nothing is written, no workspace made"
