"""What a forward pass keeps is predicted from shapes: within 15 % of the bytes autograd really saves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from llmops.config import load
from llmops.finetune.activations import Load, arithmetic_of, kept_bytes
from llmops.finetune.memory import cast_bytes
from llmops.finetune.model import DTYPES, LossModel, Placement, load_model
from llmops.finetune.recipe import Recipe
from llmops.finetune.shape import shape_of
from llmops.finetune.trained import first_with_gradient

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3, "tie_word_embeddings": True},
    "wide-llama": {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "num_key_value_heads": 4},
    "qwen3": {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 2, "head_dim": 64},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from transformers import AutoConfig, AutoModelForCausalLM

    folders = {}
    for name, sizes in ARCHITECTURES.items():
        settings = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512} | sizes
        torch.manual_seed(0)
        config = AutoConfig.for_model(name.removeprefix("wide-"), **settings)
        folders[name] = tmp_path_factory.mktemp(name)
        AutoModelForCausalLM.from_config(config).save_pretrained(folders[name])
    return folders


def make_recipe(folder: Path, base: Path, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(
        f"name: test\nbase: {base}\ndata: {{train: [{{source: x.csv, prompt: '{{a}}', completion: '{{b}}'}}]}}\n"
    )
    return load(path, Recipe, what="recipe", overrides=overrides)


def saved_bytes(model: LossModel, precision: str, sequences: int, length: int, mask: bool) -> int:
    """Bytes of all distinct storages autograd keeps between the decoder's forward and backward pass."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    inputs: dict[str, Any] = {"input_ids": torch.zeros(sequences, length, dtype=torch.long)}
    if mask:
        inputs["attention_mask"] = torch.ones(sequences, 1, length, length, dtype=torch.bool).tril()
    autocast = torch.autocast("cpu", dtype=DTYPES[precision], enabled=precision != "fp32")
    with warnings.catch_warnings(), autocast, torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        warnings.simplefilter("ignore")
        hidden = model.backbone(use_cache=False, **inputs).last_hidden_state
    assert hidden.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


LORA = "adapter={kind: lora, rank: 8, alpha: 16}"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(
    ("base", "sequences", "length", "overrides"),
    [
        pytest.param("llama", 2, 96, [], id="full"),
        pytest.param("llama", 1, 384, [], id="full, one long sequence"),
        pytest.param("llama", 4, 96, ["kernels.checkpointing=true"], id="full, checkpointed"),
        pytest.param("wide-llama", 2, 128, [], id="full, wide"),
        pytest.param("qwen3", 2, 96, [], id="full, norms on queries and keys"),
        pytest.param("llama", 2, 96, ["kernels.attention=eager"], id="full, eager"),
        pytest.param("llama", 1, 256, ["batch.packing=true"], id="full, packed"),
        pytest.param(
            "llama", 2, 96, ["adapter={kind: none, freeze: {embeddings: true, layers: 0-1}}"], id="top layer only"
        ),
        pytest.param(
            "llama", 2, 96, ["adapter={kind: none, freeze: {layers: 1-2}}"], id="frozen layers above trained ones"
        ),
        pytest.param("llama", 2, 128, [LORA], id="lora"),
        pytest.param("llama", 1, 512, [LORA], id="lora, one long sequence"),
        pytest.param("llama", 2, 128, [LORA, "adapter.rank=64"], id="lora of rank 64"),
        pytest.param("wide-llama", 2, 128, [LORA, "adapter.targets=[q_proj, v_proj]"], id="lora on two layers"),
        pytest.param("llama", 4, 128, [LORA, "kernels.checkpointing=true"], id="lora, checkpointed"),
        pytest.param("llama", 2, 128, [LORA, "adapter.dropout=0.1"], id="lora with dropout"),
        pytest.param("llama", 2, 128, [LORA, "adapter.variant=dora"], id="dora"),
        pytest.param("wide-llama", 2, 256, [LORA, "adapter.variant=dora"], id="dora, wide"),
        pytest.param("llama", 2, 96, [LORA, "kernels.attention=eager"], id="lora, eager"),
        pytest.param("llama", 1, 256, [LORA, "batch.packing=true"], id="lora, packed"),
        pytest.param("qwen3", 2, 128, [LORA], id="lora, norms on queries and keys"),
    ],
)
def test_the_prediction_is_what_autograd_keeps(
    bases: dict[str, Path],
    tmp_path: Path,
    base: str,
    sequences: int,
    length: int,
    overrides: list[str],
    precision: str,
) -> None:
    recipe = make_recipe(tmp_path, bases[base], f"precision={precision}", *overrides)
    attention = "eager" if recipe.kernels.attention == "eager" else "sdpa"
    model = load_model(recipe, bases[base], Placement(torch.device("cpu"), attention, liger=False))
    config = model.causal.config
    shape = shape_of(config.to_dict(), named=base)
    arithmetic = arithmetic_of(recipe, on_gpu=False, attention=attention, liger=False)
    load = Load(sequences=sequences, length=length, trained=sequences * length, passes=1)

    measured = saved_bytes(model, precision, sequences, length, mask=recipe.batch.packing)
    with_backward = shape.layers - first_with_gradient(recipe, shape)
    casts = 0 if arithmetic.checkpointing else cast_bytes(recipe, shape, arithmetic, layers=with_backward)
    assert kept_bytes(recipe, shape, arithmetic, load) + casts == pytest.approx(measured, rel=0.15)
