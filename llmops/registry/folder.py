"""What a model's folder must hold, and its digest without reading unchanged bytes again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmops.errors import InputError
from llmops.files import digest_of, folder_digest, write_text

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_LARGEST_HEADER = 100 << 20
_SETTLED_NS = 2_000_000_000


def check_model_folder(folder: Path, *, named: str) -> None:
    """Refuse a folder that is no model, holds pickled weights only, or lacks bytes.

    Reads headers, not weights: milliseconds for any size.

    Args:
        named: what the user calls it.

    Raises:
        InputError: says what is missing and how to get it.
    """
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/*config.json") if path.parent.is_dir())
        hint = f"; its folder {inside[0]!r} looks like one" if inside else ""
        raise InputError(
            f"{named} is no model: it has neither config.json nor adapter_config.json{hint}",
            fix="give the folder that `save_pretrained` wrote, or the `artifact` folder of a run",
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED)
        if pickled:
            raise InputError(
                f"{named} has its weights in {pickled[0]}, a pickle, which can run any code when loaded",
                fix="load it where you trust it and save it again with `save_pretrained(folder)`, "
                "which writes .safetensors",
            )
        raise InputError(f"{named} has no weights (*.safetensors)", fix="copy the .safetensors files too")
    for index in sorted(folder.glob("*.safetensors.index.json")):
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        missing = sorted(shards - {path.name for path in weights})
        if missing:
            raise InputError(
                f"{named} lacks {len(missing)} of {len(shards)} files of weights, first {missing[0]}",
                fix="copy or download the missing files",
            )
    for path in weights:
        problem = _broken(path)
        if problem:
            raise InputError(f"{named}: {path.name} {problem}", fix="copy or download the file again")


def is_reward_model(folder: Path) -> bool:
    """Whether a model's folder, an adapter or whole, holds one that gives texts a number and writes none.

    By its own file, as transformers and peft leave it, so that models trained elsewhere are known too.
    """
    adapter = _json(folder / "adapter_config.json")
    if adapter:
        return adapter.get("task_type") == "SEQ_CLS"
    architectures = _json(folder / "config.json").get("architectures") or []
    return any(str(name).endswith("ForSequenceClassification") for name in architectures)


def check_answers(folder: Path, *, named: str) -> None:
    """Refuse a model that gives numbers where answers are wanted; loaded as one that answers, it would write noise.

    Raises:
        InputError: it is a reward model.
    """
    if is_reward_model(folder):
        raise InputError(
            f"{named} is a reward model: it scores answers and writes none",
            fix=f"score answers with it: `- reward: {{model: {named}}}` under the scorers of a suite",
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _broken(path: Path) -> str | None:
    """Why a safetensors file cannot be whole: its header says how many bytes must follow."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        if first == b"version ":
            return "is a pointer of Git LFS, not the weights (`git lfs pull` fetches them)"
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > min(size, _LARGEST_HEADER):
            return "is not a safetensors file"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "is not a safetensors file"
    whole = 8 + length + max(ends, default=0)
    if size != whole:
        return f"is cut short: {size} of {whole} bytes" if size < whole else f"has {size - whole} bytes too many"
    return None


def cached_digest(folder: Path, cache: Path) -> str:
    """`folder_digest`, remembered under `cache` by every file's path, size and time of change.

    A file changed within the last two seconds is read again next time: some disks
    keep times so coarsely that another change could go unseen.
    """
    states = sorted(_states(folder))
    known = cache / "digests" / digest_of([str(folder.resolve()), states])
    if known.is_file():
        return known.read_text(encoding="utf-8").strip()
    digest = folder_digest(folder)
    newest = max((changed for _, _, changed in states), default=0)
    if newest < time.time_ns() - _SETTLED_NS and sorted(_states(folder)) == states:
        write_text(known, digest + "\n")
    return digest


def _states(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in folder.rglob("*"):
        if path.is_file():
            stat = path.stat()
            yield str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns
