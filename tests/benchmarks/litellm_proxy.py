"""LiteLLM's proxy in a virtual environment of its own, which is made once and kept in the cache."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = "1.106.*"


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
    """Its address, with one model `m` at `upstream`; one worker, as our gateway is one process."""
    file = folder / "litellm.yaml"
    file.write_text(
        "model_list:\n"
        f"  - {{model_name: m, litellm_params: {{model: openai/served, api_base: '{upstream}/v1', api_key: none}}}}\n"
        "litellm_settings: {telemetry: false, num_retries: 0}\n"
    )
    command = [str(python.parent / "litellm"), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    # Its table of prices comes with it; it need not ask the network for a newer one.
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    environment.pop("PYTHONPATH", None)
    log = folder / "litellm.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, cores)
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _until_ready(process, url, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health/liveliness", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"LiteLLM's proxy did not start:\n{log.read_text()[-3000:]}")
