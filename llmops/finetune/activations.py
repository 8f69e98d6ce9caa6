"""What a forward pass keeps for its backward pass, in bytes, from shapes alone.

Every term is derived from the saved tensors of transformers' modules under autograd; a
test sums what autograd really keeps and compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmops.finetune.recipe import Fsdp, Lora, Recipe
from llmops.finetune.shape import Linear, ModelShape
from llmops.finetune.trained import first_with_gradient, targets_of

COMPUTE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a forward pass computes, as far as memory depends on it.

    Attributes:
        compute: bytes of a number in matrix products; `stream` of one in the residual stream.
        casts: weights are held in 32 bits and cast to `compute` for each product (autocast).
        attention: `eager` keeps the scores of all pairs, `sdpa`, `varlen` and `flash_attention_2` do not.
        masked: a mask over all pairs of tokens is passed to attention.
        liger: fused kernels keep fewer intermediate results.
        checkpointing: only each layer's input is kept; the rest is computed again.
    """

    compute: int
    stream: int
    casts: bool
    attention: str
    masked: bool
    liger: bool
    checkpointing: bool
    on_gpu: bool


@dataclass(frozen=True, slots=True)
class Load:
    """The fullest forward pass: `sequences` x `length` tokens, padding included, `trained` of them with loss.

    `passes` are those between two updates; `widths` how many different lengths the run's passes have.
    """

    sequences: int
    length: int
    trained: int
    passes: int
    widths: float = 1.0

    @property
    def tokens(self) -> int:
        return self.sequences * self.length


def arithmetic_of(recipe: Recipe, *, on_gpu: bool, attention: str, liger: bool) -> Arithmetic:
    compute = COMPUTE_BYTES[recipe.precision]
    # FSDP hands the layers their weights in `compute`, and a base under an adapter is held in it; otherwise
    # weights are held in 32 bits, and so is the residual stream.
    in_compute = isinstance(recipe.adapter, Lora) or isinstance(recipe.parallel, Fsdp)
    return Arithmetic(
        compute=compute,
        stream=compute if in_compute else 4,
        casts=compute < 4 and not in_compute,
        attention=attention,
        masked=recipe.batch.packing and attention in ("sdpa", "eager"),
        liger=liger,
        checkpointing=recipe.kernels.checkpointing,
        on_gpu=on_gpu,
    )


def kept_bytes(recipe: Recipe, shape: ModelShape, arithmetic: Arithmetic, load: Load) -> int:
    """All that the decoder keeps between its forward and its backward pass."""
    first = first_with_gradient(recipe, shape)
    if arithmetic.checkpointing:
        layers = arithmetic.stream * shape.hidden * load.tokens * (shape.layers - first)
    else:
        layers = sum(layer_bytes(recipe, shape, arithmetic, load, layer=layer) for layer in range(first, shape.layers))
        if _embeddings_frozen(recipe):
            # Nothing below the first norm is trained, so that norm keeps nothing.
            layers -= int(_norm_per_token(shape.hidden, 1, arithmetic.stream, arithmetic, trained=False) * load.tokens)
    last_norm = _norm_per_token(
        shape.hidden, 1, arithmetic.stream, arithmetic, trained=not isinstance(recipe.adapter, Lora)
    )
    # Token ids and the rotary factors, which all layers share.
    rotary = 2 * shape.head_dim * arithmetic.stream * load.length
    return int(layers + last_norm * load.tokens + 8 * load.tokens + rotary)


def layer_bytes(recipe: Recipe, shape: ModelShape, arithmetic: Arithmetic, load: Load, *, layer: int) -> int:
    """What decoder layer number `layer` keeps when it is not checkpointed."""
    adapter = recipe.adapter
    trained = not isinstance(adapter, Lora) and layer not in adapter.freeze.frozen_layers()
    per_token = (
        _norms_per_token(shape, arithmetic, trained=trained)
        + _attention_per_token(shape, arithmetic, load)
        + _mlp_per_token(shape, arithmetic)
    )
    whole = 0
    if trained:
        per_token += _inputs_per_token(shape.linears.values(), arithmetic, own_copy=arithmetic.casts)
    elif isinstance(adapter, Lora):
        per_token += _adapters_per_token(adapter, shape, arithmetic)
        if adapter.variant == "dora":
            # It normalises W + BA, and the backward pass needs that matrix.
            whole = arithmetic.compute * sum(target.linear.weights for target in targets_of(adapter, shape).values())
    return int(per_token * load.tokens) + whole


