"""The base an adapter is merged into: whether it is the right one, and loading it at the adapter's size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from llmops.errors import InputError
from llmops.files import folder_digest
from llmops.finetune.adapter import Adapter, attach, quiet
from llmops.finetune.probes import largest_id

RECORD = "merge.json"
"""In a merged folder: which adapter and base it was made of, and the merges before that."""

_OTHER_BASE = "give the base it was trained on with --base"


def check_base(adapter: Adapter, base: Path) -> str:
    """The digest of the folder `base`, once it is known to be what `adapter` was trained on.

    By digest where the adapter's manifest has one, else by name: the folder, its last part, or the hub id of a
    cached snapshot. An adapter that names no base is believed.

    Raises:
        InputError: it is no whole model in safetensors, is quantized, is another base, or already holds the adapter.
    """
    if not (base / "config.json").is_file():
        what = "an adapter itself" if (base / "adapter_config.json").is_file() else "no model: it has no config.json"
        raise InputError(f"the base {base} is {what}", fix="give the folder of a whole model with --base")
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "some method")
        raise InputError(
            f"the base {base} is quantized ({method}), and sums with quantized weights are not what was trained",
            fix="give the unquantized original with --base",
        )
    if not list(base.glob("*.safetensors")):
        raise InputError(
            f"the base {base} has no weights in safetensors (a pickle can run any code when loaded)",
            fix="save it again with `save_pretrained(folder)`, or copy the .safetensors files too",
        )
    if any(adapter.weights_digest == one.get("adapter_weights") for one in history(base)):
        raise InputError(
            f"the base {base} already holds this adapter ({adapter.weights_digest[:12]}): merging twice adds it twice",
            fix="use that folder as it is, or give the base the adapter was trained on with --base",
        )
    digest = folder_digest(base)
    if adapter.base_digest and adapter.base_digest != digest:
        raise InputError(
            f"the adapter was trained on a base with digest {adapter.base_digest[:12]}, {base} has {digest[:12]}",
            fix=f"{_OTHER_BASE}{f' ({adapter.base})' if adapter.base else ''}",
        )
    if not adapter.base_digest and adapter.base and not _is_named(base, adapter.base):
        raise InputError(
            f"the adapter was trained on {adapter.base}, and {base} has another name",
            fix=f"{_OTHER_BASE}; where it is the same model, correct base_model_name_or_path in adapter_config.json",
        )
    return digest


def history(base: Path) -> list[dict[str, str]]:
    """The merges that made `base`, oldest first; none for a base that is not merged."""
    try:
        record = json.loads((base / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [*record.get("earlier", []), record.get("merged_from", {})]


def _is_named(base: Path, recorded: str) -> bool:
    if Path(recorded).exists():
        return Path(recorded).resolve() == base.resolve()
    name = recorded.rpartition("@")[0] or recorded
    names = {base.name, base.resolve().name}
    if base.parent.name == "snapshots":
        names.add(base.parent.parent.name.rpartition("--")[2])
    return name.rstrip("/").rpartition("/")[2] in names


def empty_model(base: Path, adapter: Adapter) -> Any:
    """The base's shape without its weights, embeddings as long as the adapter's.

    Raises:
        InputError: this transformers does not know the architecture, or the tokens do not fit the embeddings.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(
            f"the base {base} cannot be built: {str(error).splitlines()[0]}",
            fix="use an architecture that the installed transformers knows without code of its own",
        ) from error
    _resize(model, adapter)
    rows = model.get_input_embeddings().weight.shape[0]
    largest = largest_id(adapter.folder)
    if largest is not None and largest >= rows:
        raise InputError(
            f"the adapter's tokenizer gives ids up to {largest}, but there are embeddings for {rows} tokens only",
            fix="save the adapter with its resized embeddings (`save_embedding_layers=True`), or use the tokenizer "
            "it was trained with",
        )
    return model


def load_base(base: Path, adapter: Adapter, **options: Any) -> Any:
    """The base in its own dtype unless `options` say otherwise, embeddings as long as the adapter's."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        base, **{"dtype": "auto", **options}, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    _resize(model, adapter)
    return model.eval()


def load_quantized(base: Path, adapter: Adapter) -> Any:
    """The base with the adapter beside it as it was trained: nf4 or int8 weights, sums in 32 bits."""
    from transformers import BitsAndBytesConfig

    if adapter.trained_bits == 4:
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    else:
        how = BitsAndBytesConfig(load_in_8bit=True)
    model = load_base(base, adapter, dtype=torch.float32, quantization_config=how, device_map={"": "cpu"})
    return fill(attach(model, adapter), adapter)


def fill(inner: Any, adapter: Adapter) -> Any:
    """Give a model that `attach` has prepared the adapter's values."""
    from peft import set_peft_model_state_dict

    with quiet():
        done = set_peft_model_state_dict(inner, adapter.tensors)
    assert not done.unexpected_keys, done.unexpected_keys
    return inner.eval()


def _resize(model: Any, adapter: Adapter) -> None:
    """Lengthen or shorten the embeddings to those the adapter brings whole, if it brings any."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    brought: dict[bool, int] = {}
    for name, part in model.named_modules():
        if part is inputs or part is outputs:
            for key in (f"base_model.model.{name}.weight", f"base_model.model.{name}.base_layer.weight"):
                if key in adapter.tensors:
                    brought[part is inputs] = adapter.tensors[key].shape[0]
    rows = max(brought.values(), default=inputs.weight.shape[0])
    if rows == inputs.weight.shape[0]:
        return
    tied = outputs is None or outputs.weight is inputs.weight
    if len(brought) < 2 and not tied:
        have, lack = ("input", "output") if True in brought else ("output", "input")
        raise InputError(
            f"the adapter brings {have} embeddings for {rows} tokens but no {lack} embeddings, and the base has "
            f"{inputs.weight.shape[0]}",
            fix="save the adapter with both (`save_embedding_layers=True`)",
        )
    with torch.random.fork_rng(devices=[]):
        # New rows are overwritten by the adapter's; until then they are at least the same ones every time.
        torch.manual_seed(0)
        model.resize_token_embeddings(rows, mean_resizing=False)
