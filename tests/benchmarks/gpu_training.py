"""A model of public shape with random weights, trained for some updates on a GPU.

`python -m tests.benchmarks.gpu_training CASE` runs one; `tiny` runs anywhere.

Prints one JSON line: tokens per second, model FLOPs utilisation by the formula of the plan,
and the peak memory measured beside the predicted one. The shape decides these, not the
values of the weights, so nothing has to be downloaded.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UPDATES = 12
WARM_UP = 4


@dataclass(frozen=True)
class Case:
    """`config` overrides Llama's; `recipe` overrides the recipe's sections."""

    config: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)


_LLAMA_8B: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
_LLAMA_1B: dict[str, Any] = {
    **_LLAMA_8B,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
_TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_LORA = {"kind": "lora", "rank": 16, "alpha": 32}
_PACKED_4096 = {"max_length": 4096, "packing": True}

CASES = {
    "llama-8b-lora": Case(_LLAMA_8B, {"adapter": _LORA, "batch": {**_PACKED_4096, "sequences": 4, "per_device": 4}}),
    "llama-8b-lora-checkpointing": Case(
        _LLAMA_8B,
        {
            "adapter": _LORA,
            "batch": {**_PACKED_4096, "sequences": 8, "per_device": 8},
            "kernels": {"checkpointing": True},
        },
    ),
    "llama-8b-qlora": Case(
        _LLAMA_8B, {"adapter": {**_LORA, "base_bits": 4}, "batch": {**_PACKED_4096, "sequences": 4, "per_device": 4}}
    ),
    "llama-1b-full": Case(_LLAMA_1B, {"batch": {**_PACKED_4096, "sequences": 4, "per_device": 4}}),
    "llama-1b-full-compiled": Case(
        _LLAMA_1B, {"batch": {**_PACKED_4096, "sequences": 4, "per_device": 4}, "kernels": {"compile": True}}
    ),
    "tiny": Case(_TINY, {"batch": {"max_length": 128, "packing": True, "sequences": 2, "per_device": 2}}),
}


def make_base(folder: Path, config: dict[str, Any]) -> None:
    """Random weights in bf16, made where training will be, so that 8 B of them take seconds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with device:
        model = LlamaForCausalLM(LlamaConfig(**{"max_position_embeddings": 8192, **config})).to(torch.bfloat16)
    model.save_pretrained(folder, safe_serialization=True, max_shard_size="5GB")


def measure(case: Case, folder: Path) -> dict[str, float | str]:
    import numpy as np
    import torch

    from llmops.finetune.job import Job, read_steps
    from llmops.finetune.kernels import choose_kernels
    from llmops.finetune.launch import launch
    from llmops.finetune.lengths import LengthProfile
    from llmops.finetune.plan import make_plan
    from llmops.finetune.recipe import Recipe
    from llmops.finetune.shape import shape_of
    from llmops.finetune.token_file import Writer
    from llmops.finetune.tokens import TokenStore
    from llmops.hardware import device_of, machine
    from llmops.records import ModelSource

    base = folder / "base"
    make_base(base, case.config)
    recipe = Recipe.model_validate(
        {
            "name": "speed",
            "base": str(base),
            "data": {"train": [{"source": "random", "text": "text"}]},
            "schedule": {"steps": UPDATES},
            "checkpoints": {"every": 10_000},
            **case.recipe,
        }
    )
    # Documents of many lengths, as real ones have; answers are about half of them.
    draw = np.random.default_rng(0)
    longest = recipe.batch.max_length
    wanted = UPDATES * recipe.batch.sequences * longest
    with Writer(folder / "tokens" / "train.safetensors") as writer:
        while wanted > 0:
            length = int(np.clip(draw.lognormal(np.log(longest / 6), 0.8), 16, longest))
            trained = np.zeros(length, dtype=np.bool_)
            trained[length // 2 :] = True
            writer.add(draw.integers(3, case.config["vocab_size"], length).astype(np.int32), trained, 1.0)
            wanted -= length
        writer.finish()
    store = TokenStore.open(folder / "tokens" / "train.safetensors")
    source = ModelSource(str(base), base, None, "0" * 64)
    kernels = choose_kernels(recipe, source, world=1)
    plan = make_plan(
        recipe,
        shape_of(json.loads((base / "config.json").read_text()), named=str(base)),
        LengthProfile.from_rows(store.lengths.tolist(), store.trained_counts.tolist()),
        world=1,
        device=device_of(machine()),
        price_per_gpu_hour=None,
        attention=kernels.attention,
        liger=kernels.liger,
    )
    run = folder / "run"
    run.mkdir()
    Job(recipe, source, folder / "tokens", kernels.attention, kernels.liger, 0).write(run)
    outcome = launch(run, world=1)
    counted = list(read_steps(run))[WARM_UP:]
    speed = sum(step.tokens for step in counted) / sum(step.seconds for step in counted)
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "attention": kernels.attention,
        "liger": str(kernels.liger),
        "tokens_per_s": speed,
        "mfu": plan.mfu(speed),
        "formula": plan.flops.formula,
        "measured_peak_bytes": float(outcome.peak_bytes),
        "predicted_peak_bytes": plan.predicted()["peak_bytes"],
        "loss": outcome.loss,
    }


def main() -> None:
    name = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        print("RESULT " + json.dumps({"case": name, **measure(CASES[name], Path(folder))}))


if __name__ == "__main__":
    main()
