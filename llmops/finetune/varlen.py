"""Attention document by document, registered with transformers under the name `varlen`.

On CUDA one call of torch's variable-length kernel, elsewhere one call of sdpa for each document. It
builds no mask: between documents nothing is computed.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

VARLEN = "varlen"
_HALF = (torch.bfloat16, torch.float16)


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each document; without boundaries, plain sdpa.

    Args:
        query: `(sequences, heads, length, width)`; `key` and `value` may have fewer heads.
        cu_seq_lens_q: `(documents + 1,)` ends of documents over all sequences laid end to end.
        max_length_q: at least the longest document's tokens.

    Returns:
        `(sequences, length, heads, width)`.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    beyond = [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if beyond:
        raise ValueError(f"attention with {', '.join(beyond)} cannot be isolated by document here")
    sequences, heads, length, _ = query.shape
    if torch.is_autocast_enabled(query.device.type):
        # Rotary embeddings are in 32 bits where the weights are.
        half = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(half), key.to(half), value.to(half)
    query, key, value = (one.transpose(1, 2).flatten(0, 1) for one in (query, key, value))
    if query.is_cuda and query.dtype in _HALF and not dropout:
        longest = max_length_q if max_length_q is not None else sequences * length
        mixed = _by_kernel(query, key, value, cu_seq_lens_q, longest, scaling)
    else:
        mixed = _by_document(query, key, value, cu_seq_lens_q, dropout, scaling)
    return mixed.reshape(sequences, length, heads, -1), None


def _by_document(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, dropout: float, scaling: float | None
) -> Tensor:
    """One call of causal sdpa for each document: no mask, and no work between documents. `(tokens, heads, width)`."""
    lengths = ends.diff().tolist()
    # Split once: the backward pass of a split is one concatenation, that of slices one full tensor each.
    parts = zip(*(one.split(lengths) for one in (query, key, value)), strict=True)
    grouped = query.shape[1] != key.shape[1]
    mixed = [
        nn.functional.scaled_dot_product_attention(
            *(one.transpose(0, 1)[None] for one in part),
            dropout_p=dropout,
            is_causal=True,
            scale=scaling,
            enable_gqa=grouped,
        )[0].transpose(0, 1)
        for part in parts
    ]
    return torch.cat(mixed)


def _by_kernel(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scaling: float | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value, options = kernel_options(inspect.signature(varlen_attn).parameters, query, key, value, scaling)
    width = value.shape[-1]
    # The kernel wants one width for all three (latent attention has narrower values).
    value = nn.functional.pad(value, [0, query.shape[-1] - width])
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    return varlen_attn(query, key, value, ends, ends, longest, longest, **options)[..., :width]


def kernel_options(
    known: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """How `varlen_attn` is told "causal", the scale and grouped heads; its parameters differ between torch releases.

    What a release has no parameter for is done to the tensors instead.
    """
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if scaling is not None:
        if "scale" in known:
            options["scale"] = scaling
        else:
            # The kernel divides by the root of the width itself.
            query = query * (scaling * query.shape[-1] ** 0.5)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return query, key, value, options


def varlen_mask(*, attention_mask: Tensor | None = None, **others: Any) -> Tensor | None:
    """No mask where documents are told by their boundaries; as `sdpa` where a padding mask is given."""
    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **others)


AttentionInterface.register(VARLEN, varlen_attention)
AttentionMaskInterface.register(VARLEN, varlen_mask)
