"""Operations, seconds and money of a run, from shapes and lengths; each count says its formula."""

from __future__ import annotations

from dataclasses import dataclass

from llmops.errors import EnvironmentFault
from llmops.finetune.recipe import Lora, Recipe
from llmops.finetune.shape import ModelShape
from llmops.finetune.trained import adapter_weights, first_with_gradient, trains_head
from llmops.hardware import Device

QUANTIZED_SLOWDOWN = 1.39
"""A 4-bit base takes so much longer than a 16-bit one (Raschka 2023, "Practical Tips for Finetuning LLMs": +39 %)."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many tokens: `used` ones, `trained` with loss, `computed` with padding; the squares are Σ length²."""

    used: float
    trained: float
    squares: float
    computed: float
    computed_squares: float

    def times(self, factor: float) -> Tokens:
        values = (self.used, self.trained, self.squares, self.computed, self.computed_squares)
        return Tokens(*(factor * value for value in values))


@dataclass(frozen=True, slots=True)
class Flops:
    """Operations of a run, one multiplication and one addition each counting as two.

    Attributes:
        model: what the formula says of the tokens used, padding and recomputation left out; MFU is taken of it.
        computed: what the machine does: with padding, and with the forward pass that checkpointing repeats.
        formula: how `model` is counted.
    """

    model: float
    computed: float
    formula: str


def count_flops(recipe: Recipe, shape: ModelShape, tokens: Tokens) -> Flops:
    """Operations of the tokens given.

    A matrix of N weights takes 2N operations a token forwards, 2N for the gradient of its
    input and 2N for its own: 6N when trained, 4N when frozen below something trained, 2N when
    nothing below is trained. Attention's scores and their use take 12 · heads · head_dim ·
    length a token and layer, forward and backward. The output matrix is applied to trained
    tokens only. Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
    """
    per_token, again = _matrices(recipe, shape)
    head = 0 if recipe.scores else (6 if trains_head(recipe, shape) else 4) * shape.embedding_weights
    with_backward = shape.layers - first_with_gradient(recipe, shape)
    # A third of attention's 12 is its forward pass, which frozen layers below also make.
    pairs = (12 * with_backward + 4 * (shape.layers - with_backward)) * shape.query_width
    model = per_token * tokens.used + head * tokens.trained + pairs * tokens.squares
    computed = per_token * tokens.computed + head * tokens.trained + pairs * tokens.computed_squares
    if recipe.kernels.checkpointing:
        computed += again * tokens.computed + 4 * with_backward * shape.query_width * tokens.computed_squares
    output = "no output matrix" if recipe.scores else "the output matrix on trained tokens"
    factor = "4N" if isinstance(recipe.adapter, Lora) else "6N" if with_backward == shape.layers else "6N less frozen"
    return Flops(
        model=model,
        computed=computed,
        formula=f"{factor} a token over the decoder's matrices, {output}, "
        "attention 12 · layers · heads · head_dim · length",
    )


def count_forward(shape: ModelShape, tokens: Tokens) -> float:
    """Operations of a forward pass alone: 2N a token, the output matrix on trained tokens, 4 of attention's 12."""
    matrices = 2.0 * shape.layers * shape.linear_weights * tokens.computed
    pairs = 4.0 * shape.layers * shape.query_width * tokens.computed_squares
    return matrices + 2.0 * shape.embedding_weights * tokens.trained + pairs


def _matrices(recipe: Recipe, shape: ModelShape) -> tuple[float, float]:
    """Operations a token in the decoder's matrices: forward and backward; and what checkpointing repeats.

    A repeated layer stops before its last matrix, whose output nothing needs again.
    """
    again = 2.0 * (shape.linear_weights - shape.linears["down_proj"].weights)
    adapter = recipe.adapter
    if isinstance(adapter, Lora):
        added = adapter_weights(adapter, shape)
        return 4.0 * shape.layers * shape.linear_weights + 6.0 * added, shape.layers * again + 2.0 * added
    frozen = adapter.freeze.frozen_layers()
    first = first_with_gradient(recipe, shape)
    factors = [2 if layer < first else 4 if layer in frozen else 6 for layer in range(shape.layers)]
    return float(sum(factors) * shape.linear_weights), (shape.layers - first) * again


def seconds_for(recipe: Recipe, flops: Flops, device: Device, *, devices: int) -> float:
    """Expected wall time of the updates: operations over the rate this kind of device reaches in training.

    Raises:
        EnvironmentFault: the device has no arithmetic of the recipe's precision.
    """
    rate = device.teraflops.get(recipe.precision)
    if rate is None:
        able = ", ".join(sorted(device.teraflops))
        raise EnvironmentFault(
            f"{device.name} has no {recipe.precision} arithmetic", fix=f"set precision to one of: {able}"
        )
    quantized = isinstance(recipe.adapter, Lora) and recipe.adapter.base_bits < 16
    return flops.computed * (QUANTIZED_SLOWDOWN if quantized else 1.0) / (rate * 1e12 * device.mfu * devices)
