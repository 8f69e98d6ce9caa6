"""A LoRA adapter as it lies on disk: what it says of itself, and every fault that shows before its base is loaded."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmops.errors import InputError
from llmops.files import file_digest, folder_digest

WEIGHTS = "adapter_model.safetensors"
_REBASING = ("pissa", "olora", "corda", "loftq")
"""Ways of initialising that change the base itself: the adapter fits a base that is not on disk."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A readable, finite, non-empty adapter.

    Attributes:
        config: peft's `LoraConfig`.
        tensors: by the names in the file, in the file's dtype.
        digest: of the folder; `weights_digest` of the file of tensors alone, which no copying or renaming changes.
        base: the name of the base it was trained on, `@revision` included; None when it does not say.
        base_digest: that base's digest by the run's manifest; None without one.
        trained_bits: bits per weight the base was held in while training, by the run's recipe; 16 without one.
    """

    folder: Path
    config: Any
    tensors: dict[str, Tensor]
    digest: str
    weights_digest: str
    base: str | None
    base_digest: str | None
    trained_bits: int

    @property
    def zero_layers(self) -> set[str]:
        """Layers whose adapter adds nothing: one of its two factors is zero everywhere."""
        factors = {name: tensor for name, tensor in self.tensors.items() if _factor(name)}
        return {layer_of(name) for name, tensor in factors.items() if not tensor.any()}


def read_adapter(folder: Path) -> Adapter:
    """The adapter in `folder`.

    Raises:
        InputError: it is no LoRA adapter in safetensors that can be merged, or it holds nothing,
            values that are not finite, or what it held before training.
    """
    config = _config(folder)
    tensors = _tensors(folder)
    _check_values(folder, tensors)
    adapter = Adapter(
        folder=folder,
        config=config,
        tensors=tensors,
        digest=folder_digest(folder),
        weights_digest=file_digest(folder / WEIGHTS),
        base=recorded_base(folder),
        base_digest=(_of_run(folder, "manifest.json").get("lineage") or {}).get("base_digest"),
        trained_bits=int((_recipe(folder).get("adapter") or {}).get("base_bits", 16)),
    )
    factors = {layer_of(name) for name in tensors if _factor(name)}
    whole = [name for name in tensors if "lora_" not in name]
    if factors and factors <= adapter.zero_layers and not whole:
        raise InputError(
            f"the adapter {folder} equals its initial value: all of its {len(factors)} B matrices are zero",
            fix="look at the run's loss and learning rate; an adapter that learned nothing is not worth merging",
        )
    return adapter


def recorded_base(folder: Path) -> str | None:
    """What an adapter folder says it was trained on, as a reference to load it by; None when it does not say.

    A path that is gone gives way to the `base` of the run's recipe.
    """
    config = _json(folder / "adapter_config.json")
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if name and Path(name).is_absolute() and not Path(name).is_dir():
        return _recipe(folder).get("base") or name
    return f"{name}@{revision}" if name and revision else name or None


def layer_of(key: str) -> str:
    """The model's layer that a tensor of the adapter belongs to: `model.layers.0.self_attn.q_proj`."""
    return key.removeprefix("base_model.model.").partition(".lora_")[0].removesuffix(".weight")


def attach(model: Any, adapter: Adapter) -> Any:
    """Put the layers of `adapter` into `model`, in place and still empty; what is trained is held in 32 bits.

    Raises:
        InputError: the model has no such layers.
    """
    from copy import copy

    from peft import get_peft_model
    from peft.utils.other import ModulesToSaveWrapper

    config = copy(adapter.config)
    config.inference_mode, config.base_model_name_or_path, config.revision = True, None, None
    try:
        with quiet():
            inner = get_peft_model(model, config)
    except ValueError as error:
        # Other architectures call their layers differently.
        raise InputError(
            f"the base has none of the layers of the adapter {adapter.folder}: {str(error).splitlines()[0]}",
            fix=f"give the base it was trained on{f' ({adapter.base})' if adapter.base else ''} with --base",
        ) from error
    for part in inner.modules():
        if isinstance(part, ModulesToSaveWrapper):
            part.modules_to_save.float()
    return inner


