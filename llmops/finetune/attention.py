"""Documents of one batch never see each other: what each attention implementation is told, and which one is taken.

No mask is built where none is needed: padding stands on the right, so causal attention never reaches it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llmops.errors import EnvironmentFault, InputError, nearest
from llmops.finetune.packing import Batch
from llmops.finetune.varlen import VARLEN

IMPLEMENTATIONS = (VARLEN, "flash_attention_2", "sdpa", "eager")
"""Those that can isolate documents."""


def attention_inputs(
    batch: Batch, implementation: str, *, device: torch.device | str, dtype: torch.dtype
) -> dict[str, Any]:
    """Keyword arguments of a transformers model beside `input_ids`, such that documents are isolated.

    `position_ids` are always `(sequences, length)`. For packed batches `flash_attention_2` takes all sequences
    as one row, so it also gets `input_ids` of `(1, sequences · length)`: let them replace others.

    Args:
        dtype: of the arithmetic; the additive mask of `eager` has it.

    Raises:
        ValueError: an implementation that is not of `IMPLEMENTATIONS`.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"no attention implementation {implementation!r} isolates documents")
    positions = torch.from_numpy(batch.position_ids).to(device, non_blocking=True)
    inputs: dict[str, Any] = {"position_ids": positions, "attention_mask": None}
    if not batch.packed:
        return inputs
    match implementation:
        case _ if implementation == VARLEN:
            inputs |= _boundaries(batch, device)
        case "flash_attention_2":
            inputs |= _boundaries(batch, device)
            inputs["position_ids"] = positions.reshape(1, -1)
            inputs["input_ids"] = torch.from_numpy(batch.input_ids.reshape(1, -1)).to(device, non_blocking=True)
        case "sdpa":
            inputs["attention_mask"] = _sees(batch, device)
        case "eager":
            sees = _sees(batch, device)
            never = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=sees.device)
            inputs["attention_mask"] = torch.where(sees, torch.zeros((), dtype=dtype, device=sees.device), never)
    return inputs


def _sees(batch: Batch, device: torch.device | str) -> Tensor:
    """`(sequences, 1, length, length)`, true where the position of a line may see that of a column.

    Padding counts as one more document: a line without any column would have no softmax.
    """
    documents = torch.from_numpy(batch.documents).to(device)
    causal = torch.ones(documents.shape[1], documents.shape[1], dtype=torch.bool, device=documents.device).tril_()
    return ((documents[:, :, None] == documents[:, None, :]) & causal)[:, None]


def document_lengths(batch: Batch) -> NDArray[np.int32]:
    """Tokens of each document, over all sequences laid end to end; a run of padding counts as one."""
    begins = np.ones(batch.documents.shape, dtype=np.bool_)
    begins[:, 1:] = batch.documents[:, 1:] != batch.documents[:, :-1]
    return np.diff(np.flatnonzero(begins.ravel()), append=begins.size).astype(np.int32)


