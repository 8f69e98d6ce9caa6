"""An adapter and its base made one model, which appears only after it was shown to be what the two were together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmops.errors import EnvironmentFault, InputError, nearest
from llmops.files import file_digest, folder_digest, new_folder, write_json
from llmops.finetune.adapter import WEIGHTS, Adapter, attach, check_fit, read_adapter
from llmops.finetune.artifact import TOKENIZER_FILES, copy_tokenizer
from llmops.finetune.merge_base import RECORD, check_base, empty_model, fill, history, load_base, load_quantized
from llmops.finetune.merge_checks import (
    TOLERANCE,
    Changes,
    MergeFault,
    check_changed,
    check_names,
    check_reload,
    check_same,
)
from llmops.finetune.model import DTYPES
from llmops.finetune.probes import distance, float32_arithmetic, logits, probe_ids
from llmops.finetune.tensor_files import system_errors

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MergeReport:
    """A merged model at `out` and what was measured on the probes, in 32-bit arithmetic.

    Attributes:
        dtype: of the merged weights: bf16, fp16 or fp32.
        kl_to_adapter: mean KL(base with adapter ‖ merged) in nats per token, at most `kl_tolerance`.
        argmax_agreement: share of positions with the same likeliest token; elsewhere the two were nearly tied.
        effect_lost: share of the adapter's effect on the distributions that rounding took: √(KL(adapter ‖ merged)
            / KL(adapter ‖ base)).
        kl_to_base: mean KL(merged ‖ base), above zero.
        changed_tensors: tensors that differ from the base's in this dtype; `largest_change` over all their values.
        kl_to_quantized: mean KL(quantized base with adapter ‖ merged) where the adapter was trained on a quantized
            base; what quantization did, not a fault of the merge. None where it was not.
        tied: the model's input and output embeddings are one tensor.
        positions: next-token distributions compared.
        digest: of the merged folder.
    """

    out: Path
    dtype: str
    kl_to_adapter: float
    kl_tolerance: float
    argmax_agreement: float
    effect_lost: float
    kl_to_base: float
    changed_tensors: int
    largest_change: float
    kl_to_quantized: float | None
    tied: bool
    positions: int
    adapter_digest: str
    base_digest: str
    digest: str


def merge(
    adapter: Path, *, base: Path, out: Path, dtype: str | None = None, on_progress: Say = lambda line: None
) -> MergeReport:
    """Write `base` with the adapter folder `adapter` merged into it to the folder `out`, whole or not at all.

    Sums are made in 32 bits and rounded once. The weights are in memory once, beside the pages of the base's file,
    which the system can drop; checks need one layer in 32 bits on top.

    Args:
        base: the unquantized model the adapter was trained on.
        out: appears when every check has passed; an earlier merge, or a copy of the adapter, is replaced.
        dtype: bf16, fp16 or fp32; None keeps the base's.

    Raises:
        InputError: the adapter or the base cannot be merged, or do not belong together.
        MergeFault: a check of the merged model failed.
        EnvironmentFault: the disk has no room.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"there is no dtype {dtype!r}{nearest(dtype, DTYPES)}", fix=f"use one of {', '.join(DTYPES)}")
    _check_out(out, adapter, base)
    read = read_adapter(adapter)
    base_digest = check_base(read, base)
    check_fit(attach(empty_model(base, read), read), read, base)
    on_progress(f"the adapter fits its base: {len(read.tensors)} tensors")

    model = load_base(base, read)
    wanted = DTYPES[dtype] if dtype else model.dtype
    name = {value: key for key, value in DTYPES.items()}.get(wanted)
    if name is None:
        raise InputError(f"the base {base} holds its weights as {wanted}", fix="say --dtype bf16, fp16 or fp32")
    _check_room(model, wanted, out)
    ids = probe_ids(
        model.get_input_embeddings().weight.shape[0], adapter if (adapter / "tokenizer.json").is_file() else base
    )
    with float32_arithmetic(model, rounded_to=wanted):
        of_base = logits(model, ids)
    names = set(model.state_dict())

    inner = fill(attach(model, read), read)
    with float32_arithmetic(inner):
        of_adapter = logits(inner, ids)
    on_progress(f"merging in float32, rounded once to {name}")
    changes = _merge_layers(inner, wanted, read)
    model = inner.unload()
    del inner
    _round_rest(model, wanted)
    check_names(set(model.state_dict()), names)
    tied = _settle_ties(model)
    with float32_arithmetic(model):
        of_merged = logits(model, ids)
    to_adapter, to_base = distance(of_adapter, of_merged), distance(of_merged, of_base)
    effect = distance(of_adapter, of_base).kl
    lost = (to_adapter.kl / effect) ** 0.5 if effect > 0 else 1.0
    check_changed(changes, to_base.kl, name)
    check_same(to_adapter, lost, name)
    on_progress(f"merged equals adapter: KL {to_adapter.kl:.1e} nats over {len(of_merged)} positions")

    as_served = logits(model, ids)
    record = {
        "merged_from": {
            "adapter_digest": read.digest,
            "adapter_weights": read.weights_digest,
            "base_digest": base_digest,
        },
        "earlier": history(base),
        "dtype": name,
    }
    try:
        with new_folder(out) as fresh:
            with system_errors():
                _write(model, adapter, base, fresh)
            write_json(fresh / RECORD, record)
            del model
            check_reload(fresh, ids, as_served)
            on_progress("the written folder gives the same logits, bit for bit")
            digest = folder_digest(fresh)
            to_quantized = None
            if read.trained_bits < 16 and find_spec("bitsandbytes") is None:
                on_progress("bitsandbytes is not installed: no comparison with the quantized base of the training")
            elif read.trained_bits < 16:
                on_progress(f"comparing with the {read.trained_bits}-bit base the adapter was trained on")
                to_quantized = distance(logits(load_quantized(base, read), ids), of_merged).kl
    except OSError as error:
        raise EnvironmentFault(
            f"the merged model could not be written to {out}: {error.strerror or error}",
            fix="free disk space or choose another folder with --out",
        ) from error
    return MergeReport(
        out=out,
        dtype=name,
        kl_to_adapter=to_adapter.kl,
        kl_tolerance=TOLERANCE[name],
        argmax_agreement=to_adapter.agreement,
        effect_lost=lost,
        kl_to_base=to_base.kl,
        changed_tensors=changes.tensors,
        largest_change=changes.largest,
        kl_to_quantized=to_quantized,
        tied=tied,
        positions=len(of_merged),
        adapter_digest=read.digest,
        base_digest=base_digest,
        digest=digest,
    )


