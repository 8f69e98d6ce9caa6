"""Attention document by document, registered with transformers under the name `varlen`.

On CUDA one call of torch's variable-length kernel, elsewhere one for all documents of about one
length. It builds no mask: between documents nothing is computed.
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

from llmops.finetune.cpu_attention import causal

VARLEN = "varlen"
_STRIDE = 16
"""Documents whose lengths are equal after rounding up to a multiple of this are computed together."""
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
    if cu_seq_lens_q is None and attention_mask is None and query.shape[2] > 1 and query.shape[2] == key.shape[2]:
        query, key, value = _in_half(query, key, value)
        return causal(query, key, value, scaling=scaling, dropout=dropout).transpose(1, 2).contiguous(), None
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    beyond = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if beyond:
        raise ValueError(f"attention with {', '.join(beyond)} cannot be isolated by document here")
    sequences, heads, length, _ = query.shape
    query, key, value = _in_half(query, key, value)
    query, key, value = (one.transpose(1, 2).flatten(0, 1) for one in (query, key, value))
    if query.is_cuda and query.dtype in _HALF and not dropout:
        longest = max_length_q if max_length_q is not None else sequences * length
        from torch.nn.attention.varlen import varlen_attn

        mixed = by_kernel(varlen_attn, query, key, value, cu_seq_lens_q, longest, scaling, sliding_window)
    else:
        mixed = by_document(query, key, value, cu_seq_lens_q, dropout, scaling, sliding_window)
    return mixed.reshape(sequences, length, heads, -1), None


def _in_half(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In the dtype of the arithmetic: rotary embeddings are in 32 bits where the weights are."""
    if not torch.is_autocast_enabled(query.device.type):
        return query, key, value
    half = torch.get_autocast_dtype(query.device.type)
    return query.to(half), key.to(half), value.to(half)


def by_document(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Documents of about one length at a time, padded behind, where causal attention never looks.

    No mask, and no work between documents. `(tokens, heads, width)`.
    """
    lengths = ends.diff()
    longest = int(lengths.max())
    if window is not None and longest > window:
        raise ValueError(f"a document of {longest} tokens is longer than the model's window of {window}")
    # A row of zeros behind the tokens is what padding reads.
    nowhere = query.shape[0]
    rounded = -(-lengths // _STRIDE) * _STRIDE
    places, shapes = [], []
    for width in rounded.unique().tolist():
        chosen = (rounded == width).nonzero().squeeze(1)
        at = torch.arange(width, device=ends.device)
        places.append(torch.where(at < lengths[chosen, None], ends[chosen, None] + at, nowhere).flatten().long())
        shapes.append((len(chosen), width))
    # One selection for all groups: its backward pass is one addition, that of many would be one each.
    order = torch.cat(places)
    parts = [
        nn.functional.pad(one, (0, 0, 0, 0, 0, 1)).index_select(0, order).split([len(one) for one in places])
        for one in (query, key, value)
    ]
    mixed = []
    for (documents, width), *some in zip(shapes, *parts, strict=True):
        # (documents · width, heads, size) → (documents, heads, width, size)
        wide = [one.unflatten(0, (documents, width)).transpose(1, 2) for one in some]
        mixed.append(causal(*wide, scaling=scaling, dropout=dropout).transpose(1, 2).flatten(0, 1))
    back = torch.empty(nowhere + 1, dtype=torch.long, device=order.device)
    back[order] = torch.arange(len(order), device=order.device)
    return torch.cat(mixed).index_select(0, back[:nowhere])


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
