"""What a run needs to go on exactly where it was: trained weights, optimizer, generators, progress.

A checkpoint appears under its name whole or not at all; only safetensors and JSON are
written. Split weights are written by every process for itself, so a run resumes with as
many processes as it was saved with (their number is part of the run's identity).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmops.errors import EnvironmentFault
from llmops.files import put_in_place, sync_tree, write_json
from llmops.finetune.model import trained_parameters
from llmops.finetune.parallel import Processes, local_part
from llmops.finetune.tensor_files import system_errors

_JOIN = "::"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is.

    Attributes:
        update: optimizer updates made.
        tokens, trained_tokens: over all of them.
        seconds: spent in updates, validation and saving left out.
        best_loss: lowest validation loss so far, at update `best_update`.
        without_gain: validations since then.
        measures: of the held-out rows, beside `validation_loss`; `best_measures` beside `best_loss`.
        scaler: state of the fp16 loss scale.
    """

    update: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    loss: float = float("inf")
    best_loss: float | None = None
    best_update: int = 0
    without_gain: int = 0
    validation_loss: float | None = None
    scaler: Mapping[str, Any] | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    best_measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """The live objects a checkpoint is taken of and put back into."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    processes: Processes
    split: bool

    @property
    def writes(self) -> bool:
        """Whether this process writes weights: each one when they are split, else the first."""
        return self.split or self.processes.first

    @property
    def part(self) -> int:
        return self.processes.rank if self.split else 0


def save(root: Path, name: str, state: State, progress: Progress) -> Path:
    """Write a checkpoint under `root/name`; all processes call this together.

    Raises:
        EnvironmentFault: the disk is full; the checkpoint before this one is untouched.
    """
    final, fresh = root / name, root / f".{name}.new"
    problem: OSError | None = None
    if state.processes.first:
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            fresh.mkdir(parents=True)
        except OSError as error:
            problem = error
    state.processes.meet()
    try:
        if problem is not None:
            raise problem
        if state.writes:
            _write(_weights(state.model), fresh / f"weights-{state.part}.safetensors")
            _write(_optimizer_tensors(state), fresh / f"optimizer-{state.part}.safetensors")
        _write(_generators(state.processes.device), fresh / f"generators-{state.processes.rank}.safetensors")
        sync_tree(fresh)
    except OSError as error:
        problem = error
    failed = state.processes.largest(float(problem is not None))
    if failed:
        if state.processes.first:
            shutil.rmtree(fresh, ignore_errors=True)
        reason = (problem.strerror or str(problem)) if problem is not None else "another process could not write"
        raise EnvironmentFault(
            f"checkpoint {name} could not be written: {reason}",
            fix="free disk space, then run the same command again: it goes on from the last good checkpoint",
        )
    if state.processes.first:
        try:
            files = {file.name: file.stat().st_size for file in sorted(fresh.iterdir())}
            write_json(fresh / "progress.json", {**asdict(progress), "loss": _finite(progress.loss), "files": files})
            put_in_place(fresh, final)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise EnvironmentFault(
                f"checkpoint {name} could not be written: {error.strerror}",
                fix="free disk space, then run the same command again: it goes on from the last good checkpoint",
            ) from error
    state.processes.meet()
    return final


def latest(root: Path) -> Path | None:
    """The newest whole checkpoint under `root`; one whose files are missing or short is passed over."""
    found = sorted(root.glob("update-*"), reverse=True) if root.is_dir() else []
    return next((folder for folder in found if is_whole(folder)), None)


def is_whole(folder: Path) -> bool:
    """Whether every file of the checkpoint is there in its full size."""
    try:
        record = json.loads((folder / "progress.json").read_text())
        return all((folder / name).stat().st_size == size for name, size in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def name_of(update: int) -> str:
    return f"update-{update:08d}"


def prune(root: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for folder in sorted(root.glob("update-*"))[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)


def restore(folder: Path, state: State) -> Progress:
    """Put the checkpoint back into the live objects, generators last, and say where the run is."""
    progress = read_progress(folder)
    restore_weights(folder, state)
    _restore_optimizer(load_file(folder / f"optimizer-{state.part}.safetensors"), state)
    saved = load_file(folder / f"generators-{state.processes.rank}.safetensors")
    torch.set_rng_state(saved["cpu"])
    if "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"], state.processes.device)
    return progress


def read_progress(folder: Path) -> Progress:
    record = json.loads((folder / "progress.json").read_text())
    record.pop("files")
    loss = record.pop("loss")
    return replace(Progress(**record), loss=float("inf") if loss is None else loss)


def restore_weights(folder: Path, state: State) -> None:
    """Only the trained weights: the best ones, once training is over."""
    saved = load_file(folder / f"weights-{state.part}.safetensors")
    live = dict(trained_parameters(state.model))
    if saved.keys() != live.keys():
        raise ValueError(f"checkpoint {folder} holds other weights than the model trains")
    with torch.no_grad():
        for name, parameter in live.items():
            local_part(parameter).copy_(saved[name])


def rehearse(root: Path, state: State) -> None:
    """Save and reload once, early, and compare with what is live, so that hours later saving works.

    Raises:
        EnvironmentFault: what comes back is not what was saved.
    """
    folder = save(root, "rehearsal", state, Progress())
    good = True
    if state.writes:
        for kind, live in (("weights", _weights(state.model)), ("optimizer", _optimizer_tensors(state))):
            back = load_file(folder / f"{kind}-{state.part}.safetensors")
            good = good and back.keys() == live.keys() and all(_same_bits(back[key], live[key]) for key in live)
    bad = state.processes.largest(float(not good))
    if state.processes.first:
        shutil.rmtree(folder, ignore_errors=True)
    if bad:
        raise EnvironmentFault(
            "a rehearsed checkpoint did not come back as it was saved", fix=f"check the disk that holds {root}"
        )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: local_part(parameter.detach()).cpu().contiguous() for name, parameter in trained_parameters(model)}


def _optimizer_tensors(state: State) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, parameter in trained_parameters(state.model):
        for key, value in state.optimizer.state.get(parameter, {}).items():
            # bitsandbytes counts its steps in a plain int.
            tensor = local_part(value.detach()).cpu().contiguous() if isinstance(value, Tensor) else torch.tensor(value)
            if tensor.data_ptr() in written:
                # bitsandbytes shares one table of quantization levels among all weights; a file holds each by itself.
                tensor = tensor.clone()
            written.add(tensor.data_ptr())
            tensors[f"{name}{_JOIN}{key}"] = tensor
    return tensors


def _restore_optimizer(saved: Mapping[str, Tensor], state: State) -> None:
    live = dict(trained_parameters(state.model))
    for parameter in live.values():
        state.optimizer.state.pop(parameter, None)
    for full, tensor in saved.items():
        name, key = full.split(_JOIN)
        parameter = live[name]
        value: Any
        if key == "step":
            # torch's fused AdamW counts on the parameter's device, bitsandbytes in an int.
            value = int(tensor) if _counts_in_int(state.optimizer) else tensor.to(local_part(parameter).device)
        else:
            value = tensor.to(local_part(parameter).device)
            if hasattr(parameter, "device_mesh") and tensor.shape == local_part(parameter).shape:
                from torch.distributed.tensor import DTensor

                value = DTensor.from_local(
                    value,
                    parameter.device_mesh,
                    parameter.placements,
                    shape=parameter.shape,
                    stride=parameter.stride(),
                    run_check=False,
                )
        state.optimizer.state[parameter][key] = value


def _counts_in_int(optimizer: torch.optim.Optimizer) -> bool:
    return not isinstance(optimizer, torch.optim.AdamW)


def _generators(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    with system_errors():
        save_file(dict(tensors), path)


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None
