"""What this machine has, asked without importing torch; and the GPUs whose data sheets are known."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Literal

from llmops.errors import InputError, nearest

Precision = Literal["bf16", "fp16", "fp32"]
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Device:
    """Something to train on, as far as a plan needs it.

    Attributes:
        kind: `cuda` or `cpu`.
        key: its short name in `KNOWN_GPUS`; empty for what is not there.
        memory_bytes: as nvidia-smi reports it, or this machine's memory.
        teraflops: dense matrix peak per second by precision, 10^12 operations; a precision it lacks is absent.
            On a CPU the rate reached in training, since its peak says little.
        reserved_bytes: what the driver and CUDA's own context take before the first tensor.
        mfu: share of the peak that training is expected to reach; `mfu_origin` says why.
    """

    kind: Literal["cuda", "cpu"]
    name: str
    memory_bytes: int
    teraflops: Mapping[str, float]
    mfu: float
    mfu_origin: str
    reserved_bytes: int = 0
    key: str = ""

    @property
    def usable_bytes(self) -> int:
        return self.memory_bytes - self.reserved_bytes


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this machine."""

    name: str
    memory_bytes: int
    free_bytes: int
    compute_capability: str
    driver: str


@dataclass(frozen=True, slots=True)
class Extra:
    """One optional part of llmops: which of its packages are missing or too old here."""

    name: str
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def command(self) -> str:
        """What installs it."""
        return f"pip install 'llmops[{self.name}]'"


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine; memory and disk in bytes, disk where the workspace is."""

    cpu: str
    cores: int
    threads: int
    memory_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int
    gpus: tuple[Gpu, ...]
    python: str
    extras: tuple[Extra, ...]
    cpu_flags: frozenset[str] = field(default=frozenset(), repr=False)


_CONTEXT_BYTES = 600 * MIB
_DATA_SHEET_MFU = 0.38
_MFU_ORIGIN = "lower end of the 38 to 43 % that Llama 3 reached in bf16 (arXiv:2407.21783, table 4)"


def _card(key: str, name: str, mib: int, *, fp16: float, fp32: float, bf16: float | None = None) -> tuple[str, Device]:
    rates = {"fp16": fp16, "fp32": fp32} | ({} if bf16 is None else {"bf16": bf16})
    return key, Device("cuda", name, mib * MIB, rates, _DATA_SHEET_MFU, _MFU_ORIGIN, _CONTEXT_BYTES, key)


# Dense peaks (no sparsity) with 32-bit accumulation, and memory as nvidia-smi shows it. fp32 is the plain rate:
# training in fp32 here does not round to TF32. Sources: NVIDIA's data sheets of B200 (DGX B200), H200, H100, A100,
# L40S, L4, A10, T4 and V100; for the RTX cards the whitepapers of GA102 (appendix A) and AD102 (appendix A).
KNOWN_GPUS: Mapping[str, Device] = dict(
    [
        _card("b200", "NVIDIA B200", 183359, bf16=2250, fp16=2250, fp32=75),
        _card("h200", "NVIDIA H200", 143771, bf16=989, fp16=989, fp32=67),
        _card("h100-sxm", "NVIDIA H100 SXM", 81559, bf16=989, fp16=989, fp32=67),
        _card("h100-pcie", "NVIDIA H100 PCIe", 81559, bf16=756, fp16=756, fp32=51),
        _card("a100-80", "NVIDIA A100 80GB", 81920, bf16=312, fp16=312, fp32=19.5),
        _card("a100-40", "NVIDIA A100 40GB", 40960, bf16=312, fp16=312, fp32=19.5),
        _card("l40s", "NVIDIA L40S", 46068, bf16=362, fp16=362, fp32=91.6),
        _card("l4", "NVIDIA L4", 23034, bf16=121, fp16=121, fp32=30.3),
        _card("a10g", "NVIDIA A10G", 23028, bf16=70, fp16=70, fp32=31.5),
        _card("rtx4090", "NVIDIA GeForce RTX 4090", 24564, bf16=165, fp16=165, fp32=82.6),
        _card("rtx3090", "NVIDIA GeForce RTX 3090", 24576, bf16=71, fp16=71, fp32=35.6),
        _card("v100-32", "NVIDIA V100 32GB", 32768, fp16=125, fp32=15.7),
        _card("v100-16", "NVIDIA V100 16GB", 16384, fp16=125, fp32=15.7),
        _card("t4", "NVIDIA T4", 15360, fp16=65, fp32=8.1),
    ]
)

_BY_NAME = (
    (r"B200", "b200"),
    (r"H200", "h200"),
    (r"H100.*PCIe", "h100-pcie"),
    (r"H100", "h100-sxm"),
    (r"A100.*80", "a100-80"),
    (r"A100", "a100-40"),
    (r"L40S", "l40s"),
    (r"\bL4\b", "l4"),
    (r"\bA10G", "a10g"),
    (r"RTX 4090", "rtx4090"),
    (r"RTX 3090", "rtx3090"),
    (r"V100.*32", "v100-32"),
    (r"V100", "v100-16"),
    (r"\bT4\b", "t4"),
)

# 10^12 operations per core and second that training reached: 6,000 tokens/s of a 3.5 M-parameter Llama on two cores
# in bf16 (6 N operations a token), and about four fifths of it in fp32. Without AVX-512 half of that.
_CPU_CORE = {"bf16": 0.063, "fp16": 0.02, "fp32": 0.05}


def gpu_named(name: str) -> Device:
    """A known GPU by its short name (`h100-sxm`) or by what nvidia-smi calls it.

    Raises:
        InputError: no known GPU is called so.
    """
    short = name.lower().replace(" ", "-")
    if short in KNOWN_GPUS:
        return KNOWN_GPUS[short]
    # A short name with a slip in it is not taken for another GPU of the same family.
    if name.startswith(("NVIDIA ", "Tesla ")):
        for pattern, key in _BY_NAME:
            if re.search(pattern, name):
                return KNOWN_GPUS[key]
    raise InputError(f"no GPU called {name!r} is known{nearest(short, KNOWN_GPUS)}", fix=f"use {', '.join(KNOWN_GPUS)}")


def device_of(machine: Machine) -> Device:
    """What training on this machine would run on: its first GPU, else its CPU.

    A GPU that is not in the table gets its own memory and the rates of the slowest known card, and says so.
    """
    if not machine.gpus:
        slower = 1.0 if not machine.cpu_flags or "avx512f" in machine.cpu_flags else 0.5
        rates = {key: rate * machine.cores * slower for key, rate in _CPU_CORE.items()}
        origin = "the rate a 3.5 M-parameter model reached on two cores, per core"
        return Device("cpu", machine.cpu, machine.memory_bytes, rates, 1.0, origin)
    gpu = machine.gpus[0]
    try:
        known = gpu_named(gpu.name)
        rates, origin, key = dict(known.teraflops), known.mfu_origin, known.key
    except InputError:
        rates, origin = dict(KNOWN_GPUS["t4"].teraflops), f"{gpu.name} is not in the table; counted as a T4"
        key = ""
        if float(gpu.compute_capability or 0) >= 8:
            rates["bf16"] = rates["fp16"]
    return Device("cuda", gpu.name, gpu.memory_bytes, rates, _DATA_SHEET_MFU, origin, _CONTEXT_BYTES, key)


def machine(*, disk: Path | None = None) -> Machine:
    """What this machine has now; takes well under a second, some more where nvidia-smi has to start the driver.

    Args:
        disk: whose file system's free space is told; None takes the current folder's.
    """
    information = _lines_of("/proc/meminfo")
    total = _kib(information, "MemTotal")
    free = _kib(information, "MemAvailable")
    limit = _cgroup_limit()
    if limit is not None:
        total, free = min(total, limit), min(free, limit)
    cpu = _lines_of("/proc/cpuinfo")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        cpu=next((line.partition(":")[2].strip() for line in cpu if line.startswith("model name")), platform.machine()),
        cores=cores,
        threads=int(os.environ.get("OMP_NUM_THREADS") or cores),
        memory_bytes=total,
        free_memory_bytes=free,
        free_disk_bytes=free_disk(disk or Path.cwd()),
        gpus=gpus(),
        python=platform.python_version(),
        extras=extras(),
        cpu_flags=frozenset(next((line.partition(":")[2] for line in cpu if line.startswith("flags")), "").split()),
    )


def free_disk(path: Path) -> int:
    """Free bytes of the file system that holds `path`, or would once it is made."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


