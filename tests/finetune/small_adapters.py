"""Bases and adapters of random values, small enough that a merge takes a fraction of a second."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from tests.finetune.small_models import make_tokenizer

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def make_base(
    folder: Path, *, kind: str = "llama", tied: bool = False, dtype: torch.dtype = torch.float32, hidden: int = 32
) -> Path:
    """Two layers, seed 1, with a tokenizer and a chat template."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

    tokenizer = make_tokenizer()
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
    }
    config = LlamaConfig(**shape) if kind == "llama" else Qwen3Config(**shape, head_dim=hidden // 2)
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(folder: Path, base: Path, *, size: float = 0.05, options: Any = None, **config: Any) -> Path:
    """An adapter for `base`, seed 2, as training leaves one: every trained value moved by about `size`.

    `options` goes to `from_pretrained`, to train on a quantized base.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_pretrained(base, **{"dtype": "auto", **(options or {})})
    config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    with warnings.catch_warnings():
        # peft remarks on adapters for tied embeddings; that they merge rightly is what the tests show.
        warnings.simplefilter("ignore")
        inner = get_peft_model(model, LoraConfig(**config))
        with torch.no_grad():
            for parameter in inner.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * size)
        inner.save_pretrained(folder)
    return folder


def rewrite(adapter: Path, change: Any) -> None:
    """Apply `change` to the dict of the adapter's tensors and save what it returns."""
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


def say(adapter: Path, **values: Any) -> None:
    """Set keys of adapter_config.json."""
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def logits_of(model: Any, ids: Any) -> torch.Tensor:
    """Logits of a model, in 32-bit arithmetic."""
    with torch.no_grad():
        return model.eval().float()(input_ids=ids).logits
