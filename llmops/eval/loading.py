"""A model folder as a model that answers: whole or adapter, its precision, its end tokens, the memory it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from llmops.data.chat import encode_prompt, encode_text, render, template_digest
from llmops.errors import EnvironmentFault, InputError
from llmops.eval.items import Item
from llmops.registry.folder import check_answers

Precision = Literal["bf16", "fp32"]
_MOST_ROWS = {"cpu": 128, "cuda": 256}  # from here on a pass takes longer in proportion to its rows
_CACHE_SHARE = 0.5  # of free memory that keys and values may take


def base_of(folder: Path) -> str | None:
    """The base that an adapter's configuration names, as it was written; None for a whole model."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    named = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    return str(named) if named else None


def load(folder: Path, *, base: Path | None = None, device: str, precision: Precision) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, ready to answer; nothing is fetched from a network.

    Raises:
        InputError: it only scores answers.
        EnvironmentFault: files are missing or do not fit each other; or an adapter's base is not on this disk.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the caller shows progress in its own way
    check_answers(folder, named=str(folder))
    tokenizer = load_tokenizer(folder, base=base)
    whole = whole_folder(folder, base)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(whole),
            dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[precision],
            device_map="auto" if device == "cuda" else {"": device},
            use_safetensors=True,
            local_files_only=True,
        )
        if whole != folder:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_loaded(folder, error) from error
    return model.eval(), tokenizer


def load_tokenizer(folder: Path, *, base: Path | None = None) -> Any:
    """The tokenizer of a folder: its own, or that of an adapter's base.

    Raises:
        EnvironmentFault: as `load`.
    """
    from transformers import AutoTokenizer

    whole = whole_folder(folder, base)
    own = (folder / "tokenizer_config.json").is_file()
    try:
        return AutoTokenizer.from_pretrained(str(folder if own else whole), local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_loaded(folder, error) from error


def whole_folder(folder: Path, base: Path | None = None) -> Path:
    """Where the whole model is: `folder` itself, or for an adapter its base.

    Raises:
        EnvironmentFault: there is none.
    """
    adapter = (folder / "adapter_config.json").is_file()
    whole = base or Path(base_of(folder) or "") if adapter else folder
    if not (whole / "config.json").is_file():
        raise EnvironmentFault(
            f"{folder} is an adapter, and its base {base_of(folder) or base} is no folder with a model here"
            if adapter
            else f"{folder} holds no model (no config.json)",
            fix="give the folder of its base" if adapter else "give the folder of a model or of an adapter",
        )
    return whole


def _not_loaded(folder: Path, error: Exception) -> EnvironmentFault:
    return EnvironmentFault(
        f"the model in {folder} cannot be loaded: {str(error).splitlines()[0]}",
        fix="check that the folder is complete: config.json, tokenizer.json and safetensors of one model",
    )


def checked_template(folder: Path, tokenizer: Any) -> str:
    """The digest of the tokenizer's chat template, which must be the one the model was trained with.

    Raises:
        EnvironmentFault: the manifest beside the model names another one.
    """
    found = template_digest(tokenizer)
    manifest = folder / "manifest.json"
    trained = None
    if manifest.is_file():
        trained = (json.loads(manifest.read_text(encoding="utf-8")).get("lineage") or {}).get("template")
    if trained is not None and trained != found:
        raise EnvironmentFault(
            f"the chat template of {folder} is not the one it was trained with "
            f"({found[:12]}, its manifest says {trained[:12]})",
            fix="put the tokenizer files of its run back, or train it again with this template",
        )
    return found


def asked_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]], prompt: Literal["chat", "plain"]) -> list[int]:
    """What a model is given to answer or go on with; exactly one BOS where the tokenizer has one."""
    if prompt == "chat":
        return encode_prompt(tokenizer, [dict(turn) for turn in messages])
    return encode_text(tokenizer, plain_text(messages))


def plain_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Turns as bare text: an answer follows its prompt after a space, and an empty line follows each answer."""
    text = ""
    for turn in messages:
        if turn["role"] == "assistant":
            text += f" {turn['content']}\n\n"
        else:
            text += ("\n\n" if text and not text.endswith("\n\n") else "") + str(turn["content"])
    return text


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer: those the model's files name, and what its chat template closes a turn with."""
    found: set[int] = set()
    for named in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        found.update(named if isinstance(named, list) else [] if named is None else [named])
    if tokenizer.chat_template:
        said = "zqz"  # a text that no template holds itself
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}]
        written = render(tokenizer, turns, generation_prompt=False)
        after = tokenizer.encode(written.rpartition(said)[2], add_special_tokens=False)
        # A text after the answer, such as a line end, ends nothing: only a token that stands for no text does.
        added = tokenizer.added_tokens_decoder
        if after and after[0] in added and added[after[0]].special:
            found.add(after[0])
    return found


def check_room(
    items: Sequence[Item], prompts: Sequence[Sequence[int]], room: Sequence[int], context: int | None
) -> None:
    """Raises InputError where a prompt leaves no token of the context for its answer.

    Args:
        room: tokens that are left for the answer, of each prompt.
    """
    crowded = [index for index, left in enumerate(room) if left < 1]
    if crowded:
        worst = max(crowded, key=lambda index: len(prompts[index]))
        raise InputError(
            f"{len(crowded)} of {len(items)} prompts fill the model's context of {context} tokens; the longest has "
            f"{len(prompts[worst])} and begins {items[worst].prompt[:40]!r}",
            fix="leave these items out of the suite, or evaluate a model with a longer context",
        )


def precision_for(device: str) -> tuple[Precision, str]:
    """The number format to answer in, and why."""
    import torch

    if kind_of(device) == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        at = f"compute capability {major}.{minor}"
        return ("bf16", at) if major >= 8 else ("fp32", f"{at} has no bf16")
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = next((name for name in ("amx_bf16", "avx512_bf16") if has.get(name)), None)
    return ("bf16", f"the CPU has {fast}") if fast else ("fp32", "the CPU has no fast bf16")


def kind_of(device: str) -> Literal["cpu", "cuda"]:
    """The kind of a torch device: `cuda:1` is `cuda`."""
    return "cuda" if device.startswith("cuda") else "cpu"


def rows_at_once(bytes_per_token: int, tokens: int, free_bytes: int, *, most: int) -> int:
    """Rows whose keys and values fit into half of the free memory at their full length; 1 to `most`."""
    return max(1, min(most, int(free_bytes * _CACHE_SHARE) // max(1, bytes_per_token * tokens)))


def rows_for(model: Any, tokens: int, device: str) -> int:
    """`rows_at_once` for this model and the memory that is free now."""
    return rows_at_once(_bytes_per_token(model), tokens, _free_bytes(device), most=_MOST_ROWS[kind_of(device)])


def _bytes_per_token(model: Any) -> int:
    """Keys and values of one token in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers * heads * width) * model.dtype.itemsize


def _free_bytes(device: str) -> int:
    if kind_of(device) == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)
