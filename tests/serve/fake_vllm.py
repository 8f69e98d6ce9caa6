"""Stands in for an interpreter with vLLM: says what it can be told, and serves what a server of it does.

Run through the `python:` of an engine. A folder named by FAKE_VLLM steers it, and learns what it did:

- `crash`: at its start it writes this text and ends with status 1; `deaf`: it never answers;
- `refuse-NAME`: the adapter in a folder of this name is not loaded;
- `streaming`: its streams do not end; `slow`: seconds until it listens;
- `starts`: a line for each start, with its arguments as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STEER = Path(os.environ.get("FAKE_VLLM", "/nonexistent"))
CHUNKS = 10


def option(flag: str, **more: Any) -> dict[str, Any]:
    plain = {"flag": flag, "negated": None, "switch": False, "many": False, "optional": False}
    return {**plain, "kind": "str", "choices": None, **more}


ARGUMENTS = {
    "gpu_memory_utilization": option("--gpu-memory-utilization", kind="float"),
    "max_num_seqs": option("--max-num-seqs", kind="int"),
    "dtype": option("--dtype", choices=["auto", "bfloat16", "float32"]),
    "enforce_eager": option("--enforce-eager", negated="--no-enforce-eager", switch=True),
    "allowed_origins": option("--allowed-origins", many=True),
    "max_model_len": option("--max-model-len", kind="other"),
}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    models: set[str]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        if self.path == "/health":
            if (STEER / "deaf").exists():
                time.sleep(30)
            self._answer(200, {})
        elif self.path == "/v1/models":
            self._answer(200, {"data": [{"id": one} for one in sorted(self.server.models)]})
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            return self._answer(401, {"error": {"message": "who are you?"}})
        match self.path:
            case "/v1/load_lora_adapter":
                folder = Path(asked["lora_path"])
                if (STEER / f"refuse-{folder.name}").exists() or not folder.is_dir():
                    return self._answer(400, {"error": {"message": f"cannot load {folder.name}"}})
                self.server.models.add(asked["lora_name"])
                return self._answer(200, "loaded")
            case "/v1/unload_lora_adapter":
                self.server.models.discard(asked["lora_name"])
                return self._answer(200, "gone")
            case "/v1/completions":
                if asked["model"] not in self.server.models:
                    return self._answer(404, {"error": {"message": f"no model {asked['model']}"}})
                return self._stream(asked) if asked.get("stream") else self._completion(asked)
            case "/die":
                os._exit(7)
        return self._answer(404, {})

    def _completion(self, asked: dict[str, Any]) -> None:
        self._answer(200, {"choices": [{"text": asked["model"]}], "usage": {"completion_tokens": 1}})

    def _stream(self, asked: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        left = CHUNKS
        while left:
            # A model that is taken away in mid-stream shows in what it writes.
            text = asked["model"] if asked["model"] in self.server.models else "GONE"
            self.wfile.write(f"data: {text}\n\n".encode())
            self.wfile.flush()
            time.sleep(0.05)
            left -= not (STEER / "streaming").exists()
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _answer(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def value(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


def main() -> None:
    arguments = sys.argv[1:]
    if "-c" in arguments:
        script = value(arguments, "-c")
        print("vllm 1.0" if "make_arg_parser" not in script else "\n" + json.dumps(ARGUMENTS))
        return
    with (STEER / "starts").open("a") as starts:
        starts.write(json.dumps({"arguments": arguments, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}) + "\n")
    if (STEER / "crash").exists():
        print((STEER / "crash").read_text(), flush=True)
        sys.exit(1)
    # As vLLM's engine core: a process of its own, which nobody but us would end, in a session of its own.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    with (STEER / "children").open("a") as children:
        children.write(f"{os.getpid()} {child.pid}\n")
    print("INFO 11-21 09:00:00 [x.py:1] Loading weights took 0.25 seconds", flush=True)
    if (STEER / "slow").exists():
        time.sleep(float((STEER / "slow").read_text()))
    server = Server(("127.0.0.1", int(value(arguments, "--port"))), Handler)
    server.models = {value(arguments, "--served-model-name")}
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()


if __name__ == "__main__":
    main()
