"""The result of a run on disk: an adapter for peft or a whole model for transformers, loadable as it stands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from llmops.errors import EnvironmentFault
from llmops.files import new_folder, write_json
from llmops.finetune.model import LossModel
from llmops.finetune.parallel import Processes, local_part, whole
from llmops.finetune.recipe import Lora, Recipe
from llmops.finetune.tensor_files import system_errors
from llmops.records import ModelSource

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)
"""Copied byte for byte, so that the tokens trained on are the tokens served."""


def save_artifact(
    model: LossModel, recipe: Recipe, base: ModelSource, out: Path, processes: Processes
) -> Literal["adapter", "full"]:
    """Write what was trained to the folder `out`, whole or not at all; all processes call this together.

    Split weights are gathered from all processes into the host memory of the first.

    Raises:
        EnvironmentFault: the disk is full.
    """
    adapter = isinstance(recipe.adapter, Lora)
    state = _gathered(model.inner, trained_only=adapter)
    if processes.first:
        try:
            with new_folder(out) as fresh, system_errors():
                if adapter:
                    _write_adapter(model.inner, state, base, fresh)
                else:
                    _write_model(model.causal, state, base.folder, fresh)
                copy_tokenizer(base.folder, fresh)
        except OSError as error:
            raise EnvironmentFault(
                f"the artifact could not be written to {out}: {error.strerror or error}",
                fix="free disk space, then run the same command again: it goes on from the last checkpoint",
            ) from error
    processes.meet()
    return "adapter" if adapter else "full"


def copy_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer's own files, unchanged."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and not (target / name).exists():
            shutil.copyfile(source / name, target / name)


def _gathered(inner: Any, *, trained_only: bool) -> dict[str, Tensor]:
    """Every (trained) tensor in host memory; tensors that share memory go on sharing it."""
    wanted = {name for name, one in inner.named_parameters(remove_duplicate=False) if one.requires_grad}
    gathered: dict[str, Tensor] = {}
    seen: dict[tuple[int, torch.Size], Tensor] = {}
    for name, tensor in inner.state_dict().items():
        if trained_only and name not in wanted:
            continue
        key = (local_part(tensor).data_ptr(), tensor.shape)
        if key not in seen:
            seen[key] = whole(tensor.detach()).cpu()
        gathered[name] = seen[key]
    return gathered


def _write_adapter(inner: Any, state: dict[str, Tensor], base: ModelSource, folder: Path) -> None:
    config = inner.peft_config["default"]
    # The name others can load the base by: the hub's with its commit, else where it lies on this machine.
    is_hub = base.revision is not None and not base.reference.startswith(("models:", "builtin:"))
    config.base_model_name_or_path = base.reference.partition("@")[0] if is_hub else str(base.folder)
    config.revision = base.revision if is_hub else None
    if config.task_type == "SEQ_CLS":
        # peft adds every name that heads go by, and adds them again when it loads.
        config.modules_to_save = [name for name in dict.fromkeys(config.modules_to_save) if name != "classifier"]
    if isinstance(config.target_modules, set):
        # A set is written in another order by every process: the same run would have another digest.
        config.target_modules = sorted(config.target_modules)
    inner.save_pretrained(folder, state_dict=state, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def _write_model(causal: Any, state: dict[str, Tensor], base: Path, folder: Path) -> None:
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(base, local_files_only=True).dtype or torch.float32
    casts: dict[int, Tensor] = {}
    for name, tensor in state.items():
        # One cast per memory, so that tied weights stay tied in the file.
        if tensor.is_floating_point():
            state[name] = casts.setdefault(tensor.data_ptr(), tensor.to(dtype))
    causal.save_pretrained(folder, state_dict=state, safe_serialization=True)
    # It notes the format of the live weights; who loads the folder must take that of the file.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", {**config, "dtype": str(dtype).removeprefix("torch.")})
