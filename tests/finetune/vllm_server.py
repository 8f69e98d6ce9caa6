"""vLLM as it serves: one OpenAI-compatible server of a base and its adapters, reached through a socket file."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.real_vllm import ENVIRONMENT

READY_S = 450
"""Seconds a start may take: 20 to 30 where nothing else runs, several times that on a busy machine."""


def environment(temporary: str) -> dict[str, str]:
    """What vLLM's CPU build needs to start quickly and offline.

    It keeps what it learns of a model's class where every other start of it looks: in an empty cache of its own it
    would import itself once more for that. All else is in `temporary`, which has a short path: vLLM puts sockets there,
    and their paths have room for about 100 characters.
    """
    return {
        **os.environ,
        **ENVIRONMENT,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": temporary,
    }


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What was asked with, and what was answered greedily.

    Attributes:
        prompt: ids of the conversation as the server renders it.
        tokens: ids of the answer, the one that ended it included.
        logprobs: of these tokens, in nats.
        finished: `stop` where the model ended its turn.
    """

    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    text: str
    finished: str


class Server:
    """A started server; `wait` before the first request."""

    def __init__(self, base: Path, log: Path, temporary: str, options: Sequence[str]) -> None:
        self.base, self.log, self.address = base, log, f"{temporary}/socket"
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--uds", self.address, "--model", str(base)]
        command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "4"]
        # A request for all log-probabilities of a prompt; a cache of 64 blocks instead of the whole gigabyte.
        command += ["--max-logprobs", "-1", "--num-gpu-blocks-override", "64", *options]
        with log.open("wb") as output:
            # A process group of its own: the server and the engine it starts end together.
            self.process = subprocess.Popen(
                command,
                env=environment(temporary),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until it answers; an AssertionError with the end of its log where it does not."""
        end = time.monotonic() + READY_S
        while not self._healthy():
            assert self.process.poll() is None, f"vLLM ended while starting:\n{self.tail()}"
            assert time.monotonic() < end, f"vLLM was not ready after {READY_S} s:\n{self.tail()}"
            time.sleep(0.2)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-60:])

    def request(self, method: str, path: str, body: Any = None) -> Reply:
        connection = _Local(self.address)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"content-type": "application/json"})
            response = connection.getresponse()
            raw = response.read().decode()
        finally:
            connection.close()
        try:
            return Reply(response.status, json.loads(raw))
        except ValueError:
            return Reply(response.status, raw)

    def done(self, path: str, body: Any) -> Any:
        """The body of a request that must succeed."""
        reply = self.request("POST", path, body)
        assert reply.status == 200, f"{path}: {reply.status} {reply.body}\n{self.tail()}"
        return reply.body

    def load(self, name: str, adapter: Path) -> Reply:
        """Load an adapter under `name` while serving."""
        return self.request("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(adapter)})

    def chat(self, messages: Any, *, model: str | None = None, max_tokens: int = 24, **more: Any) -> Answer:
        """Ask `model`, an adapter's name; None asks the base."""
        asked = {"model": model or str(self.base), "messages": messages, "temperature": 0, "max_tokens": max_tokens}
        body = self.done("/v1/chat/completions", {**asked, "logprobs": True, "return_token_ids": True, **more})
        (choice,) = body["choices"]
        return Answer(
            prompt=body["prompt_token_ids"],
            tokens=choice["token_ids"],
            logprobs=[one["logprob"] for one in choice["logprobs"]["content"]],
            text=choice["message"]["content"],
            finished=choice["finish_reason"],
        )

    def distributions(self, ids: Sequence[int], *, model: str | None = None) -> Tensor:
        """`(len(ids) - 1, vocabulary)` log-probabilities of every token after every beginning of `ids`."""
        asked = {"model": model or str(self.base), "prompt": list(ids), "max_tokens": 1, "prompt_logprobs": -1}
        (choice,) = self.done("/v1/completions", asked)["choices"]
        rows = [{int(token): one["logprob"] for token, one in row.items()} for row in choice["prompt_logprobs"][1:]]
        return torch.tensor([[row[token] for token in range(len(row))] for row in rows])

    def end(self) -> None:
        """End the server and its engine, politely first."""
        for how, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
            try:
                os.killpg(self.process.pid, how)
            except ProcessLookupError:
                break
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()

    def _healthy(self) -> bool:
        try:
            return self.request("GET", "/health").status == 200
        except OSError:
            return False


@contextmanager
def server(base: Path, folder: Path, *options: str) -> Iterator[Server]:
    """A server that is starting; its log lies in `folder`. Ended on the way out."""
    with tempfile.TemporaryDirectory(prefix="vllm-") as temporary:
        one = Server(base, folder / "server.log", temporary, options)
        try:
            yield one
        finally:
            one.end()


class _Local(http.client.HTTPConnection):
    """HTTP over a socket file: no port that another test could take in between."""

    def __init__(self, address: str) -> None:
        super().__init__("localhost", timeout=120)
        self.address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.address)
