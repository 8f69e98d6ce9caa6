"""One vLLM server as a child process behind its guard: started, asked, and ended with all it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from llmops.processes import end_all_with
from llmops.serve.command import Launch

_LARGEST_LOG = 64 << 20
_ENDING_S = 20.0
"""Seconds in which guard and server are over after they were asked; the guard's own are fewer."""
# Its environment is the server's, whose interpreter may be another one: it finds llmops by itself.
_GUARD = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); from llmops.serve.guard import main; main()"
)
_QUICK = aiohttp.ClientTimeout(total=10)
_SLOW = aiohttp.ClientTimeout(total=300)
"""For what computes: the first answer compiles, an adapter is read from disk."""


class Refused(Exception):
    """The server's answer to a request is an error; its text says which."""


class ServerProcess:
    """A started server; it may be on its way, ready, or over."""

    def __init__(self, process: asyncio.subprocess.Process, lifeline: int, launch: Launch, log_start: int) -> None:
        self.url = f"http://127.0.0.1:{launch.port}"
        self.launch = launch
        self.log_start = log_start
        self.started = time.monotonic()
        self._process = process
        self._lifeline: int | None = lifeline
        self._client: aiohttp.ClientSession | None = None

    @classmethod
    async def start(cls, launch: Launch) -> ServerProcess:
        """Start it; it is not ready yet.

        Raises:
            OSError: the log cannot be written, or no process can be made.
        """
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        if launch.log.exists() and launch.log.stat().st_size > _LARGEST_LOG:
            os.replace(launch.log, launch.log.with_suffix(".old.log"))
        reading, writing = os.pipe()
        try:
            with launch.log.open("ab") as log:
                start = log.tell()
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-c", _GUARD, str(reading), str(launch.scratch)),
                    *launch.arguments,
                    env=launch.environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[reading],
                    # Ctrl-C on our terminal is for us: we end our servers in order.
                    start_new_session=True,
                )
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        return cls(process, writing, launch, start)

    @property
    def pid(self) -> int:
        """Of the guard, whose child the server is."""
        return self._process.pid

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        status = await self._process.wait()
        self._let_go()
        return status if status >= 0 else 128 - status

    @property
    def over(self) -> bool:
        return self._process.returncode is not None

    async def end(self) -> None:
        """End it and all it started; returns when nothing of it is left."""
        self._let_go()
        try:
            await asyncio.wait_for(asyncio.shield(self._process.wait()), _ENDING_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if (self._process.returncode or 0) < 0:  # the guard was killed, and could end nothing any more
            await asyncio.to_thread(end_all_with, "VLLM_RPC_BASE_PATH", str(self.launch.scratch))
            await asyncio.to_thread(shutil.rmtree, self.launch.scratch, ignore_errors=True)
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _let_go(self) -> None:
        """Close the pipe: the guard ends what it guards."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    async def healthy(self) -> bool:
        """Whether it says so."""
        try:
            async with self._session().get(f"{self.url}/health", timeout=_QUICK) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def generate(self, model: str, *, pooling: bool = False) -> None:
        """Have `model` write one token, or embed a word where it writes none.

        Raises:
            Refused: it did not.
        """
        asked: dict[str, Any] = {"model": model}
        if pooling:
            answer = await self._post("/v1/embeddings", {**asked, "input": "a"})
            if not answer.get("data"):
                raise Refused("its first answer holds no embedding")
            return
        answer = await self._post("/v1/completions", {**asked, "prompt": "a", "max_tokens": 1, "temperature": 0})
        if answer.get("usage", {}).get("completion_tokens") != 1:
            raise Refused("its first answer holds no token")

    async def load(self, name: str, folder: str) -> None:
        """Load an adapter under a name, which none may have.

        Raises:
            Refused: it did not.
        """
        await self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})

    async def unload(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            Refused: it did not.
        """
        await self._post("/v1/unload_lora_adapter", {"lora_name": name})

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            async with self._session().post(f"{self.url}{path}", json=body, timeout=_SLOW) as answer:
                text = await answer.text()
                content = await answer.json() if answer.content_type == "application/json" else {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Refused(f"{path} fails: {error or type(error).__name__}") from error
        if answer.status != 200:
            raise Refused(f"{path} answers {answer.status}: {_message(content) or text[:300]}")
        return content if isinstance(content, dict) else {}

    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            headers = {"Authorization": f"Bearer {self.launch.key}"}
            self._client = aiohttp.ClientSession(headers=headers, trust_env=False)
        return self._client


def free_port() -> int:
    """A port of this machine that nobody listens to now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _message(content: Any) -> str:
    """The message in an error's body, in either of vLLM's forms."""
    if not isinstance(content, dict):
        return ""
    inner = content.get("error", content)
    return str(inner.get("message", "")) if isinstance(inner, dict) else str(inner)
