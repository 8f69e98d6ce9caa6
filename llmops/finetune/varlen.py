"""Attention document by document, registered with transformers under the name `varlen`.

On CUDA one call of torch's variable-length kernel, elsewhere one call of sdpa for each document. It
builds no mask: between documents nothing is computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container
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
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each document; without boundaries, plain sdpa.

    Args:
        query: `(sequences, heads, length, width)`; `key` and `value` may have fewer heads.
        cu_seq_lens_q: `(documents + 1,)` ends of documents over all sequences laid end to end.
        max_length_q: at least the longest document's tokens.
        sliding_window: tokens a position may see; off CUDA no document may be longer.

    Returns:
        `(sequences, length, heads, width)`.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    beyond = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
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
        from torch.nn.attention.varlen import varlen_attn

        mixed = by_kernel(varlen_attn, query, key, value, cu_seq_lens_q, longest, scaling, sliding_window)
    else:
        mixed = by_document(query, key, value, cu_seq_lens_q, dropout, scaling, sliding_window)
    return mixed.reshape(sequences, length, heads, -1), None


def by_document(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """One call of causal sdpa for each document: no mask, and no work between documents. `(tokens, heads, width)`."""
    lengths = ends.diff().tolist()
    if window is not None and max(lengths) > window:
        raise ValueError(f"a document of {max(lengths)} tokens is longer than the model's window of {window}")
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


def by_kernel(
    kernel: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """The same by `kernel`, some release's `varlen_attn`. `(tokens, heads, width)`."""
    known = inspect.signature(kernel).parameters
    query, key, value, options = kernel_options(known, query, key, value, scaling=scaling, window=window)
    # The kernel wants one width for all three (latent attention has narrower values).
    width = value.shape[-1]
    value = nn.functional.pad(value, [0, query.shape[-1] - width])
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    return kernel(query, key, value, ends, ends, longest, longest, **options)[..., :width]


def kernel_options(
    known: Container[str], query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, window: int | None
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """How `varlen_attn` is told "causal", the scale and grouped heads; its parameters differ between torch releases.

    What a release has no parameter for is done to the tensors instead.

    Args:
        known: names of its parameters.
        window: tokens a position may see, itself included; None sees all before it.

    Raises:
        ValueError: there is a window and the release knows none.
    """
    if "window_size" in known:
        options: dict[str, Any] = {"window_size": (-1 if window is None else window - 1, 0)}
    elif window is None:
        options = {"is_causal": True}
    else:
        raise ValueError("this release of torch has no window for variable-length attention")
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
