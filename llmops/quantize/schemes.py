"""The schemes by name: what each does to the weights, where it runs, and what it will take, from shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from llmops.catalog import Catalog
from llmops.errors import EnvironmentFault, InputError
from llmops.hardware import Machine

Format = Literal["auto_round", "llm_compressor", "bitsandbytes"]
ServedBy = Literal["vllm", "transformers"]


class Matrix(Protocol):
    """A linear layer as numbers."""

    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...


class Counts(Protocol):
    """Weights of a whole model, biases and norms included."""

    @property
    def total(self) -> int: ...


class Shape(Protocol):
    """A decoder-only transformer as numbers; what the trainer reads from a `config.json` is one."""

    @property
    def hidden(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def linears(self) -> Mapping[str, Matrix]: ...
    @property
    def layer_parameters(self) -> int: ...
    @property
    def parameters(self) -> Counts: ...
    @property
    def file_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Scheme:
    """How weights and activations are written in fewer bits.

    Attributes:
        weight_bits, activation_bits: of each number in a linear layer of the decoder; embeddings, norms and the
            output layer keep theirs.
        group: weights that share a scale: so many along the inputs (auto_round), a square of so many by so many
            (llm_compressor), or so many wherever they stand (bitsandbytes); None where a whole row does.
        multiple: what inputs and outputs of every layer must be a multiple of; the kernels ask for it.
        format: of the checkpoint.
        served_by: what loads it. vLLM 0.32 loads no bitsandbytes checkpoint, on a CPU or a GPU.
        preset: its name in AutoRound; empty for bitsandbytes.
        least_capability: compute capability of a GPU whose kernels run it.
        cpu: there is a kernel for this machine's CPU too.
        calibrated: rounding can be tuned on rows of data; else it is the nearest, whatever the data.
        words: what it is for.
    """

    name: str
    weight_bits: int
    activation_bits: int
    group: int | None
    multiple: int
    format: Format
    served_by: ServedBy
    preset: str
    least_capability: float
    cpu: bool
    calibrated: bool
    words: str

    def bytes_of(self, matrix: Matrix, *, last: int = 2) -> int:
        """Bytes a linear layer's weights take on disk, biases left out.

        Args:
            last: bytes of a number of the model as it is, which scales of whole rows are kept in.
        """
        weights = matrix.inputs * matrix.outputs
        if self.format == "auto_round":
            groups = matrix.inputs // (self.group or matrix.inputs)
            # Packed weights, a 16-bit scale for each group and, packed too, its zero point.
            return weights * self.weight_bits // 8 + groups * matrix.outputs * (16 + self.weight_bits) // 8
        if self.format == "llm_compressor":
            # A scale for each row, or for each square block.
            rows = matrix.outputs if self.group is None else -(-matrix.outputs // self.group)
            return weights + rows * (1 if self.group is None else -(-matrix.inputs // self.group)) * last
        # nf4: two weights a byte, an 8-bit scale for 64 of them, a 32-bit one for 256 scales; tables of 16 and 256
        # 32-bit numbers and about 100 bytes of JSON in each layer (bitsandbytes' QuantState.as_dict).
        return weights // 2 + weights // 64 + 4 * -(-weights // (64 * 256)) + 4 * (16 + 256) + 100


# Kernels and what they ask for: vLLM 0.32, `get_min_capability` and `can_implement` of its linear methods.
_OURS = (
    Scheme(
        name="w4a16",
        weight_bits=4,
        activation_bits=16,
        group=128,
        multiple=32,
        format="auto_round",
        served_by="vllm",
        preset="W4A16",
        least_capability=7.5,
        cpu=True,
        calibrated=True,
        words="4-bit weights; a third of the memory, fastest with few streams",
    ),
    Scheme(
        name="w8a16",
        weight_bits=8,
        activation_bits=16,
        group=128,
        multiple=32,
        format="auto_round",
        served_by="vllm",
        preset="W8A16",
        least_capability=7.5,
        cpu=False,
        calibrated=True,
        words="8-bit weights; half the memory, hardly a difference",
    ),
    Scheme(
        name="w8a8",
        weight_bits=8,
        activation_bits=8,
        group=None,
        multiple=16,
        format="llm_compressor",
        served_by="vllm",
        preset="INT8",
        least_capability=7.5,
        cpu=True,
        calibrated=True,
        words="8-bit weights and activations; half the memory, fast with many streams",
    ),
    Scheme(
        name="fp8",
        weight_bits=8,
        activation_bits=8,
        group=128,
        multiple=128,
        format="llm_compressor",
        served_by="vllm",
        preset="FP8_BLOCK",
        least_capability=8.9,
        cpu=False,
        calibrated=True,
        words="8-bit floating point in blocks; half the memory, fast with many streams",
    ),
    Scheme(
        name="nf4",
        weight_bits=4,
        activation_bits=16,
        group=64,
        multiple=1,
        format="bitsandbytes",
        served_by="transformers",
        preset="",
        least_capability=7.5,
        cpu=True,
        calibrated=False,
        words="4-bit weights as QLoRA trains on them; for transformers, vLLM does not load it",
    ),
)
SCHEMES = Catalog("scheme", {one.name: one for one in _OURS})


# Does it fit the model, and this machine


def check_shape(scheme: Scheme, shape: Shape, *, named: str) -> None:
    """Raises InputError where a layer's widths do not fit the scheme; those that fit are named.

    Args:
        named: the model, as the user knows it.
    """
    if (why := _misfit(scheme, shape)) is None:
        return
    fitting = [one for one in SCHEMES if _misfit(SCHEMES[one], shape) is None]
    listed = f"use a scheme that fits: {', '.join(fitting)}" if fitting else "serve it as it is: no scheme fits"
    raise InputError(f"{named} does not fit {scheme.name}: {why}", fix=listed)


def _misfit(scheme: Scheme, shape: Shape) -> str | None:
    for name, matrix in shape.linears.items():
        if scheme.format == "auto_round" and scheme.group and matrix.inputs % scheme.group:
            return f"{name} has {matrix.inputs} inputs, and {scheme.group} weights share a scale"
        for what, width in (("inputs", matrix.inputs), ("outputs", matrix.outputs)):
            if width % scheme.multiple:
                return f"{name} has {width} {what}, its kernels take multiples of {scheme.multiple}"
    return None


def why_not(scheme: Scheme, machine: Machine) -> str | None:
    """Why this machine cannot run what the scheme makes; None where it can."""
    if machine.gpus:
        best = max(float(gpu.compute_capability or 0) for gpu in machine.gpus)
        if best >= scheme.least_capability:
            return None
        return f"{scheme.name} needs a GPU of compute capability {scheme.least_capability}, the best here has {best}"
    if scheme.cpu:
        return None
    return f"{scheme.name} needs a GPU of compute capability {scheme.least_capability}, and this machine has none"


def check_machine(scheme: Scheme, machine: Machine) -> None:
    """Raises EnvironmentFault where this machine cannot run what the scheme makes; those it can are named."""
    if (why := why_not(scheme, machine)) is not None:
        able = [one for one in SCHEMES if why_not(SCHEMES[one], machine) is None]
        raise EnvironmentFault(why, fix=f"use one this machine runs: {', '.join(able)}; or quantize it where it can")


def where(scheme: Scheme) -> str:
    """Which hardware runs it, in words."""
    gpu = f"GPU of compute capability {scheme.least_capability} or more"
    return f"{gpu}, or CPU" if scheme.cpu else gpu


# What it will take


@dataclass(frozen=True, slots=True)
class Forecast:
    """What quantizing takes and leaves, in bytes.

    Attributes:
        disk: of the weights' files; also what the weights take where they are served.
        original_disk: of those it is made from.
        memory: at the peak while it is made, the process with its libraries included.
    """

    disk: int
    original_disk: int
    memory: int


_PROCESS_BYTES = 650 << 20
"""Resident memory of a process that has imported torch, transformers and AutoRound: measured on a CPU."""


def forecast(scheme: Scheme, shape: Shape, *, samples: int, length: int, iters: int) -> Forecast:
    """Size and memory, from a `config.json` alone.

    While it is made there are the original weights and, packed layer by layer, the quantized ones. Where rounding is
    tuned, there are for one decoder layer three 32-bit numbers a weight (the layer in 32 bits, the rounding that is
    learned, its gradient), and of all samples four activations of the hidden width a token: what goes into the layer
    and what comes out, of the original and of the quantized model.

    Args:
        samples, length: rows of calibration and tokens in each; not looked at where nothing is tuned.
        iters: tuning steps of each layer; 0 rounds to the nearest.
    """
    linears: Sequence[Matrix] = list(shape.linears.values())
    whole = shape.parameters.total
    rest = whole - shape.layers * sum(one.inputs * one.outputs for one in linears)
    last = shape.file_bytes
    packed = shape.layers * sum(scheme.bytes_of(one, last=last) for one in linears)
    disk = rest * last + packed
    tuned = 0
    if iters and scheme.calibrated:
        tuned = 12 * shape.layer_parameters + 4 * samples * length * shape.hidden * last
    return Forecast(disk, whole * last, _PROCESS_BYTES + whole * last + packed + tuned)
