"""Where a base's shape comes from: a folder, the hub's cache on this disk, or the table of well-known bases.

Nothing is downloaded and no weights are read, so a plan can be made before either.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import EnvironmentFault, InputError, nearest
from llmops.finetune.shape import ModelShape, shape_of


def _llama(hidden: int, intermediate: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


def _qwen3(hidden: int, intermediate: int, layers: int, heads: int, *, tied: bool = False) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": tied,
        "dtype": "bfloat16",
    }


# The `config.json` each repository publishes. Also in the papers: Llama 3 arXiv:2407.21783 table 3,
# Qwen3 arXiv:2505.09388 table 1.
_LLAMA_8B = _llama(4096, 14336, 32, 32)
_LLAMA_70B = _llama(8192, 28672, 80, 64)
KNOWN: Mapping[str, Mapping[str, Any]] = {
    "meta-llama/Llama-3.1-8B": _LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_8B,
    "meta-llama/Llama-3.1-70B": _LLAMA_70B,
    "meta-llama/Llama-3.1-70B-Instruct": _LLAMA_70B,
    "meta-llama/Llama-3.3-70B-Instruct": _LLAMA_70B,
    "Qwen/Qwen3-0.6B": _qwen3(1024, 3072, 28, 16, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 6144, 28, 16, tied=True),
    "Qwen/Qwen3-4B": _qwen3(2560, 9728, 36, 32, tied=True),
    "Qwen/Qwen3-8B": _qwen3(4096, 12288, 36, 32),
    "Qwen/Qwen3-14B": _qwen3(5120, 17408, 40, 40),
    "Qwen/Qwen3-32B": _qwen3(5120, 25600, 64, 64),
}


@dataclass(frozen=True, slots=True)
class KnownShape:
    """A shape, where it was found, and the folder with the tokenizer when that is on this disk too."""

    shape: ModelShape
    origin: str
    folder: Path | None


def find_shape(reference: str, *, cache: Path | None = None) -> KnownShape:
    """The shape of the base that a recipe names, without network and without weights.

    Looked for in this order: an embedded base, a folder, the hub's cache, the table above.

    Args:
        cache: where embedded bases are kept once made; None does not look for their tokenizer.

    Raises:
        InputError: it names no model, or one whose shape cannot be read.
        EnvironmentFault: a hub model that is neither on this disk nor in the table, or a registered one.
    """
    if reference.startswith("builtin:"):
        return _embedded(reference, cache)
    if reference.startswith("models:/"):
        return _registered(reference)
    path = Path(reference).expanduser()
    if path.exists() or reference.startswith(("/", "./", "../", "~")):
        return _folder(reference, path)
    name, _, revision = reference.partition("@")
    held = hub_snapshot(name, revision or None)
    if held is not None:
        config = _config(held / "config.json", reference)
        return KnownShape(shape_of(config, named=reference), f"config.json in the hub's cache ({held.name[:12]})", held)
    if name in KNOWN:
        return KnownShape(shape_of(KNOWN[name], named=reference), "the table of well-known bases", None)
    hint = nearest(name, KNOWN)
    if name.count("/") != 1:
        raise InputError(f"{reference!r} names no model{hint}", fix="write builtin:tiny, a folder, or org/name")
    raise EnvironmentFault(
        f"the shape of {reference} is not known without its config.json, which is not on this machine{hint}",
        fix=f"run `hf download {name} config.json`, or give a folder that holds it",
    )


def hub_snapshot(name: str, revision: str | None) -> Path | None:
    """The snapshot of a hub model in the hub's cache that holds its `config.json`; None when it is not there.

    The layout is the one huggingface_hub documents: `models--org--name/refs/<revision>` holds a commit,
    `snapshots/<commit>/` its files.
    """
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    root = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    model = root / f"models--{name.replace('/', '--')}"
    reference = model / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    held = model / "snapshots" / commit if commit else None
    return held if held is not None and (held / "config.json").is_file() else None


def _embedded(reference: str, cache: Path | None) -> KnownShape:
    from llmops.builtin.bases import shape
    from llmops.builtin.definition import definition_of

    name = reference.removeprefix("builtin:")
    found = shape_of(shape(name), named=reference)
    definition = definition_of(name)
    made = cache / "builtin" / f"{definition.name}-{definition.digest()[:16]}" if cache is not None else None
    return KnownShape(found, "its definition", made if made is not None and made.is_dir() else None)


def _folder(reference: str, path: Path) -> KnownShape:
    if not path.is_dir():
        raise InputError(f"there is no folder {reference}", fix="give the folder of a model, or a hub id like org/name")
    config = _config(path / "config.json", reference)
    return KnownShape(shape_of(config, named=reference), "its config.json", path)


def _registered(reference: str) -> KnownShape:
    from llmops.registry.reference import resolve
    from llmops.workspace import Workspace

    found = resolve(reference, workspace=Workspace.current())
    config = _config(found.folder / "config.json", reference)
    return KnownShape(shape_of(config, named=reference), "its config.json in the registry", found.folder)


def _config(path: Path, reference: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{reference} holds no config.json", fix="give the folder transformers saved a model in"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error})", fix="copy the file again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no mapping", fix="copy the file again")
    return found
