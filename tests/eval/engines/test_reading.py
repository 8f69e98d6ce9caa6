"""A passage is read as the model's own forward pass has it, whatever it is batched with; by both engines alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmops.eval.engines import transformers_reading
from llmops.eval.engines.reading import Passage


def passages(seed: int = 0) -> list[Passage]:
    rng = np.random.default_rng(seed)
    return [
        Passage(tuple(int(one) for one in rng.integers(5, 60, size)), int(rng.integers(1, size)))
        for size in (2, 9, 30, 31, 17)
    ]


def one_by_one(folder: Path, passage: Passage) -> np.ndarray:
    """A pass for every token, of all before it and nothing else."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    found = []
    with torch.inference_mode():
        for place in range(passage.start, len(passage.ids)):
            logits = model(torch.tensor([passage.ids[:place]])).logits[0, -1]
            found.append(torch.log_softmax(logits.double(), -1).numpy())
    return np.stack(found)


def test_it_is_the_models_own_forward_pass(random_base: Path) -> None:
    asked = passages()
    at = [np.tile(np.array([7, 3, 11]), (len(one.ids) - one.start, 1)) for one in asked]
    found = transformers_reading.read(random_base, asked, at=at, precision="fp32")
    for passage, reading in zip(asked, found, strict=True):
        wanted = one_by_one(random_base, passage)
        own = [wanted[n, token] for n, token in enumerate(passage.ids[passage.start :])]
        assert np.allclose(reading.logprobs, own, atol=2e-5)
        assert np.allclose(reading.at, wanted[:, [7, 3, 11]], atol=2e-5)
        assert (reading.best == wanted.argmax(-1)).all()


def test_small_batches_change_nothing(random_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = transformers_reading.read(random_base, passages(), precision="fp32")
    monkeypatch.setattr(transformers_reading, "_LOGITS_BYTES", 1)
    apart = transformers_reading.read(random_base, passages(), precision="fp32")
    for one, other in zip(together, apart, strict=True):
        assert np.allclose(one.logprobs, other.logprobs, atol=2e-5)


def test_a_passage_begins_after_something_and_ends_after_its_start() -> None:
    for start in (0, 3):
        with pytest.raises(ValueError, match="cannot be read"):
            Passage((1, 2, 3), start)