@torch.no_grad()
def _merge_layers(inner: Any, wanted: torch.dtype, adapter: Adapter) -> Changes:
    """Add every layer of the adapter to its base layer, in place, one layer in 32 bits at a time.

    Raises:
        MergeFault: a sum is out of the dtype's range.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    own, zero = inner.get_base_model().dtype, adapter.zero_layers
    tensors, largest, unchanged = 0, 0.0, []
    for path, part in list(inner.named_modules()):
        name = path.removeprefix("base_model.model.")
        changed = 0
        if isinstance(part, BaseTunerLayer):
            layer = part.get_base_layer()
            before = dict(layer.named_parameters(recurse=False))
            for key, value in before.items():
                # A new parameter, so that one tied to this layer's keeps its own value.
                setattr(layer, key, nn.Parameter(value.to(torch.float32, copy=True), requires_grad=False))
            part.merge()
            for key, value in before.items():
                merged = _rounded(getattr(layer, key), value, own, wanted, name)
                setattr(layer, key, nn.Parameter(merged, requires_grad=False))
                change = _change(merged, value)
                largest, changed = max(largest, change), changed + (change > 0)
            if not changed and name not in zero:
                unchanged.append(name)
        elif isinstance(part, ModulesToSaveWrapper):
            original = dict(part.original_module.named_parameters())
            for key, value in part.modules_to_save[part.active_adapter].named_parameters():
                value.data = _rounded(value, original[key], own, wanted, name)
                change = _change(value, original[key])
                largest, changed = max(largest, change), changed + (change > 0)
        tensors += changed
    return Changes(tensors, largest, tuple(unchanged))


def _rounded(value: Tensor, before: Tensor, own: torch.dtype, wanted: torch.dtype, name: str) -> Tensor:
    """`value` in the dtype its predecessor will have: what the model keeps in 32 bits stays so."""
    rounded = value.data.to(wanted if before.dtype == own else before.dtype)
    if not torch.isfinite(rounded).all():
        raise MergeFault(
            f"{name} has merged weights that are not finite in {rounded.dtype}",
            fix="merge with --dtype bf16 or fp32, which hold larger numbers",
        )
    return rounded


def _change(merged: Tensor, before: Tensor) -> float:
    """Largest difference of one value from the base's in the same dtype; rounding alone is no change."""
    if merged.shape != before.shape:
        return float(merged.abs().max())
    return float((merged.float() - before.to(merged.dtype).float()).abs().max())


def _round_rest(model: Any, wanted: torch.dtype) -> None:
    """What the adapter left alone follows to `wanted`."""
    own = model.dtype
    for parameter in model.parameters():
        if parameter.dtype == own and parameter.is_floating_point():
            parameter.data = parameter.data.to(wanted)
    model.config.dtype = wanted


def _settle_ties(model: Any) -> bool:
    """Whether input and output embeddings are one; the config is made to say what they are."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    if outputs is None or not model.config.get_text_config().tie_word_embeddings:
        return False
    if outputs.weight is not inputs.weight and torch.equal(outputs.weight, inputs.weight):
        outputs.weight = inputs.weight
    tied = outputs.weight is inputs.weight
    for config in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = tied
    return tied


def _write(model: Any, adapter: Path, base: Path, folder: Path) -> None:
    """Weights and config, and byte for byte the files the tokens and the generation depend on."""
    from transformers import GenerationConfig

    kept = next((one for one in (adapter, base) if (one / "generation_config.json").is_file()), None)
    if kept:
        # Some published ones do not pass their own library's validation on saving.
        model.generation_config = GenerationConfig()
    model.save_pretrained(folder, max_shard_size="5GB")
    if kept:
        shutil.copyfile(kept / "generation_config.json", folder / "generation_config.json")
    has_tokens = any((adapter / name).is_file() for name in TOKENIZER_FILES if name != "generation_config.json")
    copy_tokenizer(adapter if has_tokens else base, folder)


def _check_out(out: Path, adapter: Path, base: Path) -> None:
    if out.resolve() in (adapter.resolve(), base.resolve()):
        raise InputError(f"--out {out} is the adapter or the base itself", fix="choose another folder with --out")
    if (out / WEIGHTS).is_file() and (adapter / WEIGHTS).is_file():
        ours = file_digest(out / WEIGHTS) == file_digest(adapter / WEIGHTS)
    else:
        ours = (out / RECORD).is_file()
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and holds something else", fix="choose another folder with --out, or empty it")


def _check_room(model: Any, wanted: torch.dtype, out: Path) -> None:
    need = sum(one.numel() for one in model.parameters()) * wanted.itemsize
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if need > free:
        raise EnvironmentFault(
            f"the merged model takes {need / 2**30:.1f} GiB, and {there} has {free / 2**30:.1f} GiB free",
            fix="free disk space or choose another folder with --out",
        )
