"""No body, however odd, makes the gateway fail: what is wrong is refused, what is passed on is what was sent."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import orjson

from llmops.serve.intake import ENDPOINTS
from llmops.serve.targets import Target, Targets
from tests.serve import fake_engine as fake
from tests.serve.fake_engine import event
from tests.serve.gateways import Notebook, app_of, call, settings, target

BODIES = 10_000
ROUTES = {
    "m": {"policy": "direct", "engine": "small", "cache": {"entries": 10}, "capture": {"share": 0.5}},
    "c": {"policy": "cascade", "small": "small", "large": "large", "shadow": {"to": "large", "share": 1}},
}
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**63,
    2**70,
    1e308,
    -0.0,
    "",
    "m",
    "c",
    "\u0000",
    "ä€😀",
    [],
    {},
    [[]],
    {"": {}},
    "x" * 5000,
]
FIELDS = [
    "model", "messages", "prompt", "input", "stream", "stream_options", "n", "temperature", "max_tokens", "logprobs",
    "tools", "stop", "seed", "user", "response_format", "include_usage", "role", "content",
]  # fmt: skip


class Near:
    """An engine within the test: it reads what it gets, and answers."""

    def __init__(self) -> None:
        self.asked = 0

    async def ask(self, target: Target, endpoint: str, raw: bytes, headers: Mapping[str, str], request: str) -> Any:
        self.asked += 1
        body = json.loads(raw)
        assert body["model"] == target.model
        if body.get("stream") is True and endpoint != "/v1/embeddings":
            assert (
                endpoint not in {"/v1/chat/completions", "/v1/completions"} or body["stream_options"]["include_usage"]
            )
            kind = "text/event-stream"
            said = b"".join(
                map(event, fake.chunks_of({"model": target.model, "stream_options": {"include_usage": True}}, ["a"]))
            )
            said += event(b"[DONE]")
        else:
            kind, said = "application/json", orjson.dumps(fake.answer({"model": target.model}, "a"))
        return Said(kind, said)

    async def close(self) -> None:
        pass


class Said:
    status = 200
    headers: Mapping[str, str] = {}

    def __init__(self, kind: str, said: bytes) -> None:
        self.content_type = kind
        self.content = self
        self._parts = [b"", said]

    async def readany(self) -> bytes:
        return self._parts.pop()

    def close(self) -> None:
        pass


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.random()
    if kind < 0.6 or depth > 4:
        return chance.choice(ODD)
    if kind < 0.8:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(FIELDS): value(chance, depth + 1) for _ in range(chance.randrange(5))}


def body(chance: random.Random) -> bytes:
    """Nearly right more often than not: only then is there anything to be got wrong."""
    said: Any = {
        "model": chance.choice(["m", "m", "m", "c", "other"]),
        "messages": [{"role": "user", "content": "hi"}],
        "prompt": "a",
        "input": "b",
        "stream": chance.random() < 0.4,
    }
    for _ in range(chance.randrange(4)):
        said[chance.choice(FIELDS)] = value(chance)
    if chance.random() < 0.05:
        said = value(chance)
    raw = json.dumps(said, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, None, 1])).encode()
    if chance.random() < 0.1:
        place = chance.randrange(len(raw) + 1)
        raw = (
            raw[:place]
            + chance.choice([b"", b"\xff", b"\\", b'"', b"}", b"[" * 2000, b"\x00", b"NaN", b'"model":"x",'])
            + raw[place + chance.randrange(3) :]
        )
    return raw


def test_ten_thousand_random_bodies_give_no_500() -> None:
    chance = random.Random(20261121)
    targets, notes = Targets(), Notebook()
    for name in ("small", "large"):
        targets.set(name, [target(name, "http://127.0.0.1:1")])
    app = app_of(settings(ROUTES, limits={"body_mb": 1}), targets, notes)
    near = Near()
    app.core.upstream = near  # type: ignore[assignment]
    paths = sorted(ENDPOINTS)

    async def run() -> Counter[int]:
        counted: Counter[int] = Counter()
        for number in range(BODIES):
            raw = body(chance)
            called = await call(app, paths[number % len(paths)], raw)
            assert called.status in (200, 400, 404, 413, 429), (called.status, called.body, raw)
            if called.status != 200:
                said = json.loads(called.body)["error"]
                assert set(said) == {"message", "type", "param", "code"}
                assert said["code"] != "internal_error", raw
            elif called.headers["content-type"].startswith("text/event-stream"):
                assert b'"error"' not in called.body, raw
            counted[called.status] += 1
        await app.core.close()
        return counted

    counted = asyncio.run(run())
    # Both sorts are there in thousands, and all was written down: the requests, and the copies of those to `c`.
    assert min(counted[200], counted[400], counted[404]) > 1000, counted
    assert len([one for one in notes.entries if not one.shadow_of]) == BODIES
    assert near.asked > 2000
