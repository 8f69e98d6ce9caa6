"""What the tests of generation share: a small model whose greedy answers vary, and items to ask it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmops.eval.items import Item
from llmops.files import digest_of


def item_of(prompt: str, *references: str, **slices: str) -> Item:
    messages = ({"role": "user", "content": prompt},)
    return Item(digest_of(list(messages)), messages, prompt, references or ("r",), slices)


@pytest.fixture(scope="session")
def make_item() -> Callable[..., Item]:
    """An item from its prompt, its references and its slices."""
    return item_of


@pytest.fixture(scope="session")
def lively_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with large random weights, so that each prompt has its own answer and none repeats one token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.finetune.small_models import make_tokenizer

    folder = tmp_path_factory.mktemp("lively")
    tokenizer = make_tokenizer()
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
