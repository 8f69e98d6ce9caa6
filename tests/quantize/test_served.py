"""What vLLM serves of a quantized artifact, as it stands, is the model that its packed weights say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llmops.eval.engines import transformers_reading, vllm
from llmops.eval.engines.reading import Passage
from llmops.eval.parity import statistics_of
from llmops.quantize.run import Quantized
from tests.quantize.made import unpacked_model
from tests.real_vllm import WITH_VLLM

pytestmark = WITH_VLLM


def test_vllm_reads_as_transformers_with_the_unpacked_weights(model: Path, nearest: Quantized, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    unpacked_model(model, nearest.artifact).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path)
    drawn = np.random.default_rng(0)
    asked = [Passage(tuple(int(one) for one in drawn.integers(7, 263, size=24)), 4) for _ in range(6)]
    served = vllm.read(nearest.artifact, asked, others=64)

    def kl_of(folder: Path) -> float:
        trained = transformers_reading.read(folder, asked, at=[one.ids for one in served])
        sums = np.stack([statistics_of(*pair) for pair in zip(trained, served, strict=True)]).sum(0)
        return float(sums[0] / sums[2])

    # Both compute in 16 bits; the rounding of the weights is a hundred times as much.
    assert kl_of(tmp_path) < 0.01
    assert kl_of(model) > 10 * kl_of(tmp_path)
