"""A real vLLM server with a small random model, one for all tests of a worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.eval.lively_models import small_llama
from tests.local_server import free_port, local_server
from tests.real_vllm import ENVIRONMENT

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
    port = free_port()
    environment = {
        **os.environ,
        **ENVIRONMENT,
        **({} if core is None else {"VLLM_CPU_OMP_THREADS_BIND": str(core), "OMP_NUM_THREADS": "1"}),
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--dtype", precision, "--max-model-len", str(length)]
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    url, cores = f"http://127.0.0.1:{port}", () if core is None else (core,)
    with local_server(command, ready=f"{url}/health", log=log, environment=environment, cores=cores, seconds=READY_S):
        yield url
