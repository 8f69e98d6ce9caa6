"""Which weights a recipe trains, counted from the base's shape; the faults that only the shape shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmops.errors import InputError, nearest
from llmops.finetune.method import Grpo
from llmops.finetune.recipe import Lora, NoAdapter, Recipe
from llmops.finetune.shape import Linear, ModelShape

UNSCORED = frozenset({"granite"})
"""Families that transformers knows no sequence classifier of."""


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of linear layer that gets an adapter, `layers` times."""

    linear: Linear
    layers: int


def targets_of(adapter: Lora, shape: ModelShape) -> dict[str, Target]:
    """What the adapter is put beside, by name; names that match nothing are left out."""
    every = outer_linears(shape) if isinstance(adapter.targets, list) else {}
    inside = shape.linears
    if isinstance(adapter.targets, str):
        return {name: Target(linear, shape.layers) for name, linear in inside.items()}
    found: dict[str, Target] = {}
    for written in adapter.targets:
        name = written.rsplit(".", 1)[-1]
        one_layer = re.search(r"layers\.(\d+)\.", written)
        if name in inside:
            before = found[name].layers if name in found else 0
            found[name] = Target(inside[name], min(shape.layers, before + 1 if one_layer else shape.layers))
        elif name in every:
            found[name] = Target(every[name], 1)
    return found


def outer_linears(shape: ModelShape) -> dict[str, Linear]:
    """The layers outside the decoder layers that an adapter may name."""
    return {
        "embed_tokens": Linear(shape.vocabulary, shape.hidden, False, "tokens"),
        "lm_head": Linear(shape.hidden, shape.vocabulary, False, "last norm"),
    }


def adapter_weights(adapter: Lora, shape: ModelShape) -> int:
    """Weights of all A (rank x inputs), B (outputs x rank) and, with DoRA, magnitudes (outputs)."""
    total = 0
    for target in targets_of(adapter, shape).values():
        linear = target.linear
        each = adapter.rank * (linear.inputs + linear.outputs)
        total += target.layers * (each + (linear.outputs if adapter.variant == "dora" else 0))
    return total


def saved_module_weights(adapter: Lora, shape: ModelShape) -> int:
    """Weights of the modules trained in full beside the adapter."""
    sizes = _module_sizes(shape)
    return sum(sizes[name] for name in adapter.modules_to_save if name in sizes)


def score_weights(recipe: Recipe, shape: ModelShape) -> int:
    """The matrix that makes a reward of a hidden state; none where tokens are made."""
    return shape.hidden if recipe.scores else 0


def trained_shape(recipe: Recipe, shape: ModelShape) -> ModelShape:
    """The base as it is trained: a model that scores has no output matrix, whether or not the base has its own."""
    return replace(shape, tied=True, softcap=False) if recipe.scores else shape


def trained_weights(recipe: Recipe, shape: ModelShape) -> int:
    """How many numbers the optimizer moves."""
    shape = trained_shape(recipe, shape)
    adapter, score = recipe.adapter, score_weights(recipe, shape)
    if isinstance(adapter, Lora):
        return adapter_weights(adapter, shape) + saved_module_weights(adapter, shape) + score
    return shape.parameters.total - frozen_weights(adapter, shape) + score


def frozen_weights(adapter: NoAdapter, shape: ModelShape) -> int:
    frozen = len(adapter.freeze.frozen_layers() & set(range(shape.layers))) * shape.layer_parameters
    return frozen + (shape.embedding_weights if adapter.freeze.embeddings else 0)


def trains_head(recipe: Recipe, shape: ModelShape) -> bool:
    """Whether the output matrix gets a gradient."""
    adapter = recipe.adapter
    if recipe.scores:
        return False
    if isinstance(adapter, Lora):
        return "lm_head" in adapter.modules_to_save
    return not (shape.tied and adapter.freeze.embeddings)


