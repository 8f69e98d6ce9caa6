"""How much memory a training process needs at its fullest moment, part by part, from shapes alone.

Every term is a function of its own with its derivation. Bytes throughout, for one GPU or
one CPU process.
"""

from __future__ import annotations

from dataclasses import replace

from llmops.finetune.activations import COMPUTE_BYTES, Arithmetic, Load, kept_bytes, layer_bytes
from llmops.finetune.method import Grpo
from llmops.finetune.recipe import Fsdp, Lora, NoAdapter, Recipe
from llmops.finetune.rollouts import reinforced_logits_bytes
from llmops.finetune.shape import ModelShape
from llmops.finetune.trained import (
    adapter_weights,
    first_with_gradient,
    saved_module_weights,
    score_weights,
    trained_weights,
    trains_head,
)
from llmops.records import MemoryEstimate

CPU_PROCESS_BYTES = 680 << 20
"""Resident memory of a CPU process that has imported and once used torch, transformers and peft (650 MiB were
measured), and a tracker beside them, but holds no model."""

_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes a weight: 4 bits, an 8-bit scale per 64 weights, a 32-bit scale per 256 of those (arXiv:2305.14314, sec. 3)."""
_GPU_FRAGMENTATION = 0.04
"""Share of what comes and goes that torch's allocator reserves beyond it."""
_KERNELS = {"full": 10 << 20, "adapter": 31 << 20}
"""Bytes of compiled kernels, and of the holes they keep open in the heap, for every width of a batch: oneDNN makes
its own for each number of rows and keeps them (9.4 MiB a width were live in a run over 31 widths). An adapter's
matrices are more shapes."""
_HEAP_HOLES = 270 << 20
"""What glibc's heap holds in holes after some hundred batches of differing rows, beside half a layer's activations.
Fitted on twelve runs of 73 to 480 updates (1 to 8 descriptions a row, 4 to 64 rows a pass, ranks 8 to 128, with and
without checkpointing and packing), whose totals it then gives within 17 %."""
_HEAP_BLOCK = 32 << 20
"""Larger blocks glibc gives back to the system at once (M_MMAP_THRESHOLD's upper limit); smaller ones it keeps."""


