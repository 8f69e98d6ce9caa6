"""What a measurement runs on: the embedded base's shape and tokenizer with random weights, which cost no training."""

from __future__ import annotations

from pathlib import Path


def make_random_tiny(folder: Path, *, precision: str) -> Path:
    """The folder, which then holds a model of the shape of `builtin:tiny`; `precision` is a dtype of torch."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmops.builtin.definition import definition_of
    from llmops.builtin.tokenizer import train_tokenizer

    definition = definition_of("tiny")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**definition.config())).to(getattr(torch, precision)).save_pretrained(folder)
    train_tokenizer(definition).save_pretrained(folder)
    return folder
