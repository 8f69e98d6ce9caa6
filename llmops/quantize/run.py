"""A quantized artifact from a whole model: checked before anything is loaded, made in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmops.errors import EnvironmentFault, InputError
from llmops.events import Listener
from llmops.files import digest_of, file_digest, folder_digest, new_folder, write_json
from llmops.hardware import Machine, free_disk
from llmops.quantize.calibration import Source, contents, encoded
from llmops.quantize.schemes import SCHEMES, Forecast, Scheme
from llmops.records import ModelSource
from llmops.workspace import Workspace

MADE_BY = 1
"""Raised whenever the same request would give other bytes, so that nothing old is taken for new."""
_PACKAGES = ("auto-round", "bitsandbytes", "compressed-tensors", "torch", "transformers")
_DECIDE = ("name", "weight_bits", "activation_bits", "group", "format", "preset")
"""What of a scheme decides the bytes; the rest says where they run."""
_DESCRIBES = ("manifest.json", "README.md")


@dataclass(frozen=True, slots=True)
class Request:
    """All that decides which bytes come out.

    Attributes:
        scheme: by name.
        original: digest of what the result says the same as: an adapter that was merged, or the model itself.
        model: digest of the whole model that is quantized.
        iters: tuning steps of each layer; 0 rounds to the nearest.
        samples: rows the rounding is tuned on at most.
        source: where those come from; None where nothing is tuned.
    """

    scheme: str
    original: str
    model: str
    iters: int
    samples: int
    seed: int
    source: Source | None

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for two requests to be one; the thread count decides the order of sums on a CPU."""
        tuned = None if self.source is None else {"digest": self.source.digest, "samples": self.samples}
        return {
            "made_by": MADE_BY,
            "scheme": {key: getattr(SCHEMES[self.scheme], key) for key in _DECIDE},
            "base": self.original,
            "model": self.model,
            "iters": self.iters,
            "seed": self.seed if self.iters else None,
            "calibration": tuned,
            "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
            "packages": packages(),
        }

    @property
    def digest(self) -> str:
        return digest_of(self.identity)


@dataclass(frozen=True, slots=True)
class Quantized:
    """What came out, in the folder `artifact`.

    Attributes:
        rows, tokens: the rounding was tuned on; 0 where it was to the nearest.
        seconds: wall time of the process that made it, its start included.
        peak_bytes: memory of that process at its peak: of the GPU where there is one.
        disk_bytes: of the weights' files.
    """

    artifact: Path
    digest: str
    rows: int
    tokens: int
    seconds: float
    peak_bytes: int
    disk_bytes: int


def packages() -> dict[str, str]:
    """Versions of what makes the weights."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def check_packages(scheme: Scheme) -> None:
    """Raises EnvironmentFault where the library that makes the scheme is not installed."""
    needed = "bitsandbytes" if scheme.format == "bitsandbytes" else "auto-round"
    if needed not in packages():
        raise EnvironmentFault(
            f"{scheme.name} is made by {needed}, which is not installed", fix=f"pip install {needed}"
        )


def check_plain(config: Mapping[str, Any], *, named: str) -> None:
    """Raises InputError where the model that a `config.json` describes is quantized already."""
    before = config.get("quantization_config")
    if before:
        how = before.get("quant_method", "some way") if isinstance(before, Mapping) else "some way"
        raise InputError(
            f"{named} is quantized already, by {how}", fix="quantize the model that it was made from instead"
        )


def check_room(found: Forecast, machine: Machine, out: Path, *, named: str) -> None:
    """Raises EnvironmentFault where the forecast says that memory or disk is too small."""
    have = machine.gpus[0].free_bytes if machine.gpus else machine.free_memory_bytes
    if found.memory > have:
        raise EnvironmentFault(
            f"quantizing {named} needs about {found.memory / 2**30:.1f} GiB of memory, {have / 2**30:.1f} GiB are free",
            fix="take fewer rows with --samples, round to the nearest with --fast, or use a larger machine",
        )
    free, need = free_disk(out), 2 * found.disk
    if need > free:
        raise EnvironmentFault(
            f"{need / 2**30:.1f} GiB are needed in {out} for the result and a copy, {free / 2**30:.1f} GiB are free",
            fix="free some space, or set LLMOPS_HOME to a larger disk",
        )


def quantize(request: Request, model: ModelSource, *, out: Path, workspace: Workspace, listener: Listener) -> Quantized:
    """Write the quantized `model` to the folder `out`, whole or not at all.

    All files but weights and configuration are those of the model, byte for byte: tokenizer, chat template and
    generation settings. The same request on the same machine gives the same bytes.

    Raises:
        InputError: there are no rows to tune on, or the template refuses one.
        EnvironmentFault: the library fails with this model, or the disk is full.
    """
    scheme = SCHEMES[request.scheme]
    check_packages(scheme)
    rows: list[list[int]] = []
    if request.iters and scheme.calibrated:
        assert request.source is not None, "tuning needs rows"
        rows = _rows(request, request.source, model, workspace)
        listener.say(f"{scheme.name}: tuned on {len(rows)} rows of {request.source.what}")
    started = time.monotonic()
    try:
        with new_folder(out) as fresh:
            made = fresh / ".made"
            made.mkdir()
            job = {
                "model": str(model.folder),
                "out": str(made / "model"),
                "format": scheme.format,
                "preset": scheme.preset,
                "iters": request.iters if scheme.calibrated else 0,
                "seed": request.seed,
                "rows": rows,
            }
            ended = _run(job, scheme, made, listener)
            _collect(Path(ended["folder"]), model.folder, fresh)
            shutil.rmtree(made)
            digest = folder_digest(fresh)
    except OSError as error:
        raise EnvironmentFault(
            f"the quantized model could not be written to {out}: {error.strerror or error}",
            fix="free disk space, then run the same command again",
        ) from error
    return Quantized(
        artifact=out,
        digest=digest,
        rows=len(rows),
        tokens=sum(map(len, rows)),
        seconds=time.monotonic() - started,
        peak_bytes=int(ended["peak_bytes"]),
        disk_bytes=weights_bytes(out),
    )


def weights_bytes(folder: Path) -> int:
    """Bytes of a folder's files of weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _rows(request: Request, source: Source, model: ModelSource, workspace: Workspace) -> list[list[int]]:
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model.folder), local_files_only=True)
    config = AutoConfig.from_pretrained(str(model.folder), local_files_only=True).get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    if source.file is not None and file_digest(source.file) != source.digest:
        raise EnvironmentFault(f"{source.file} changed while it was read", fix="run the command again")
    return encoded(contents(source, workspace), tokenizer, samples=request.samples, seed=request.seed, context=context)