def check_fit(inner: Any, adapter: Adapter, base: Path) -> None:
    """Names and shapes of the file against a model that `attach` has prepared; it may lie on the meta device.

    Raises:
        InputError: names the first tensors that differ.
    """
    from peft import get_peft_model_state_dict

    with quiet():
        wanted = get_peft_model_state_dict(inner, save_embedding_layers=False)
    # Resized or targeted embeddings are saved whole beside the adapter.
    allowed = wanted | {name: value for name, value in inner.state_dict().items() if name in adapter.tensors}
    config_says = f"the base {base} has other layers than the adapter was trained on"
    fix = f"give the base it was trained on{f' ({adapter.base})' if adapter.base else ''} with --base"
    if foreign := sorted(set(adapter.tensors) - set(allowed)):
        raise InputError(f"{config_says}: it has no {_some(foreign)}", fix=fix)
    if missing := sorted(set(wanted) - set(adapter.tensors)):
        raise InputError(
            f"the adapter {adapter.folder} lacks {_some(missing)}, which its adapter_config.json promises",
            fix=f"copy {WEIGHTS} again, or {fix}",
        )
    differing = [
        f"{layer_of(name)} is {tuple(tensor.shape)} in the adapter and {tuple(allowed[name].shape)} in the base"
        for name, tensor in adapter.tensors.items()
        if tensor.shape != allowed[name].shape
    ]
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise InputError(f"shapes do not match: {differing[0]}{more}", fix=fix)


@contextmanager
def quiet() -> Iterator[None]:
    """Without peft's remarks on renamed bases and tied embeddings, which `merge` deals with itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _factor(name: str) -> bool:
    return any(part in name for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"))


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _of_run(folder: Path, name: str) -> dict[str, Any]:
    """A file of the run: in the adapter's folder, or beside it where the run's folder holds both."""
    beside = _json(folder.parent / name) if folder.name in ("artifact", "adapter") else {}
    return _json(folder / name) or beside


def _recipe(folder: Path) -> dict[str, Any]:
    """The resolved recipe: part of the manifest, and a file of its own until the run is finished."""
    return _of_run(folder, "manifest.json").get("recipe") or _of_run(folder, "recipe.json")


def _config(folder: Path) -> Any:
    from peft import PeftConfig

    if not (folder / "adapter_config.json").is_file():
        what = (
            "a whole model" if (folder / "config.json").is_file() else "not an adapter: it has no adapter_config.json"
        )
        raise InputError(
            f"{folder} is {what}", fix="give the folder that holds adapter_config.json, as a run leaves it"
        )
    said = _json(folder / "adapter_config.json")
    if said.get("peft_type") != "LORA":
        raise InputError(
            f"the adapter {folder} is of kind {said.get('peft_type', 'unknown')}, and only LORA is merged here",
            fix="merge it with the peft that trained it, or train with `adapter: {kind: lora}`",
        )
    if said.get("task_type") == "SEQ_CLS":
        raise InputError(
            f"the adapter {folder} is a reward model, and those are not merged here",
            fix="use it as it is: peft loads it with AutoPeftModelForSequenceClassification and num_labels=1, and "
            "suites by `reward: {model: …}`",
        )
    start = str(said.get("init_lora_weights", True)).lower()
    if start.startswith(_REBASING):
        raise InputError(
            f"the adapter {folder} was initialised by {start}, which changes the base it belongs to",
            fix="save it again with peft's `path_initial_model_for_weight_conversion`, then merge that",
        )
    if said.get("alora_invocation_tokens"):
        raise InputError(
            f"the adapter {folder} acts on some tokens only (activated LoRA), which no merged weight can do",
            fix="serve the adapter beside its base",
        )
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder / 'adapter_config.json'} cannot be read: {error}", fix="save the adapter again with this peft"
        ) from error


def _tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise InputError(
            f"{folder} has its weights in a pickle, which can run any code when loaded"
            if pickled
            else f"{folder} has no {WEIGHTS}",
            fix="save the adapter again with `save_pretrained(folder)`, which writes safetensors",
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}", fix="copy the file again") from error


def _check_values(folder: Path, tensors: dict[str, Tensor]) -> None:
    hollow = sorted(name for name, tensor in tensors.items() if not tensor.numel())
    if not tensors or hollow:
        what = f"{_some(hollow)} has no values" if hollow else "it holds no tensor"
        raise InputError(
            f"the adapter {folder} is empty: {what}",
            fix="save it again from a run that gathers split weights (ZeRO-3 and FSDP leave empty shells otherwise)",
        )
    broken = sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
    if broken:
        raise InputError(
            f"the adapter {folder} has values that are not finite, in {_some(broken)}",
            fix="take an earlier checkpoint of the run, and lower its learning rate",
        )
