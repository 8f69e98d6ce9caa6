"""A real vLLM server with a small random model, one for all tests of a worker."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmops.processes import end_with_parent
from tests.eval.vllm_models import small_llama

READY_S = 240
NAME = "small-llama"


@contextmanager
def vllm_server(folder: Path) -> Iterator[str]:
    """Its address without /v1; the model is called `NAME` there and takes 128 tokens."""
    with served_by_vllm(
        small_llama(folder), name=NAME, length=128, precision="float32", log=folder / "vllm.log"
    ) as url:
        yield url


@contextmanager
def served_by_vllm(
    model: Path, *, name: str, length: int, precision: str, log: Path, core: int | None = None
) -> Iterator[str]:
    """The address, without /v1, of a model that takes so many tokens and is called `name` there.

    Args:
        core: the one it runs on; by default all.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        **({} if core is None else {"VLLM_CPU_OMP_THREADS_BIND": str(core), "OMP_NUM_THREADS": "1"}),
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--dtype", precision, "--max-model-len", str(length)]
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    with log.open("wb") as out:

        def begin() -> None:
            end_with_parent()
            if core is not None:
                os.sched_setaffinity(0, {core})

        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, preexec_fn=begin)
        try:
            url = f"http://127.0.0.1:{port}"
            _until_ready(process, url, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"vLLM did not start:\n{log.read_text()[-3000:]}")
