"""How a vLLM server is started: its arguments and its environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmops.serve.layout import Server
from llmops.serve.places import Place
from llmops.serve.vllm_options import interpreter


@dataclass(frozen=True, slots=True)
class Launch:
    """All that starts one replica.

    Attributes:
        environment: whole, not what is added to ours.
        scratch: a folder for its sockets and temporary files, removed with it.
        log: what it writes goes to the end of this file.
        key: it answers those who know it.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    scratch: Path
    log: Path
    port: int
    key: str


def arguments(server: Server, place: Place, options: Sequence[str], *, port: int) -> tuple[str, ...]:
    """The command line of one replica.

    Args:
        options: of the `vllm:` section, checked.
    """
    first, settings = server.first, server.settings
    given = {option.partition("=")[0] for option in options}
    template = first.tokenizer / "chat_template.jinja"
    command = [
        *(interpreter(settings.python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(first.base), "--tokenizer", str(first.tokenizer), "--served-model-name", first.base_name),
        *("--host", "127.0.0.1", "--port", str(port)),
        # What a model brings along (penalties, top-k) is not what was judged.
        *("--generation-config", "vllm", "--enable-prefix-caching", "--enable-prompt-tokens-details"),
        "--disable-uvicorn-access-log",
    ]
    if template.is_file():
        command += ["--chat-template", str(template)]
    if settings.max_length is not None:
        command += ["--max-model-len", str(settings.max_length)]
    if server.rank is not None:
        command += ["--enable-lora", "--max-lora-rank", str(server.rank), "--max-loras", str(server.slots)]
        command += ["--max-cpu-loras", str(2 * server.slots)]
    if place.gpus:
        command += ["--tensor-parallel-size", str(len(place.gpus))]
        if "--gpu-memory-utilization" not in given:
            command += ["--gpu-memory-utilization", str(server.utilization)]
    elif not given & {"--enforce-eager", "--no-enforce-eager"}:
        command.append("--enforce-eager")  # compiling for a CPU takes longer than it saves
    return (*command, *options)


def environment(server: Server, place: Place, scratch: Path, *, key: str, visible: Sequence[str]) -> dict[str, str]:
    """The environment of one replica: offline, telling nobody, on its GPUs; what the user set for vLLM stands.

    Args:
        visible: names of all GPUs that this process sees, such as those of CUDA_VISIBLE_DEVICES.
    """
    own = server.settings.python is None or interpreter(server.settings.python) == sys.executable
    kept = {name: value for name, value in os.environ.items() if own or name not in {"PYTHONPATH", "PYTHONHOME"}}
    made = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(scratch),
        "VLLM_RPC_BASE_PATH": str(scratch),
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    if place.gpus:
        return kept | made | {"CUDA_VISIBLE_DEVICES": ",".join(visible[number] for number in place.gpus)}
    # Threads of two servers bound to the same cores would wait for each other.
    shared = {} if place.alone else {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    bare = {"TORCHDYNAMO_DISABLE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # less memory, ready in half the time
    return {"VLLM_CPU_KVCACHE_SPACE": str(place.cache_gib), **bare, **shared} | kept | made
