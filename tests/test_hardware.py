"""A machine is described without torch; a GPU is known by what nvidia-smi calls it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest

from llmops.errors import InputError
from llmops.hardware import KNOWN_GPUS, Gpu, Machine, device_of, extras, free_disk, gpu_named, gpus, machine, parse_gpus

ANSWER = """NVIDIA H100 80GB HBM3, 81559, 81000, 9.0, 550.54.15
NVIDIA GeForce RTX 4090, 24564, [N/A], 8.9, 550.54.15
"""


def machine_with(*found: Gpu, flags: frozenset[str] = frozenset({"avx512f"})) -> Machine:
    return Machine("cpu", 4, 4, 16 << 30, 8 << 30, 1 << 30, found, "3.11", (), flags)


@pytest.mark.parametrize(
    ("reported", "key"),
    [
        ("NVIDIA B200", "b200"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("Tesla V100-SXM2-32GB", "v100-32"),
        ("Tesla V100-SXM2-16GB", "v100-16"),
        ("Tesla T4", "t4"),
    ],
)
def test_a_gpu_is_known_by_its_reported_and_by_its_short_name(reported: str, key: str) -> None:
    assert gpu_named(reported) is KNOWN_GPUS[key]
    assert gpu_named(key).key == key


def test_the_table_is_in_order() -> None:
    for gpu in KNOWN_GPUS.values():
        rates = gpu.teraflops
        assert rates["fp32"] < rates["fp16"] == rates.get("bf16", rates["fp16"])
        assert 10 << 30 < gpu.usable_bytes < gpu.memory_bytes
    # Turing and Volta have no bfloat16.
    assert {key for key, gpu in KNOWN_GPUS.items() if "bf16" not in gpu.teraflops} == {"t4", "v100-16", "v100-32"}


def test_an_unknown_gpu_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean `h100-sxm`"):
        gpu_named("h100-smx")


def test_nvidia_smis_answer_is_read() -> None:
    first, second = parse_gpus(ANSWER)
    assert first == Gpu("NVIDIA H100 80GB HBM3", 81559 << 20, 81000 << 20, "9.0", "550.54.15")
    assert second.free_bytes == second.memory_bytes, "where the driver does not say"
    assert parse_gpus("NVIDIA-SMI has failed\n") == ()


@pytest.fixture
def fake_smi(tmp_path: Path) -> str:
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\ncat <<'EOF'\n{ANSWER}EOF\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["H100", "4090"]),
        ("1", ["4090"]),
        ("1,0", ["4090", "H100"]),
        ("", []),
        ("-1", []),
        ("GPU-8f2c", ["H100"]),
    ],
)
def test_only_visible_gpus_count(
    fake_smi: str, monkeypatch: pytest.MonkeyPatch, visible: str | None, names: list[str]
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = gpus(command=fake_smi)
    assert len(found) == len(names)
    assert all(name in gpu.name for name, gpu in zip(names, found, strict=True))


def test_a_machine_without_nvidia_smi_has_no_gpu() -> None:
    assert gpus(command="no-such-nvidia-smi") == ()


def test_training_runs_on_the_first_gpu_with_its_own_memory() -> None:
    gpu = Gpu("NVIDIA H100 80GB HBM3", 70 << 30, 70 << 30, "9.0", "550")
    device = device_of(machine_with(gpu, gpu))
    assert (device.kind, device.key, device.memory_bytes) == ("cuda", "h100-sxm", 70 << 30)
    assert device.teraflops["bf16"] == 989


def test_a_gpu_that_is_not_in_the_table_counts_as_the_slowest_and_says_so() -> None:
    device = device_of(machine_with(Gpu("NVIDIA Future 1", 48 << 30, 48 << 30, "12.0", "600")))
    assert device.memory_bytes == 48 << 30
    assert device.teraflops["bf16"] == KNOWN_GPUS["t4"].teraflops["fp16"]
    assert "not in the table" in device.mfu_origin
    assert not device.key
    old = device_of(machine_with(Gpu("NVIDIA Past 1", 8 << 30, 8 << 30, "6.1", "400")))
    assert "bf16" not in old.teraflops


def test_without_a_gpu_it_is_the_cpu_by_its_cores() -> None:
    device = device_of(machine_with())
    assert (device.kind, device.memory_bytes) == ("cpu", 16 << 30)
    older = device_of(machine_with(flags=frozenset({"avx2"})))
    assert older.teraflops["bf16"] == device.teraflops["bf16"] / 2


def test_this_machine_is_described(tmp_path: Path) -> None:
    found = machine(disk=tmp_path / "not" / "made" / "yet")
    assert 0 < found.free_memory_bytes <= found.memory_bytes
    assert found.free_disk_bytes == pytest.approx(free_disk(tmp_path), rel=0.05)
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert not (tmp_path / "not").exists()


def test_extras_are_those_declared_and_lack_what_is_not_installed() -> None:
    found = {extra.name: extra for extra in extras()}
    assert {"train", "cuda", "serve", "serve-cpu", "feedback", "dev"} <= found.keys()
    declared = [one for one in requires("llmops") or () if "extra == 'cuda'" in one.replace('"', "'")]
    try:
        version("liger-kernel")
    except PackageNotFoundError:
        assert found["cuda"].missing == ("liger-kernel",)
    else:
        assert found["cuda"].complete
    assert declared
    assert found["dev"].complete, "these tests run with it"
    assert found["train"].command == "pip install 'llmops[train]'"


def test_a_package_that_is_too_old_is_named_with_both_versions() -> None:
    from llmops.hardware import _lacks

    assert _lacks("pytest>=8.3") is None
    assert _lacks("pytest>=999.1") == f"pytest (has {version('pytest')}, needs 999.1)"
    assert _lacks("no-such-package[extra]>=1") == "no-such-package"


def test_nothing_heavy_is_imported() -> None:
    script = "import sys; from llmops.hardware import machine; machine(); print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
