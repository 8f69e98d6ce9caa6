"""The gateway as it is run: keys, routing, ledger, feedback and metrics behind one address, exchanged while it runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmops.workspace import Workspace
from tests.eval.chat_server import Reply, serving
from tests.patience import HANG_S, once_in_three, wait_until

FILE = """\
listen: 127.0.0.1:0
engines:
  small: {{url: {url}, model: m, usd_per_gpu_hour: 3.6}}
  large: {{url: {url}, model: m}}
routes:
  auto: {{policy: size, small: small, large: large}}
  plain: {{policy: direct, engine: small, capture: {{share: 1.0}}}}
keys: {{file: {folder}/keys.json}}
"""


def counted(number: int, body: dict[str, Any]) -> Reply:
    """An answer of three tokens to a prompt of seven."""
    message = {"role": "assistant", "content": f"call ann@example.com, {body['model']}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return 200, {"content-type": "application/json"}, json.dumps(answer).encode()


@dataclass
class Answer:
    status: int
    headers: Any
    body: Any


class Gateway:
    """`llmops serve` in a process of its own."""

    def __init__(self, file: Path, home: Path) -> None:
        self.file = file
        self.environment = {**os.environ, "LLMOPS_HOME": str(home)}
        self.process = subprocess.Popen(
            self._command("serve", str(file)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        )
        assert self.process.stdout is not None
        self.said = []
        for line in self.process.stdout:
            self.said.append(line)
            if "not ready" in line:
                self.process.kill()
            if found := re.search(r"^ready: .* on (http://\S+)$", line):
                self.url = found[1]
                return
        self.process.wait(HANG_S)
        raise AssertionError("".join(self.said))

    @staticmethod
    def _command(*arguments: str) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", "llmops.cli.main", *arguments]

    def llmops(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(*arguments), capture_output=True, text=True, check=False, env=self.environment
        )

    def told(self, *arguments: str) -> Any:
        done = self.llmops(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def key(self, name: str, *options: str) -> str:
        secret: str = self.told("serve", "key", "create", name, *options, "--gateway", str(self.file))["secret"]
        return secret

    def asked(self, path: str, body: Any = None, *, key: str | None = None, **headers: str) -> Answer:
        if key:
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=HANG_S) as answer:
                return Answer(answer.status, answer.headers, _read(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, _read(error.read()))

    def chat(self, text: str, *, model: str = "auto", key: str | None = None, **headers: str) -> Answer:
        messages = [{"role": "user", "content": text}]
        return self.asked("/chat/completions", {"model": model, "messages": messages}, key=key, **headers)

    def metrics(self) -> str:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/metrics", timeout=HANG_S) as answer:
            text: str = answer.read().decode()
        return text

    def rows(self, **wanted: int) -> dict[str, Any]:
        """The ledger by route, once it has so many requests of each."""
        found: dict[str, Any] = {}

        def there() -> bool:
            found.update({row["route"]: row for row in self.told("serve", "ledger", "--by", "route")})
            return all(found.get(route, {"requests": 0})["requests"] == number for route, number in wanted.items())

        wait_until(there, "the requests are not in the ledger")
        return found

    def takes(self, key: str) -> None:
        """Returns when the file of keys was read again, which a running gateway does within a second."""
        wait_until(lambda: self.asked("/models", key=key).status == 200, "the key is not taken")


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    home = Workspace(tmp_path / "home").home
    file = tmp_path / "gateway.yaml"
    with serving(counted) as engine:
        file.write_text(FILE.format(url=engine.url, folder=tmp_path))
        (tmp_path / "keys.json").write_text('{"keys": []}')
        running = Gateway(file, home)
        try:
            yield running
        finally:
            running.process.kill()
            running.process.communicate()


def test_who_has_a_key_is_answered_routed_billed_and_may_say_what_it_was_worth(gateway: Gateway) -> None:
    ann, bob = gateway.key("ann", "--routes", "auto,plain", "--tag", "team=x"), gateway.key("bob", "--routes", "auto")
    gateway.takes(bob)
    assert gateway.chat("Hello", key=bob).status == 200

    hello = gateway.chat("Hello", key=ann)
    assert (hello.status, hello.headers["x-llmops-engine"]) == (200, "small")
    assert hello.headers["x-llmops-route"].startswith("routine")
    assert hello.body["model"] == "auto", "clients see the name they asked for"
    hard = gateway.chat("Prove that $\\sum_i i = n(n+1)/2$ and solve 3x^2 + 5x - 7 = 0", key=ann)
    assert hard.headers["x-llmops-engine"] == "large"
    assert gateway.chat("Hello", key=bob, **{"x-llmops-size": "large"}).headers["x-llmops-engine"] == "large"

    assert gateway.chat("Hello").status == 401
    assert gateway.chat("Hello", key=ann + "x").status == 401
    assert gateway.chat("Hello", model="plain", key=bob).status == 403
    unknown = gateway.chat("Hello", model="plane", key=ann)
    assert (unknown.status, unknown.body["error"]["code"]) == (404, "model_not_found")

    request = hello.headers["x-request-id"]
    assert gateway.asked("/feedback", {"request_id": request, "thumbs": "up"}, key=ann).status == 202
    assert gateway.asked("/feedback", {"request_id": request, "thumbs": "up"}, key=bob).status in {403, 404}
    assert gateway.asked("/feedback", {"request_id": "req_none", "thumbs": "up"}, key=ann).status == 404

    billed = gateway.rows(auto=4)["auto"]
    assert (billed["prompt_tokens"], billed["completion_tokens"]) == (4 * 7, 4 * 3)
    assert billed["usd"] > 0
    by_key = {row["key"]: row["requests"] for row in gateway.told("serve", "ledger", "--by", "key")}
    assert sorted(number for key, number in by_key.items() if key) == [3, 3], (
        "those that were refused a route or asked for none, too"
    )

    metrics = gateway.metrics()
    assert re.search(r'llmops_requests_total\{[^}]*reason="routine"[^}]*\} [12]\.0', metrics)
    assert not any(secret in metrics for secret in (ann, bob))


def test_what_is_kept_holds_no_personal_data(gateway: Gateway, tmp_path: Path) -> None:
    ann = gateway.key("ann")
    gateway.takes(ann)
    assert gateway.chat("write to bob@example.org", model="plain", key=ann).status == 200
    gateway.rows(plain=1)
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(HANG_S) == 0
    kept = b"".join(file.read_bytes() for file in (tmp_path / "home").rglob("*.db*"))
    assert b"call " in kept
    assert b"@example" not in kept


def test_a_file_read_again_is_taken_whole_or_not_at_all(gateway: Gateway) -> None:
    good = gateway.file.read_text()
    key = gateway.key("ann")
    gateway.file.write_text(good.replace("policy: direct, engine: small", "policy: direct, engine: smal"))
    refused = gateway.llmops("serve", "reload")
    assert refused.returncode == 2
    assert "there is no engine 'smal'" in refused.stderr
    assert "smal" in gateway.told("serve", "status")["refused"]
    gateway.takes(key)
    assert gateway.chat("Hello", model="plain", key=key).status == 200

    gateway.file.write_text(good.replace("  plain: ", "  renamed: "))
    assert gateway.llmops("serve", "reload").returncode == 0
    assert gateway.chat("Hello", model="plain", key=key).status == 404
    assert gateway.chat("Hello", model="renamed", key=key).status == 200
    assert gateway.told("serve", "status")["refused"] == ""


def test_killed_it_has_lost_no_more_than_the_last_second(gateway: Gateway) -> None:
    key = gateway.key("ann")
    gateway.takes(key)
    asked = 0

    @once_in_three
    def ask() -> None:
        nonlocal asked
        for _ in range(20):
            assert gateway.chat("Hello", key=key).status == 200
            asked += 1
        answered = time.monotonic()
        # A request ends a little after its answer.
        answers = re.compile(rf'^llmops_requests_total\{{.*status="200".*\}} {asked}\.0$', re.MULTILINE)
        wait_until(lambda: answers.search(gateway.metrics()))
        wait_until(lambda: "\nllmops_ledger_behind_rows 0.0\n" in gateway.metrics())
        assert time.monotonic() - answered < 1

    ask()
    gateway.process.kill()
    gateway.process.wait(HANG_S)
    by_key = {row["key"]: row["requests"] for row in gateway.told("serve", "ledger", "--by", "key")}
    assert max(number for name, number in by_key.items() if name) == asked