def _run(job: Mapping[str, Any], scheme: Scheme, folder: Path, listener: Listener) -> dict[str, Any]:
    """Have a process do the job; what it said last."""
    asked, log = folder / "job.json", folder / "log"
    write_json(asked, job)
    reading, writing = os.pipe()
    command = [sys.executable, "-P", "-m", "llmops.quantize.process", str(asked), str(writing)]
    ended: dict[str, Any] = {}
    with log.open("wb") as output, os.fdopen(reading, encoding="utf-8") as pipe:
        try:
            process = subprocess.Popen(
                command,
                env=_environment(folder),
                cwd=folder,  # the libraries leave folders where they run
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
            )
        finally:
            os.close(writing)
        try:
            for line in pipe:
                if not line.endswith("\n"):
                    break  # it ended in the middle of a word
                said = json.loads(line)
                if "layers" in said:
                    listener.advance(f"{scheme.name}: layers", said["layers"], said["of"])
                else:
                    ended = said
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode or not ended:
        raise _failed(scheme, process.returncode, log.read_text(encoding="utf-8", errors="replace"))
    return ended


def _environment(folder: Path) -> dict[str, str]:
    """Offline, with files where they are removed, finding this package as the parent did; what the user set stands."""
    ours = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    return {
        "AR_LOG_LEVEL": "INFO",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        **os.environ,
        "PYTHONPATH": f"{ours}{os.pathsep}{before}" if before else ours,
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(folder),
        "AR_WORK_SPACE": str(folder / "work"),
    }


def _failed(scheme: Scheme, code: int, log: str) -> EnvironmentFault:
    """The fault with the last error the log names; the log itself stays for whoever looks into it."""
    handle, name = tempfile.mkstemp(prefix="llmops-quantize-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(log)
    errors = [line.strip() for line in log.splitlines() if "Error" in line and "Traceback" not in line]
    why = errors[-1][-300:] if errors else "killed, memory ran out?" if code == -9 else f"it ended with status {code}"
    return EnvironmentFault(f"{scheme.name} cannot be made of this model: {why}", fix=f"see {name}")


def _collect(made: Path, original: Path, out: Path) -> None:
    """Weights and configuration of what was made, everything else of the original."""
    for file in sorted(made.iterdir()):
        if _replaced(file):
            shutil.move(file, out / file.name)
            (out / file.name).chmod(0o644)  # a service may run as another user
    for file in sorted(original.iterdir()):
        if file.is_file() and file.name not in _DESCRIBES and not _replaced(file) and not file.name.startswith("."):
            shutil.copyfile(file, out / file.name)


def _replaced(file: Path) -> bool:
    """Whether quantizing makes the file anew."""
    return file.suffix == ".safetensors" or file.name in {
        "config.json",
        "quantization_config.json",
        "model.safetensors.index.json",
    }