def first_with_gradient(recipe: Recipe, shape: ModelShape) -> int:
    """The lowest decoder layer whose backward pass is computed; those below hold no activations.

    0 when anything at or below the first layer is trained.
    """
    adapter = recipe.adapter
    if isinstance(adapter, Lora) or not adapter.freeze.embeddings:
        return 0
    trained = set(range(shape.layers)) - adapter.freeze.frozen_layers()
    return min(trained, default=shape.layers)


def check_shape(recipe: Recipe, shape: ModelShape, *, world: int) -> None:
    """Refuse what the base's shape makes impossible, before anything is loaded.

    Raises:
        InputError: the batch cannot be split, a row may be longer than the base can look back, the rank is above a
            layer's smaller side, a name matches no layer, or the base cannot be made to score.
    """
    recipe.batch.passes(world)
    if recipe.scores and shape.architecture in UNSCORED:
        raise InputError(
            f"{recipe.base} is of the family {shape.architecture}, of which transformers has no model that scores",
            fix="start a reward model from another base, such as one of the Llama or Qwen families",
        )
    if shape.context and recipe.batch.max_length > shape.context:
        raise InputError(
            f"batch.max_length is {recipe.batch.max_length}, but {recipe.base} looks back on {shape.context} tokens",
            fix=f"set batch.max_length to at most {shape.context}",
        )
    longest = recipe.batch.max_length + (recipe.method.max_tokens if isinstance(recipe.method, Grpo) else 0)
    if shape.context and longest > shape.context:
        raise InputError(
            f"prompts and answers have up to {longest} tokens, but {recipe.base} looks back on {shape.context}",
            fix="lower method.max_tokens or batch.max_length",
        )
    if isinstance(recipe.adapter, Lora):
        _check_adapter(recipe.adapter, shape)
    else:
        _check_freeze(recipe.adapter, shape)


def _check_freeze(adapter: NoAdapter, shape: ModelShape) -> None:
    beyond = {number for number in adapter.freeze.frozen_layers() if number >= shape.layers}
    if beyond:
        raise InputError(
            f"adapter.freeze.layers names layer {min(beyond)}, but the base has layers 0 to {shape.layers - 1}",
            fix=f"write at most 0-{shape.layers - 1}",
        )


def _check_adapter(adapter: Lora, shape: ModelShape) -> None:
    known = {**shape.linears, **outer_linears(shape)}
    if not isinstance(adapter.targets, str):
        for written in adapter.targets:
            name = written.rsplit(".", 1)[-1]
            if name not in known:
                raise InputError(
                    f"adapter.targets names {written!r}, but the base has no such layer{nearest(name, known)}",
                    fix=f"name some of {', '.join(known)}, or write all-linear",
                )
            number = re.search(r"layers\.(\d+)\.", written)
            if number and int(number.group(1)) >= shape.layers:
                raise InputError(
                    f"adapter.targets names {written!r}, but the base has layers 0 to {shape.layers - 1}",
                    fix="name a layer that is there, or give the name alone to adapt it in all of them",
                )
    modules = _module_sizes(shape)
    for name in adapter.modules_to_save:
        if name not in modules:
            raise InputError(
                f"adapter.modules_to_save names {name!r}, but the base has no such module{nearest(name, modules)}",
                fix=f"name some of {', '.join(modules)}",
            )
    for name, target in targets_of(adapter, shape).items():
        side = min(target.linear.inputs, target.linear.outputs)
        if adapter.rank > side:
            raise InputError(
                f"adapter.rank is {adapter.rank}, but {name} is {target.linear.inputs} × {target.linear.outputs}: "
                f"no update of it has a rank above {side}",
                fix=f"set adapter.rank to at most {side}; 8 to 64 is usual",
            )


def _module_sizes(shape: ModelShape) -> Mapping[str, int]:
    inside = {name: linear.parameters * shape.layers for name, linear in shape.linears.items()}
    return {"embed_tokens": shape.embedding_weights, "lm_head": shape.embedding_weights, **inside}