_QUERY = "name,memory.total,memory.free,compute_cap,driver_version"


def gpus(*, command: str = "nvidia-smi") -> tuple[Gpu, ...]:
    """The GPUs nvidia-smi tells of, those of CUDA_VISIBLE_DEVICES only; none where it is missing or fails."""
    try:
        done = subprocess.run(
            [command, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return _visible(parse_gpus(done.stdout)) if done.returncode == 0 else ()


def parse_gpus(answer: str) -> tuple[Gpu, ...]:
    """The GPUs in nvidia-smi's `csv,noheader,nounits` answer; memory comes in MiB."""
    found = []
    for line in answer.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == len(_QUERY.split(",")) and parts[1].isdigit():
            free = int(parts[2]) if parts[2].isdigit() else int(parts[1])
            found.append(Gpu(parts[0], int(parts[1]) * MIB, free * MIB, parts[3], parts[4]))
    return tuple(found)


def _visible(found: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return found
    numbers = [int(part) for part in wanted.split(",") if part.strip().isdigit()]
    if not numbers and wanted.strip() not in ("", "-1", "NoDevFiles"):
        # GPUs named by UUID: which they are is the driver's knowledge, how many is not.
        return found[: len(wanted.split(","))]
    return tuple(found[number] for number in numbers if number < len(found))


def extras() -> tuple[Extra, ...]:
    """The optional parts llmops declares, each with the packages it lacks here."""
    try:
        ours = distribution("llmops")
    except PackageNotFoundError:
        return ()
    needs: dict[str, list[str]] = {name: [] for name in ours.metadata.get_all("Provides-Extra") or ()}
    for requirement in ours.requires or ():
        wanted, _, marker = requirement.partition(";")
        named = re.search(r"extra\s*==\s*[\"']([^\"']+)", marker)
        if named and named.group(1) in needs:
            problem = _lacks(wanted.strip())
            if problem:
                needs[named.group(1)].append(problem)
    return tuple(Extra(name, tuple(missing)) for name, missing in needs.items())


def _lacks(requirement: str) -> str | None:
    """What is wrong with one requirement `name>=1.2`, in words; None when it is met."""
    match = re.match(r"([\w.-]+)(?:\[[^\]]*\])?\s*(?:>=\s*([\d.]+))?", requirement)
    assert match is not None
    name, least = match.group(1), match.group(2)
    try:
        have = version(name)
    except PackageNotFoundError:
        return name
    if least and _ordered(have) < _ordered(least):
        return f"{name} (has {have}, needs {least})"
    return None


def _ordered(text: str) -> tuple[int, ...]:
    numbers = [int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3]]
    return tuple(numbers + [0] * (3 - len(numbers)))


def _lines_of(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _kib(lines: list[str], key: str) -> int:
    found = next((line for line in lines if line.startswith(f"{key}:")), None)
    if found is not None:
        return int(found.split()[1]) * 1024
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _cgroup_limit() -> int | None:
    """Bytes a container may use, where it is limited."""
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        lines = _lines_of(place)
        if lines and lines[0].isdigit() and int(lines[0]) < 1 << 60:
            return int(lines[0])
    return None
