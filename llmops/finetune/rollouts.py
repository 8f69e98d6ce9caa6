"""Memory of reinforcement beside its training passes: answers while they are made, vLLM's share, what rewards them.

From shapes alone, as everything of a plan; unlike the training passes it was not fitted to measured runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmops.finetune.activations import Arithmetic, Load
from llmops.finetune.method import Grpo
from llmops.finetune.recipe import Lora, Recipe
from llmops.finetune.shape import ModelShape
from llmops.finetune.trained import adapter_weights, trains_head
from llmops.hardware import Device
from llmops.records import MemoryEstimate

TILE = (4096, 32768)
"""Tokens and rows of the vocabulary whose logits TRL 1.16 has at one time (`trl.kernels.chunked_logprob`)."""
_TILES_IN_TORCH = 6
"""Without Triton a tile is brought to 32 bits: as it is, scaled, log p, p, the gradient, and a product of two."""
REWARDED_AT_ONCE = {"cpu": 1 << 13, "cuda": 1 << 16}
"""Tokens that a reward model reads at one time."""


def answered_by_vllm(method: Grpo, device: Device) -> bool:
    """Whether a plan counts vLLM's share: where the recipe leaves the choice open, vLLM is taken to be installed."""
    return device.kind == "cuda" and method.generate != "transformers"


def key_value_bytes(shape: ModelShape, arithmetic: Arithmetic, *, sequences: int, tokens: int) -> int:
    """Keys and values of so many sequences of so many tokens: sequences · tokens · layers · 2 · key width · bytes.

    Kwon et al. 2023 (arXiv:2309.06180), section 3, with the width of the heads that share them. Keys are rotated by
    factors in the precision of the residual stream and take it, and values are kept as keys are. The cache grows by
    putting a layer's old and new together, so one layer of it exists twice for a moment.
    """
    a_layer = sequences * tokens * 2 * shape.key_width * arithmetic.stream
    return a_layer * (shape.layers + 1)


def forward_bytes(shape: ModelShape, arithmetic: Arithmetic, *, tokens: int) -> int:
    """What a pass without a gradient holds at one time for so many tokens: the stream before and behind the layer that
    computes, and the larger of its attention's queries, keys, values and result, and of its MLP's gate, up and
    product."""
    attention = 2 * shape.query_width + 2 * shape.key_width
    return tokens * (2 * arithmetic.stream * shape.hidden + arithmetic.compute * max(attention, 3 * shape.intermediate))


def answering_bytes(recipe: Recipe, shape: ModelShape, arithmetic: Arithmetic, *, prompt: int) -> int:
    """What transformers holds to answer the prompts of a whole update at one time, `batch.sequences` answers.

    Either the prompts are read, their keys and values growing, or the last token is drawn: all keys and values, and
    each answer's logits as the model gives them, in 32 bits, and as probabilities.

    Args:
        prompt: tokens of the longest; the others are padded to it.
    """
    assert isinstance(recipe.method, Grpo)
    answers = recipe.batch.sequences
    reading = key_value_bytes(shape, arithmetic, sequences=answers, tokens=prompt)
    reading += forward_bytes(shape, arithmetic, tokens=answers * prompt)
    drawing = key_value_bytes(shape, arithmetic, sequences=answers, tokens=prompt + recipe.method.max_tokens)
    drawing += answers * shape.vocabulary * (arithmetic.compute + 4 + 4)
    return max(reading, drawing)


def reinforced_logits_bytes(recipe: Recipe, shape: ModelShape, arithmetic: Arithmetic, load: Load) -> int:
    """The loss as TRL takes it: one tile of logits, the rows of the matrix it needs where they are cast, the states
    that answers end in with their gradient in 32 bits and as it is passed on, and that of a trained matrix."""
    rows, columns = min(load.trained, TILE[0]), min(shape.vocabulary, TILE[1])
    tile = rows * columns * (arithmetic.compute + (0 if arithmetic.on_gpu else 4 * _TILES_IN_TORCH))
    matrix = arithmetic.compute * columns * shape.hidden if arithmetic.casts else 0
    hidden = load.trained * shape.hidden * (2 * arithmetic.stream + 4)
    return tile + matrix + hidden + (4 * shape.embedding_weights if trains_head(recipe, shape) else 0)


def reference_bytes(recipe: Recipe, shape: ModelShape) -> int:
    """What TRL holds to tell how far the model has moved, where `beta` asks: the base a second time, in the 32 bits of
    what is trained; under an adapter, which is switched off for it, a copy of the adapter."""
    assert isinstance(recipe.method, Grpo)
    if not recipe.method.beta:
        return 0
    adapter = recipe.adapter
    return 4 * (adapter_weights(adapter, shape) if isinstance(adapter, Lora) else shape.parameters.total)


def reward_model_weights(shape: ModelShape, device: Device) -> int:
    """A reward model's weights, which stay through the run: 16 bits on a GPU, 32 on a CPU; a score instead of the
    output matrix. An adapter of one is a few per cent more."""
    return (2 if device.kind == "cuda" else 4) * (shape.parameters.total - shape.parameters.head + shape.hidden)


def rewarding_bytes(shape: ModelShape, device: Device, *, answers: int, length: int) -> int:
    """What a reward model holds while it reads: as many answers with their prompts as make `REWARDED_AT_ONCE` tokens,
    at least one."""
    compute = 2 if device.kind == "cuda" else 4
    arithmetic = Arithmetic(compute, compute, False, "sdpa", False, False, False, device.kind == "cuda")
    tokens = length * min(answers, max(1, REWARDED_AT_ONCE[device.kind] // length))
    return forward_bytes(shape, arithmetic, tokens=tokens)


def with_rollouts(
    training: MemoryEstimate,
    recipe: Recipe,
    shape: ModelShape,
    arithmetic: Arithmetic,
    load: Load,
    device: Device,
    *,
    reward_models: Sequence[ModelShape] = (),
) -> MemoryEstimate:
    """The fullest moment of a run that answers, rewards, and trains, one after the other.

    All through it hold: weights, optimizer state, the reference, reward models, and vLLM's share of the GPU
    (`vllm_memory` of all its memory, keys and values in it; TRL does not send it to sleep). While answers are made or
    rewarded there are no gradients, and no activations of training.

    Args:
        training: the fullest moment of its training passes alone.
        load: of those passes; its sequences are a prompt and an answer each.
    """
    method = recipe.method
    assert isinstance(method, Grpo)
    scorers = sum(reward_model_weights(one, device) for one in reward_models)
    reading = [
        rewarding_bytes(one, device, answers=recipe.batch.sequences, length=load.length) for one in reward_models
    ]
    weights = training.weights + reference_bytes(recipe, shape)
    share = int(method.vllm_memory * device.memory_bytes) if answered_by_vllm(method, device) else 0
    held = replace(training, weights=weights, rollouts=share, rewards=scorers)
    idle = replace(held, gradients=0, activations=0, logits=0)
    prompt = max(1, load.length - method.max_tokens)
    answering = replace(idle, rollouts=share or answering_bytes(recipe, shape, arithmetic, prompt=prompt))
    rewarding = replace(idle, rewards=scorers + max(reading, default=0))
    return max((held, answering, rewarding), key=lambda moment: moment.total)
