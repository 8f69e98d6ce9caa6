"""A client that leaves frees the engine within a second, whenever it leaves; a stop lets everybody finish."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest

from tests.patience import HANG_S, once_in_three, wait_until
from tests.serve import fake_engine as fake
from tests.serve.clients import ASK, data, entries, error, post
from tests.serve.fake_engine import STREAM, Behaviour, Go, chunk, event, holding, saying, speaking
from tests.serve.gateways import running, settings

HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
FIRST = chunk(event(fake.chunks_of({"model": "served-small"}, ["a"])[0]))


def connected(url: str, sent: bytes) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    client = socket.create_connection((host, int(port)), timeout=HANG_S)
    client.sendall(sent)
    return client


def asking(*, streamed: bool) -> bytes:
    body = json.dumps({**ASK, "stream": streamed}).encode()
    return HEAD.format(len(body)).encode() + body


@pytest.mark.parametrize("goodbye", ["close", "reset"])
@pytest.mark.parametrize(
    ("behave", "streamed", "seen"),
    [
        pytest.param(saying(STREAM, FIRST, then="hang"), True, b"data: ", id="in mid-stream"),
        pytest.param(saying(STREAM, then="hang"), True, b"", id="before the first token"),
        pytest.param(saying(then="hang"), True, b"", id="before the engine says anything"),
        pytest.param(saying(then="hang"), False, b"", id="without a stream"),
    ],
)
@once_in_three
def test_a_client_that_leaves_frees_the_engine_within_a_second(
    behave: Behaviour, streamed: bool, seen: bytes, goodbye: str
) -> None:
    with running({"small": [behave]}) as gateway:
        engine = gateway.engines["small"][0]
        client = connected(gateway.url, asking(streamed=streamed))
        wait_until(lambda: engine.under_way == 1)
        got = b""
        while seen not in got:
            got += client.recv(4096)
        if goodbye == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client.close()
        left = time.monotonic()
        wait_until(lambda: engine.under_way == 0, "the engine still works for nobody")
        assert time.monotonic() - left < 1.0
        assert engine.left == 1
        (entry,) = entries(gateway)
        assert (entry.status, entry.error) == (499, "client_left")
        (target,) = gateway.targets.of("small")
        assert (target.replica.in_flight, target.use.in_flight) == (0, 0)


def test_one_that_leaves_the_line_makes_room() -> None:
    with running({"small": [saying(then="hang")]}, settings(limits={"in_flight": 1})) as gateway:
        first, second = connected(gateway.url, asking(streamed=False)), connected(gateway.url, asking(streamed=False))
        wait_until(lambda: gateway.app.core.dispatch.waiting() == {"small": 1})
        second.close()
        wait_until(lambda: gateway.app.core.dispatch.waiting() == {})
        first.close()
        wait_until(lambda: gateway.engines["small"][0].under_way == 0)
        assert len(gateway.engines["small"][0].asked) == 1


def test_one_that_leaves_before_its_body_has_come_asks_nothing() -> None:
    with running({"small": [speaking()]}) as gateway:
        connected(gateway.url, asking(streamed=False)[:-5]).close()
        (entry,) = entries(gateway)
        assert (entry.status, entry.route) == (499, None)
        assert not gateway.engines["small"][0].asked


def test_many_that_come_and_leave_take_nothing_with_them() -> None:
    with running({"small": [speaking(["a"] * 50, wait_s=0.01)]}) as gateway:
        for number in range(40):
            client = connected(gateway.url, asking(streamed=bool(number % 2)))
            time.sleep(0.002 * (number % 7))
            client.close()
        entries(gateway, 40)
        wait_until(lambda: gateway.engines["small"][0].under_way == 0)
        assert gateway.targets.of("small")[0].replica.in_flight == 0
        assert post(gateway.url)[0] == 200


def read_all(client: socket.socket) -> bytes:
    parts = []
    while part := client.recv(65536):
        parts.append(part)
        if part.endswith(b"0\r\n\r\n"):
            break
    return b"".join(parts)


def words(raw: bytes) -> bytes:
    """A chunked body without its framing."""
    _, _, rest = raw.partition(b"\r\n\r\n")
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


def test_a_drain_with_200_open_streams_cuts_none_and_lets_nobody_in() -> None:
    said = [f"w{number} " for number in range(8)]
    first, *others = (chunk(event(one)) for one in fake.chunks_of({"model": "served-small"}, said))
    go = Go()
    rest = saying(*others, chunk(event(b"[DONE]")) + fake.LAST, wait_s=0.02)
    with running({"small": [holding(go, begun=STREAM + first, then=rest)]}) as gateway:
        clients = [connected(gateway.url, asking(streamed=True)) for _ in range(200)]
        wait_until(lambda: gateway.engines["small"][0].under_way == 200)
        drained = asyncio.run_coroutine_threadsafe(gateway.app.drain(), gateway.loop)
        wait_until(lambda: gateway.app.core.running.draining)
        status, headers, raw = post(gateway.url)
        assert (status, error(raw)["code"], headers["retry-after"]) == (503, "stopping", "1")
        assert not drained.done()
        go.set()
        for client in clients:
            values = data(words(read_all(client)))
            assert values[-1] == b"[DONE]"
            assert "".join(one["choices"][0]["delta"].get("content", "") for one in values[:-1]) == "".join(said)
            client.close()
        assert drained.result(HANG_S) == 0


def test_a_drain_has_its_time_and_then_says_why_it_ends() -> None:
    with running({"small": [saying(STREAM, FIRST, then="hang")]}, settings(limits={"drain_s": 0.2})) as gateway:
        client = connected(gateway.url, asking(streamed=True))
        assert client.recv(1), "it has begun"
        assert gateway.on_loop(gateway.app.drain()) == 1
        *_, last = data(words(read_all(client)))
        assert last["error"]["code"] == "stopping"
        client.close()


def test_a_drain_that_is_given_up_still_tells_everybody() -> None:
    with running({"small": [saying(STREAM, FIRST, then="hang")]}) as gateway:
        client = connected(gateway.url, asking(streamed=True))
        assert client.recv(1), "it has begun"

        async def impatient() -> None:
            draining = asyncio.create_task(gateway.app.drain())
            await asyncio.sleep(0.05)
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
            assert gateway.server is not None
            gateway.server.should_exit = True

        gateway.on_loop(impatient())
        *_, last = data(words(read_all(client)))
        assert last["error"]["code"] == "stopping"
        client.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"GET /health HTTP/1.1\r\nx: " + b"y" * 40_000, 431, id="headers without an end"),
        pytest.param(b"GET /hea", 408, id="headers that do not come"),
        pytest.param(HEAD.format(100).encode() + b"{", 408, id="a body that does not come"),
        pytest.param(b"\x16\x03\x01 no http\r\n\r\n", 400, id="no HTTP"),
    ],
)
def test_slow_and_endless_clients_are_sent_away(sent: bytes, status: int) -> None:
    patience = {"body_s": 0.3} if status == 408 else {}
    with running({"small": [speaking()]}, settings(limits=patience)) as gateway:
        client = connected(gateway.url, sent)
        raw = client.recv(65536)
        assert raw.startswith(f"HTTP/1.1 {status} ".encode())
        while (more := client.recv(65536)) != b"":
            raw += more
        error(raw.partition(b"\r\n\r\n")[2])
        client.close()


def test_after_a_reload_the_new_limits_hold_while_headers_come() -> None:
    with running({"small": [speaking()]}) as gateway:
        smaller = settings(limits={"headers_kb": 1})
        gateway.loop.call_soon_threadsafe(gateway.app.reload, smaller)
        client = connected(gateway.url, b"GET /health HTTP/1.1\r\nx: " + b"y" * 2_000)
        assert client.recv(65536).startswith(b"HTTP/1.1 431 ")
        client.close()


def test_a_client_that_does_not_read_does_not_fill_the_memory() -> None:
    produced = [0]
    part = chunk(event({"model": "x", "choices": [{"index": 0, "delta": {"content": "x" * 60_000}}]}))

    async def endless(request: fake.Request, out: asyncio.StreamWriter) -> None:
        out.write(STREAM)
        while True:
            out.write(part)
            await out.drain()
            produced[0] += len(part)

    with running({"small": [endless]}) as gateway:
        client = connected(gateway.url, asking(streamed=True))
        wait_until(lambda: produced[0])
        last = -1
        while produced[0] != last:
            last = produced[0]
            time.sleep(0.3)
        # What the sockets' buffers on the way hold, and a little of ours.
        assert 0 < last < 40e6
        client.close()
        wait_until(lambda: gateway.engines["small"][0].under_way == 0)


def test_two_requests_on_one_connection_are_answered_in_order() -> None:
    with running({"small": [speaking()]}) as gateway:
        client = connected(gateway.url, asking(streamed=True) + b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        got = b""
        while b"alive" not in got:
            got += client.recv(65536)
        assert got.index(b"[DONE]") < got.index(b"alive")
        client.close()