def _embeddings_frozen(recipe: Recipe) -> bool:
    adapter = recipe.adapter
    if isinstance(adapter, Lora):
        return "embed_tokens" not in adapter.modules_to_save
    return adapter.freeze.embeddings


def _norms_per_token(shape: ModelShape, arithmetic: Arithmetic, *, trained: bool) -> float:
    """Those over the residual stream, and those over queries and keys where the architecture has them."""
    total = shape.norms * _norm_per_token(shape.hidden, 1, arithmetic.stream, arithmetic, trained=trained)
    if shape.qk_norm:
        for width, heads in ((shape.query_width, shape.heads), (shape.key_width, shape.key_value_heads)):
            total += _norm_per_token(width, heads, arithmetic.compute, arithmetic, trained=trained)
    return total


def _norm_per_token(width: int, groups: int, comes_in: int, arithmetic: Arithmetic, *, trained: bool) -> float:
    """RMS norm keeps its input in 32 bits and a factor per group; a trained one the normalised input as well.

    A fused one keeps the input as it comes, and the factor.
    """
    if arithmetic.liger:
        return comes_in * width + 4 * groups
    return 4 * width + 4 * groups + (comes_in * width if trained else 0)


def _attention_per_token(shape: ModelShape, arithmetic: Arithmetic, load: Load) -> float:
    """Queries, keys, values and the output in `compute`, and a 32-bit number a head.

    `eager` keeps the scores after softmax instead, in 32 bits and once more in `compute`. It
    and a mask repeat keys and values for every head; a mask becomes numbers in every layer.
    """
    compute, query = arithmetic.compute, shape.query_width
    eager = arithmetic.attention == "eager"
    key = query if eager or arithmetic.masked else shape.key_width
    total = float(compute * (query + 2 * key))
    if eager:
        return total + shape.heads * load.length * (4 + (compute if compute < 4 else 0))
    return total + compute * query + 4 * shape.heads + (compute * load.length if arithmetic.masked else 0)


def _mlp_per_token(shape: ModelShape, arithmetic: Arithmetic) -> float:
    """Gate and up, and the activated gate unless a fused kernel computes it again; their product counts with `down`."""
    return arithmetic.compute * shape.intermediate * (2 if arithmetic.liger else 3)


def _inputs_per_token(linears: Iterable[Linear], arithmetic: Arithmetic, *, own_copy: bool) -> float:
    """What matrices keep of their inputs, for their own gradient.

    Where a cast lies between, each keeps a copy; else those reading the same share one. The
    output of fused attention is kept by attention already, unless a cast lies between.
    """
    # Eager attention does not keep its output, and documents computed one by one are put together anew.
    joined = ("eager",) if arithmetic.on_gpu else ("eager", "varlen")
    shared: dict[str, int] = {}
    total = 0
    for linear in linears:
        from_attention = linear.reads == "attention" and arithmetic.attention not in joined
        if own_copy and not (from_attention and arithmetic.casts):
            total += linear.inputs
        elif not from_attention:
            shared[linear.reads] = linear.inputs
    return arithmetic.compute * (total + sum(shared.values()))


def _adapters_per_token(adapter: Lora, shape: ModelShape, arithmetic: Arithmetic) -> float:
    """Each adapter keeps its input and the `rank` numbers between A and B.

    peft brings the input to the adapter's 32 bits and autocast back to 16, which makes a copy
    for each; dropout makes one too and keeps its mask. DoRA keeps what the base and the
    adapter answered and both after scaling.
    """
    linears = [target.linear for name, target in targets_of(adapter, shape).items() if name in shape.linears]
    own_copy = arithmetic.compute < 4 or adapter.dropout > 0
    total = _inputs_per_token(linears, arithmetic, own_copy=own_copy)
    total += arithmetic.compute * adapter.rank * len(linears)
    if adapter.dropout:
        total += (1 if arithmetic.on_gpu else 4) * sum(linear.inputs for linear in linears)
    if adapter.variant == "dora":
        total += 2.5 * arithmetic.compute * sum(linear.outputs for linear in linears)
    return total