def _boundaries(batch: Batch, device: torch.device | str) -> dict[str, Any]:
    """Where documents begin and end, in the words FlashAttention has for it."""
    lengths = document_lengths(batch)
    # Rounded up to a power of two: it bounds the kernel's grid, and a compiled layer sees few different ones.
    longest = 1 << (int(lengths.max()) - 1).bit_length()
    ends = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)).to(device, non_blocking=True)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides about attention on a machine: `capability` is None without CUDA."""

    torch_version: str
    capability: tuple[int, int] | None
    has_varlen: bool
    has_flash: bool

    @classmethod
    def here(cls, device: torch.device | str) -> Machine:
        device = torch.device(device)
        return cls(
            torch_version=".".join(torch.__version__.split(".")[:2]),
            capability=torch.cuda.get_device_capability(device) if device.type == "cuda" else None,
            has_varlen=find_spec("torch.nn.attention.varlen") is not None,
            has_flash=find_spec("flash_attn") is not None,
        )


def choose(
    requested: str,
    *,
    device: torch.device | str,
    packing: bool,
    model_config: Any,
    max_length: int | None = None,
    precision: str = "bf16",
    machine: Machine | None = None,
) -> tuple[str, str]:
    """The attention implementation to load the model with, and why, beginning with its name.

    Args:
        requested: one of `IMPLEMENTATIONS`, or `auto`.
        model_config: the base's transformers configuration.
        max_length: tokens a sequence may have; a sliding window that is no shorter does not matter.
        precision: bf16, fp16 or fp32; the kernels for documents are for 16 bits.
        machine: None looks at this one.

    Raises:
        InputError: the name is not known, or packing is asked of a model or implementation that cannot
            keep documents apart.
        EnvironmentFault: this machine lacks what was asked for.
    """
    machine = machine or Machine.here(device)
    if requested not in ("auto", *IMPLEMENTATIONS):
        known = ", ".join(("auto", *IMPLEMENTATIONS))
        why = f"kernels.attention {requested!r} cannot keep packed documents apart" if packing else "not known"
        problem = why if packing else f"kernels.attention {requested!r} is {why}{nearest(requested, IMPLEMENTATIONS)}"
        raise InputError(problem, fix=f"use one of: {known}")
    if packing and (obstacle := cannot_isolate(model_config, max_length)):
        raise InputError(
            f"packing is not possible with this base ({model_config.model_type}): {obstacle}",
            fix="set batch.packing: false",
        )
    lacking = {
        VARLEN: _varlen_lacks(machine, model_config, precision, packing=packing),
        "flash_attention_2": _flash_lacks(machine, precision),
    }
    if requested != "auto":
        if lack := lacking.get(requested):
            raise EnvironmentFault(
                f"kernels.attention {requested} cannot be used here: {lack}", fix="set kernels.attention: auto"
            )
        return requested, f"{requested}: as the recipe says"
    if not packing:
        if machine.capability is None and precision != "fp32" and not cannot_isolate(model_config, max_length):
            return VARLEN, f"{VARLEN}: on a CPU in 16 bits its backward pass is faster, padding needs no mask"
        return "sdpa", "sdpa: causal, and padding on the right needs no mask"
    if not lacking[VARLEN]:
        if machine.capability is None:
            return VARLEN, f"{VARLEN}: on a CPU documents of one length at a time, no mask"
        return (
            VARLEN,
            f"{VARLEN}: torch {machine.torch_version} has it, compute capability {_dotted(machine.capability)}",
        )
    if not lacking["flash_attention_2"]:
        return "flash_attention_2", f"flash_attention_2: installed, and {VARLEN} cannot be used ({lacking[VARLEN]})"
    return "sdpa", f"sdpa: with a mask for documents, as {VARLEN} cannot be used ({lacking[VARLEN]})"


def _varlen_lacks(machine: Machine, model_config: Any, precision: str, *, packing: bool) -> str | None:
    """Why documents cannot be computed one by one here, or None."""
    text = model_config.get_text_config()
    capped = getattr(text, "attn_logit_softcapping", None)
    if packing and (capped or getattr(text, "model_type", "") == "gpt_oss"):
        return "the model's attention has a cap or sinks"
    if machine.capability is None:
        return None
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if not machine.has_varlen:
        return f"torch {machine.torch_version} lacks torch.nn.attention.varlen, which came with 2.10"
    if machine.capability < (8, 0):
        return f"compute capability {_dotted(machine.capability)}, its kernel needs 8.0"
    if precision == "fp32":
        return "its kernel computes in 16 bits, the recipe in 32"
    if width > 256 or width % 8:
        return f"heads of width {width}, its kernel takes multiples of 8 up to 256"
    if getattr(text, "attention_dropout", 0.0):
        return "its kernel has no attention dropout, which the model asks for"
    return None


def _flash_lacks(machine: Machine, precision: str) -> str | None:
    if machine.capability is None:
        return "it needs a CUDA GPU"
    if not machine.has_flash:
        return "the package flash-attn is not installed"
    if machine.capability < (8, 0):
        return f"compute capability {_dotted(machine.capability)}, it needs 8.0"
    return "it computes in 16 bits, the recipe in 32" if precision == "fp32" else None


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


_STATE = re.compile(r"(mamba|ssm|rwkv|lru|conv_|linear_(attn|attention|num|key|value|conv)|time_mix|recurrent)")


def cannot_isolate(model_config: Any, max_length: int | None = None) -> str | None:
    """Why documents of one sequence would influence each other in this model, or None where they cannot.

    Only models are let through whose every layer mixes tokens by full causal attention, through
    transformers' attention interface: what a mask does elsewhere is not known.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    text = model_config.get_text_config()
    if model_config.is_encoder_decoder:
        return "it has an encoder"
    if not getattr(text, "is_causal", True):
        return "its attention is not causal"
    state = sorted(name for name, value in vars(text).items() if _STATE.match(name) and value)
    kinds = set(getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ["full_attention"])
    windows = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    if others := sorted(kinds - {"full_attention", "attention", *windows}):
        return f"layers of the kind {', '.join(others)} carry state from one document to the next"
    if state:
        return f"its layers carry state from one document to the next ({', '.join(state[:3])})"
    if not getattr(text, "layer_types", None) and getattr(text, "use_sliding_window", True):
        kinds.add("sliding_attention")
    for kind in sorted(kinds & windows.keys()):
        size = getattr(text, windows[kind], None)
        if size and (max_length is None or size < max_length):
            return f"its window of {size} tokens would be lost with the mask for documents"
    classes = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model_config), None) or MODEL_FOR_CAUSAL_LM_MAPPING.get(
        type(text), None
    )
    if classes is None:
        return "its architecture is not known to transformers as a causal language model"
    if getattr(classes, "_is_stateful", False):
        return "its layers carry state from one document to the next"
    if not getattr(classes, "_supports_attention_backend", False):
        return "it does not go through transformers' attention interface, so masks may be ignored"
    return None


