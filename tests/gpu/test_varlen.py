"""On CUDA the kernel for documents computes what one call for each document computes, within bfloat16."""

from __future__ import annotations

import pytest
import torch

from llmops.finetune.varlen import varlen_attention

pytestmark = pytest.mark.gpu


def test_outputs_and_gradients_are_those_of_each_document_alone() -> None:
    torch.manual_seed(0)
    ends = torch.tensor([0, 100, 101, 700, 1024], dtype=torch.int32, device="cuda")
    shapes = [(2, 8, 512, 64), (2, 2, 512, 64), (2, 2, 512, 64)]
    inputs = [torch.randn(shape, device="cuda", requires_grad=True) for shape in shapes]
    slope = torch.randn(2, 512, 8, 64, device="cuda")

    def computed(dtype: torch.dtype) -> list[torch.Tensor]:
        query, key, value = (one.to(dtype) for one in inputs)
        # Documents may span the two rows here: what counts is the order end to end.
        out, _ = varlen_attention(
            torch.nn.Identity(), query, key, value, None, scaling=0.125, cu_seq_lens_q=ends, max_length_q=1024
        )
        gradients = torch.autograd.grad((out.float() * slope).sum(), inputs)
        return [out.float(), *gradients]

    # In 32 bits the plain path runs, in 16 the kernel.
    for half, full in zip(computed(torch.bfloat16), computed(torch.float32), strict=True):
        assert (half - full).abs().max() < 0.03 * full.abs().max()
