"""LiteLLM's proxy in a virtual environment of its own, which is made once and kept in the cache."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.local_server import local_server

VERSION = "1.106.*"
KEY = f"sk-{secrets.token_hex(32)}"


def installed() -> Path | None:
    """Its interpreter; None where it cannot be installed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llmops-benchmarks" / "litellm-1.106"
    python = cache / "bin" / "python"
    if (cache / "complete").is_file():
        return python
    steps = (
        [sys.executable, "-m", "venv", "--clear", cache],
        [python, "-m", "pip", "install", "-q", f"litellm[proxy]=={VERSION}"],
    )
    for step in steps:
        if subprocess.run([str(part) for part in step], capture_output=True, check=False).returncode:
            return None
    (cache / "complete").touch()
    return python


@contextmanager
def proxy(python: Path, folder: Path, upstream: str, port: int, cores: set[int]) -> Iterator[str]:
    """Its address, with one model `m` at `upstream`; one worker, as our gateway is one process.

    It does not start without a key; `KEY` is the only one, and is kept in no database.
    """
    file = folder / "litellm.yaml"
    file.write_text(
        "model_list:\n"
        f"  - {{model_name: m, litellm_params: {{model: openai/served, api_base: '{upstream}/v1', api_key: none}}}}\n"
        "litellm_settings: {telemetry: false, num_retries: 0}\n"
    )
    command = [str(python.parent / "litellm"), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    # Its table of prices comes with it; it need not ask the network for a newer one.
    environment = {
        **os.environ,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": KEY,
    }
    environment.pop("PYTHONPATH", None)
    url = f"http://127.0.0.1:{port}"
    log = folder / "litellm.log"
    with local_server(command, ready=f"{url}/health/liveliness", log=log, environment=environment, cores=cores):
        yield url