@torch.no_grad()
def check_isolation(model: nn.Module, implementation: str, *, switch: nn.Module | None = None) -> None:
    """Let a loaded model prove on a few tokens that a document behind another is computed as it is alone.

    Args:
        model: a transformers model (or one inside peft) that answers with `logits`, or its decoder.
        switch: the module around it that knows how to go into evaluation mode and back; None is `model`.

    Raises:
        InputError: it is not.
    """
    parameter = next(model.parameters())
    vocabulary = int(model.config.get_text_config().vocab_size)
    tokens = np.arange(1, 25, dtype=np.int64) * 7919 % vocabulary
    first, second = tokens[:11], tokens[11:]

    def logits(documents: list[NDArray[np.int64]]) -> Tensor:
        batch = _batch_of(documents)
        inputs = {
            "input_ids": torch.from_numpy(batch.input_ids).to(parameter.device),
            **attention_inputs(batch, implementation, device=parameter.device, dtype=parameter.dtype),
        }
        answered = model(**inputs, use_cache=False)
        each = answered.logits if hasattr(answered, "logits") else answered.last_hidden_state
        return each[0, -len(second) :].float()

    switch = model if switch is None else switch
    was_training = switch.training
    switch.eval()
    try:
        alone, behind = logits([second]), logits([first, second])
    finally:
        switch.train(was_training)
    tolerance = 1e-3 if parameter.dtype == torch.float32 else 5e-2
    if not torch.allclose(behind, alone, rtol=0, atol=tolerance * float(alone.abs().max())):
        raise InputError(
            f"packing is not possible with this base: with {implementation} a document sees the one before it",
            fix="set batch.packing: false, or another kernels.attention",
        )


def _batch_of(documents: list[NDArray[np.int64]]) -> Batch:
    numbers = [np.full(len(one), place, dtype=np.int32) for place, one in enumerate(documents)]
    return Batch(
        input_ids=np.concatenate(documents)[None],
        trained=np.zeros((1, sum(map(len, documents))), dtype=np.bool_),
        position_ids=np.concatenate([np.arange(len(one)) for one in documents])[None],
        documents=np.concatenate(numbers)[None],
    )