def estimate_memory(
    recipe: Recipe, shape: ModelShape, arithmetic: Arithmetic, load: Load, *, world: int
) -> MemoryEstimate:
    """The parts at the fullest of the moments a process goes through.

    Activations and gradients do not peak together: activations are whole when the loss is
    taken, gradients when the backward pass ends.
    """
    training = [
        _at_loss(recipe, shape, arithmetic, load, world),
        _backward_begins(recipe, shape, arithmetic, load, world),
        _backward_ends(recipe, shape, arithmetic, load, world),
    ]
    fullest = max(training, key=lambda moment: moment.total)
    if arithmetic.on_gpu:
        held = fullest.gradients + fullest.activations + fullest.logits
        return replace(fullest, fragmentation=int(_GPU_FRAGMENTATION * held))
    in_heap = 4 * shape.hidden * load.tokens <= _HEAP_BLOCK
    kernels = int(load.widths * _KERNELS["adapter" if isinstance(recipe.adapter, Lora) else "full"])
    layer = layer_bytes(recipe, shape, arithmetic, load, layer=shape.layers - 1)
    holes = kernels + _HEAP_HOLES + (layer // 2 if in_heap else 0)
    fullest = replace(fullest, fragmentation=holes, process=CPU_PROCESS_BYTES)
    moments = [fullest, _loading(recipe, shape, world), _rehearsal(recipe, shape, world, fullest, in_heap=in_heap)]
    return max(moments, key=lambda moment: moment.total)


def with_teacher(
    found: MemoryEstimate, recipe: Recipe, shape: ModelShape, teacher: ModelShape, load: Load
) -> MemoryEstimate:
    """The estimate with a teacher beside the student.

    Its weights are held in the precision of the arithmetic, whole in every process. A chunk of its logits exists in
    32 bits, and two distributions made of each model's beside the logits themselves. Of its activations one layer's
    exist at a time, less than what the student keeps for its backward pass; they are not counted.
    """
    compute = COMPUTE_BYTES[recipe.precision]
    chunk = min(recipe.kernels.loss_chunk, load.trained)
    hidden = load.trained * teacher.hidden * compute
    logits = 4 * chunk * (2 * shape.vocabulary + 3 * teacher.vocabulary)
    return replace(
        found, weights=found.weights + compute * teacher.parameters.total, logits=found.logits + logits + hidden
    )


# What is held all the time


def weight_bytes(recipe: Recipe, shape: ModelShape) -> int:
    """All weights, before they are split over processes.

    Trained ones take 4 bytes, and without an adapter frozen ones too. A base under an adapter
    is held in the precision of the arithmetic, its decoder's matrices in `base_bits`.
    """
    adapter = recipe.adapter
    if isinstance(adapter, NoAdapter):
        return 4 * (shape.parameters.total + score_weights(recipe, shape))
    compute = COMPUTE_BYTES[recipe.precision]
    matrices = shape.layers * shape.linear_weights
    frozen = compute * (shape.parameters.total - matrices)
    frozen += int(matrices * {16: float(compute), 8: 1.0, 4: _NF4}[adapter.base_bits])
    if adapter.base_bits == 8:
        # One 32-bit scale per output.
        frozen += 4 * shape.layers * sum(linear.outputs for linear in shape.linears.values())
    beside = saved_module_weights(adapter, shape) + score_weights(recipe, shape)
    return frozen + 4 * (adapter_weights(adapter, shape) + beside)


def gradient_bytes(recipe: Recipe, shape: ModelShape) -> int:
    """One 32-bit number per trained weight, before splitting."""
    return 4 * trained_weights(recipe, shape)


def optimizer_bytes(recipe: Recipe, shape: ModelShape) -> int:
    """Running mean and variance of every trained weight, before splitting: in 32 bits, or 8 with a scale per 256."""
    per_weight = 8.0 if recipe.optimizer.name == "adamw" else 2 * (1 + 4 / 256)
    return int(per_weight * trained_weights(recipe, shape))


def gathered_bytes(recipe: Recipe, shape: ModelShape) -> int:
    """What FSDP holds whole in `compute` while it works: two decoder layers (one computing, one on its way), and the
    embeddings, last norm and output matrix, which stay whole from the forward to the backward pass."""
    if not isinstance(recipe.parallel, Fsdp):
        return 0
    layer = shape.layer_parameters
    if isinstance(recipe.adapter, Lora):
        layer += adapter_weights(recipe.adapter, shape) // shape.layers
    outside = shape.parameters.total - shape.layers * shape.layer_parameters
    return COMPUTE_BYTES[recipe.precision] * (2 * layer + outside)


def cast_bytes(recipe: Recipe, shape: ModelShape, arithmetic: Arithmetic, *, layers: int) -> int:
    """Copies in 16 bits that autocast makes of 32-bit matrices of `layers` layers; the backward pass needs them."""
    if arithmetic.compute == 4 or isinstance(recipe.parallel, Fsdp):
        return 0
    if isinstance(recipe.adapter, Lora):
        return int(arithmetic.compute * adapter_weights(recipe.adapter, shape) / shape.layers * layers)
    return arithmetic.compute * shape.linear_weights * layers


# What comes and goes


def logits_bytes(recipe: Recipe, shape: ModelShape, arithmetic: Arithmetic, load: Load) -> int:
    """The loss: one chunk of logits, the gradients taken with them, the matrix in `compute`.

    A chunk exists in 32 bits, and in `compute` as the product gives it and its gradient is
    multiplied. Squashed logits (Gemma 2) exist three times in 32 bits. The gradient towards
    the hidden states is kept in `compute`, beside the chosen states themselves; that
    towards a trained output matrix in 32 bits.
    """
    if recipe.scores:
        # The hidden states where sequences end, as they are and in 32 bits, and the gradient towards them.
        return load.trained * shape.hidden * (arithmetic.stream + 4 + 4)
    if isinstance(recipe.method, Grpo):
        return reinforced_logits_bytes(recipe, shape, arithmetic, load)
    chunk = min(recipe.kernels.loss_chunk, load.trained)
    each = (12 if shape.softcap else 4) + (arithmetic.compute if arithmetic.compute < 4 else 0)
    logits = each * chunk * shape.vocabulary
    matrix = arithmetic.compute * shape.embedding_weights if arithmetic.casts else 0
    hidden = load.trained * shape.hidden * (2 * arithmetic.compute + arithmetic.stream)
    return logits + matrix + hidden + _head_gradient(recipe, shape)


def _head_gradient(recipe: Recipe, shape: ModelShape) -> int:
    return 4 * shape.embedding_weights if trains_head(recipe, shape) else 0


def working_bytes(shape: ModelShape, arithmetic: Arithmetic, load: Load, recipe: Recipe) -> int:
    """What the backward pass of one layer holds for a moment beside what was kept.

    The gradients of the MLP's three inner results, or of attention's scores; those of the residual stream; one
    matrix brought back from 4 or 8 bits.
    """
    mlp = 3 * arithmetic.compute * shape.intermediate
    scores = 8 * shape.heads * load.length if arithmetic.attention == "eager" else 0
    stream = 2 * 4 * shape.hidden
    matrix = 0
    if isinstance(recipe.adapter, Lora) and recipe.adapter.base_bits < 16:
        matrix = arithmetic.compute * max(linear.weights for linear in shape.linears.values())
    return load.tokens * (max(mlp, scores) + stream) + matrix


# The moments


def _share(recipe: Recipe, amount: int, world: int) -> int:
    return amount // world if isinstance(recipe.parallel, Fsdp) else amount


def _held(recipe: Recipe, shape: ModelShape, world: int) -> tuple[int, int]:
    """Weights and optimizer state of this process; FSDP's offload keeps both in host memory."""
    weights = _share(recipe, weight_bytes(recipe, shape), world)
    optimizer = _share(recipe, optimizer_bytes(recipe, shape), world)
    if isinstance(recipe.parallel, Fsdp):
        if recipe.parallel.offload:
            weights = optimizer = 0
        weights += gathered_bytes(recipe, shape)
    return weights, optimizer


def _gradients(recipe: Recipe, shape: ModelShape, world: int) -> int:
    """This process's gradients once the backward pass is over."""
    return _share(recipe, gradient_bytes(recipe, shape), world)


def _gradients_before(recipe: Recipe, shape: ModelShape, load: Load, world: int) -> int:
    """Gradients held while the forward pass runs: those of earlier passes, or DDP's buckets."""
    buckets = world > 1 and not isinstance(recipe.parallel, Fsdp)
    return _gradients(recipe, shape, world) if load.passes > 1 or buckets else 0


def _at_loss(recipe: Recipe, shape: ModelShape, arithmetic: Arithmetic, load: Load, world: int) -> MemoryEstimate:
    weights, optimizer = _held(recipe, shape, world)
    layers = shape.layers - first_with_gradient(recipe, shape)
    return _moment(
        weights=weights + cast_bytes(recipe, shape, arithmetic, layers=layers),
        gradients=_gradients_before(recipe, shape, load, world),
        optimizer=optimizer,
        activations=kept_bytes(recipe, shape, arithmetic, load),
        logits=logits_bytes(recipe, shape, arithmetic, load),
    )


def _backward_begins(
    recipe: Recipe, shape: ModelShape, arithmetic: Arithmetic, load: Load, world: int
) -> MemoryEstimate:
    """The last layer's backward pass: all is still kept, and with checkpointing that layer is computed again."""
    weights, optimizer = _held(recipe, shape, world)
    layers = 1 if arithmetic.checkpointing else shape.layers - first_with_gradient(recipe, shape)
    again = layer_bytes(recipe, shape, arithmetic, load, layer=shape.layers - 1) if arithmetic.checkpointing else 0
    head = _head_gradient(recipe, shape)
    before = _gradients_before(recipe, shape, load, world)
    return _moment(
        weights=weights + cast_bytes(recipe, shape, arithmetic, layers=layers),
        # The output matrix has its gradient by now; earlier passes' is already counted.
        gradients=before if before else head,
        optimizer=optimizer,
        activations=kept_bytes(recipe, shape, arithmetic, load)
        + again
        + working_bytes(shape, arithmetic, load, recipe),
        logits=head if before else 0,
    )


def _backward_ends(recipe: Recipe, shape: ModelShape, arithmetic: Arithmetic, load: Load, world: int) -> MemoryEstimate:
    """The lowest layer's backward pass, then the embeddings: all gradients are there, one layer's activations left."""
    weights, optimizer = _held(recipe, shape, world)
    first = min(first_with_gradient(recipe, shape), shape.layers - 1)
    one_layer = layer_bytes(recipe, shape, arithmetic, load, layer=first) + working_bytes(
        shape, arithmetic, load, recipe
    )
    # The embedding's gradient is made whole before it is added to the output matrix's, which is the same when tied.
    again = 4 * shape.embedding_weights if shape.tied and trains_head(recipe, shape) else 0
    return _moment(
        weights=weights + cast_bytes(recipe, shape, arithmetic, layers=1),
        gradients=_gradients(recipe, shape, world) + again,
        optimizer=optimizer,
        activations=one_layer,
        logits=0,
    )


def _loading(recipe: Recipe, shape: ModelShape, world: int) -> MemoryEstimate:
    """On a CPU the file's pages count while the weights are copied out of them."""
    weights, _ = _held(recipe, shape, world)
    file = shape.file_bytes * shape.parameters.total
    return MemoryEstimate(weights + file, 0, 0, 0, 0, 0, process=CPU_PROCESS_BYTES)


def _rehearsal(
    recipe: Recipe, shape: ModelShape, world: int, training: MemoryEstimate, *, in_heap: bool
) -> MemoryEstimate:
    """On a CPU the optimizer state is there twice while the first checkpoint is read back and compared.

    What activations left free in the heap is not given back to the system before that.
    """
    weights, optimizer = _held(recipe, shape, world)
    left = training if in_heap else replace(training, activations=0, logits=0)
    return replace(left, weights=weights, gradients=0, optimizer=2 * optimizer)


def _moment(*, weights: int, gradients: int, optimizer: int, activations: int, logits: int) -> MemoryEstimate:
    return MemoryEstimate(weights, gradients, optimizer, activations, logits, fragmentation=0)
