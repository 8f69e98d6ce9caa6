"""Small models with large random weights, so that each prompt has its own answer and none repeats one token."""

from __future__ import annotations

from pathlib import Path


def small_llama(folder: Path, *, hidden: int = 128, spread: float = 0.2) -> Path:
    """A whole model with a tokenizer and a chat template.

    Args:
        hidden: width; vLLM has kernels for 128.
        spread: standard deviation of the weights; the narrower the model, the larger.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.finetune.small_models import make_tokenizer

    tokenizer = make_tokenizer()
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=spread,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small_adapter(model: Path, folder: Path) -> Path:
    """An adapter of rank 4 that changes what its base says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(str(model)),
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM"),
    )
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    tuned.save_pretrained(str(folder))
    return folder
