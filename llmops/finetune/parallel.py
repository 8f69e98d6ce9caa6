"""Several processes as one: who they are, how they share the model, what they agree on.

One process is the special case; nothing here is inside the arithmetic.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from llmops.finetune.model import DTYPES, LossModel
from llmops.finetune.recipe import Fsdp, Recipe

_SILENCE = timedelta(minutes=30)
"""How long a process may wait for the others; nothing slow happens between two meetings."""

_PART = 1 << 22
"""Numbers that processes add up at a time."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among all that train together."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this one prints and writes what exists once."""
        return self.rank == 0

    def meet(self) -> None:
        """Wait for all others."""
        if self.world > 1:
            dist.barrier()

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sums over all processes, in float64."""
        if self.world == 1:
            return values
        # NCCL reduces on the GPU, gloo in host memory.
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(together)
        return [float(value) for value in together.tolist()]

    def add_up(self, array: NDArray[np.float32]) -> None:
        """Put element-wise sums over all processes into `array`, a part of it at a time."""
        if self.world == 1:
            return
        for begin in range(0, len(array), _PART):
            part = torch.from_numpy(array[begin : begin + _PART]).to(self.device)
            dist.all_reduce(part)
            array[begin : begin + _PART] = part.cpu().numpy()

    def largest(self, value: float) -> float:
        """The largest `value` of any process."""
        if self.world == 1:
            return value
        together = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(together, op=dist.ReduceOp.MAX)
        return float(together.item())


def this_device() -> torch.device:
    """The GPU of this process, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Join the process group that torchrun's variables describe; alone without them."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = this_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world == 1:
        yield Processes(0, 1, device)
        return
    from accelerate import PartialState

    state = PartialState(
        cpu=device.type == "cpu", backend="nccl" if device.type == "cuda" else "gloo", timeout=_SILENCE
    )
    try:
        yield Processes(state.process_index, state.num_processes, device)
    finally:
        dist.destroy_process_group()


def share(model: LossModel, recipe: Recipe, processes: Processes) -> nn.Module:
    """The module to call and differentiate: `model` itself alone, else wrapped for DDP or split by FSDP2."""
    if isinstance(recipe.parallel, Fsdp):
        return _split(model, recipe, processes)
    if processes.world == 1:
        return model
    on_gpu = [processes.device.index] if processes.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        model, device_ids=on_gpu, broadcast_buffers=False, gradient_as_bucket_view=True
    )


def _split(model: LossModel, recipe: Recipe, processes: Processes) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    assert isinstance(recipe.parallel, Fsdp)
    if not dist.is_initialized():
        _alone(processes.device)
    mesh = init_device_mesh(processes.device.type, (processes.world,))
    options: dict[str, Any] = {
        "mesh": mesh,
        # Gradients are summed in 32 bits, whatever the forward pass is computed in.
        "mp_policy": MixedPrecisionPolicy(param_dtype=DTYPES[recipe.precision], reduce_dtype=torch.float32),
        "offload_policy": CPUOffloadPolicy() if recipe.parallel.offload else OffloadPolicy(),
    }
    for layer in model.layers:
        fully_shard(layer, **options)
    return fully_shard(model, **options)


def _alone(device: torch.device) -> None:
    """FSDP needs a process group also for one process; this one talks to nobody."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


@contextlib.contextmanager
def gradients_stay_local(module: nn.Module, *, local: bool) -> Iterator[None]:
    """While `local`, backward passes add to this process's gradients without summing over processes.

    FSDP sums in every pass: what it saves is that no process holds the whole gradient.
    """
    if isinstance(module, nn.parallel.DistributedDataParallel) and local:
        with module.no_sync():
            yield
        return
    yield


def split_again(module: nn.Module) -> None:
    """Give up the whole weights that a forward pass without a backward pass leaves gathered in the outermost group."""
    for part in module.modules():
        if hasattr(part, "reshard"):
            part.reshard()


def local_part(tensor: Tensor) -> Tensor:
    """The part of a split tensor that this process holds; a whole tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """A split tensor gathered from all processes, which must all call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
