"""An address that somebody else wrote leads to the public internet or nowhere, however it is disguised."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from llmops import public_web
from llmops.errors import EnvironmentFault, InputError
from llmops.public_web import Answer, download, fetch, is_public, system_resolve

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[tuple[int, list[str]]]:
    """A real server on loopback; its port, and the paths it was asked for."""
    asked: list[str] = []

    async def noted(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", noted)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    try:
        yield runner.addresses[0][1], asked
    finally:
        await runner.cleanup()


async def hello(_: web.Request) -> web.StreamResponse:
    return web.Response(text="hello")


def asking(url: str, handler: Handler = hello, **how: object) -> tuple[Answer | Exception, list[str]]:
    """Ask `url`, whose PORT is a server of this machine; the answer or the error, and what the server was asked."""

    async def both() -> tuple[Answer | Exception, list[str]]:
        async with serving(handler) as (port, asked):
            try:
                known = {"longest_bytes": 1000, "seconds": 60.0, **how}
                return await fetch(url.replace("PORT", str(port)), **known), asked  # type: ignore[arg-type]
            except (InputError, EnvironmentFault) as error:
                return error, asked

    return asyncio.run(both())


def names(**addresses: Sequence[str]) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """A resolver that knows these names; a name with several answers gives the next one each time."""
    left = {name: list(found) for name, found in addresses.items()}

    async def resolve(host: str, port: int) -> Sequence[str]:
        found = left[host.replace(".", "_").replace("-", "_")]
        return [found.pop(0) if len(found) > 1 else found[0]]

    return resolve


# Addresses. Public ones: DNS servers that everybody knows; the others by their RFCs.


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "2001:4860:4860::8888"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "::"),  # this machine
        *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12:3456::1"),  # this network
        *("169.254.169.254", "fe80::1", "fe80::1%eth0", "fec0::1"),  # this link; clouds tell secrets there
        *("100.64.0.1", "198.18.0.1", "192.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"),
        *("224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "ff02::1"),  # nobody's own
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "::7f00:1"),  # IPv4 in IPv6
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1"),  # NAT64
        *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.88.99.1"),  # tunnels
    ],
)
def test_all_others_are_not(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_no_more_public_for_being_written_in_ipv6(address: object) -> None:
    if not is_public(str(address)):
        assert not is_public(f"::ffff:{address}")
    assert not is_public(f"64:ff9b::{address}")


# What is refused before anything is connected to.


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "localhost", "0.0.0.0", "[::]"),
        *("2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "127.0.1"),  # odd notations
        *("127.0.0.1.", "%6c%6fcalhost", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "127。0。0。1", "①②⑦.0.0.1", "169。254。169。254"),
    ],
)
def test_this_machine_is_not_asked_however_it_is_written(host: str) -> None:
    """With the system's own resolver, against a server that would answer."""
    said, asked = asking(f"http://{host}:PORT/")
    assert isinstance(said, InputError | EnvironmentFault)
    assert asked == []


def test_the_server_would_have_answered() -> None:
    said, asked = asking("http://127.0.0.1:PORT/there", private=True)
    assert isinstance(said, Answer)
    assert (said.status, said.body, asked) == (200, b"hello", ["/there"])


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1"])
def test_the_systems_resolver_reads_odd_notations_as_this_machine(host: str) -> None:
    """Why its answers are checked and not the letters of the address."""
    assert asyncio.run(system_resolve(host, 80)) == ["127.0.0.1"]


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://example.org/", "gopher://example.org/", "data:,x", "//example.org/", "x", ""),
        *("http://", "http:///x", "http://user:word@example.org/", "http://[::1", "http://example.org:0/"),
        *("http://example.org:99999/", "http://169.254.169.254/latest/meta-data/"),
    ],
)
def test_what_is_no_public_http_address_is_refused(url: str) -> None:
    said, _ = asking(url, resolve=names(example_org=["127.0.0.1"]))
    assert isinstance(said, InputError)
    assert "word" not in str(said)


def test_a_name_that_resolves_to_this_network_is_refused() -> None:
    said, asked = asking("http://inside.example:PORT/", resolve=names(inside_example=["10.0.0.7"]))
    assert isinstance(said, InputError)
    assert "inside.example is not on the public internet" in str(said)
    assert asked == []


def test_a_name_with_one_address_inside_and_one_outside_is_refused() -> None:
    async def both(host: str, port: int) -> Sequence[str]:
        return ["1.1.1.1", "127.0.0.1"]

    said, asked = asking("http://both.example:PORT/", resolve=both)
    assert isinstance(said, InputError)
    assert asked == []


# What is checked is what is connected to.


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only public address within reach of a test is 127.0.0.1; 127.0.0.2 stands for this network."""
    monkeypatch.setattr(public_web, "is_public", lambda address: address == "127.0.0.1")


@pytest.mark.usefixtures("loopback_is_public")
def test_a_name_is_resolved_once_for_the_check_and_the_connection() -> None:
    """DNS rebinding: a name that answers outside first and inside the second time."""
    times = 0

    async def rebinding(host: str, port: int) -> Sequence[str]:
        nonlocal times
        times += 1
        return ["127.0.0.1"] if times == 1 else ["127.0.0.2"]

    said, asked = asking("http://rebinding.example:PORT/a", resolve=rebinding)
    assert isinstance(said, Answer)
    assert (times, asked) == (1, ["/a"])


@pytest.mark.usefixtures("loopback_is_public")
def test_a_redirect_is_followed_to_public_addresses() -> None:
    async def moved(request: web.Request) -> web.StreamResponse:
        return await hello(request) if request.path == "/b" else web.Response(status=302, headers={"location": "/b"})

    said, asked = asking("http://out.example:PORT/a", moved, resolve=names(out_example=["127.0.0.1"]))
    assert isinstance(said, Answer)
    assert (said.body, asked) == (b"hello", ["/a", "/b"])
    assert said.url.endswith("/b")


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "to", ["http://127.0.0.2:PORT/b", "http://in.example:PORT/b", "//127.0.0.2:PORT/b", "file:///etc/passwd"]
)
def test_a_redirect_inside_is_not_followed(status: int, to: str) -> None:
    async def moved(request: web.Request) -> web.StreamResponse:
        port = str(request.url.port)
        return web.Response(status=status, headers={"location": to.replace("PORT", port)})

    where = names(out_example=["127.0.0.1"], in_example=["127.0.0.2"])
    said, asked = asking("http://out.example:PORT/a", moved, resolve=where)
    assert isinstance(said, InputError)
    assert asked == ["/a"]


@pytest.mark.usefixtures("loopback_is_public")
def test_redirects_end() -> None:
    async def round_and_round(_: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"location": "/again"})

    said, asked = asking("http://127.0.0.1:PORT/", round_and_round)
    assert isinstance(said, InputError)
    assert len(asked) == 6


@pytest.mark.usefixtures("loopback_is_public")
def test_what_is_sent_is_not_sent_on() -> None:
    async def moved(request: web.Request) -> web.StreamResponse:
        assert (await request.post())["secret"] == "s"
        return web.Response(status=307, headers={"location": "/elsewhere"})

    said, asked = asking("http://127.0.0.1:PORT/a", moved, method="POST", form={"secret": "s"})
    assert isinstance(said, Answer)
    assert (said.status, asked) == (307, ["/a"])


@pytest.mark.usefixtures("loopback_is_public")
def test_headers_are_not_sent_on() -> None:
    seen = []

    async def moved(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("authorization"))
        return await hello(request) if request.path == "/b" else web.Response(status=302, headers={"location": "/b"})

    asking("http://127.0.0.1:PORT/a", moved, headers={"authorization": "Basic x"})
    assert seen == ["Basic x", None]


@pytest.mark.usefixtures("loopback_is_public")
def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.2:1")
    said, _ = asking("http://127.0.0.1:PORT/")
    assert isinstance(said, Answer)


# Sizes and times.


@pytest.mark.usefixtures("loopback_is_public")
def test_an_answer_may_be_as_large_as_said_and_no_larger() -> None:
    async def sized(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * int(request.path[1:]))

    said, _ = asking("http://127.0.0.1:PORT/1000", sized)
    assert isinstance(said, Answer)
    assert len(said.body) == 1000
    said, _ = asking("http://127.0.0.1:PORT/1001", sized)
    assert isinstance(said, InputError)


@pytest.mark.usefixtures("loopback_is_public")
def test_an_answer_that_unpacks_to_more_is_cut() -> None:
    """A bomb: 10 MB of zeros in 10 kB."""

    async def bomb(_: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(bytes(10_000_000)), headers={"content-encoding": "gzip"})

    said, _ = asking("http://127.0.0.1:PORT/", bomb, longest_bytes=100_000)
    assert isinstance(said, InputError)


@pytest.mark.usefixtures("loopback_is_public")
def test_an_endless_answer_ends() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.01)
        return response

    said, _ = asking("http://127.0.0.1:PORT/", endless, seconds=0.3)
    assert isinstance(said, EnvironmentFault)
    assert "0.3 s" in str(said)


def test_who_does_not_answer_is_said_to_not_answer() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        said, _ = asking(f"http://127.0.0.1:{taken.getsockname()[1]}/", private=True)
    assert isinstance(said, EnvironmentFault)


# Files.


class TenBytes(BaseHTTPRequestHandler):
    """Serves ten bytes, and 404 at /none."""

    def do_GET(self) -> None:
        self.send_response(404 if self.path == "/none" else 200)
        self.send_header("content-length", "10")
        self.end_headers()
        self.wfile.write(b"0123456789")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def file_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), TenBytes) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_file_is_there_once_it_is_whole(file_server: str, tmp_path: Path) -> None:
    to = tmp_path / "rows.jsonl"
    assert download(f"{file_server}/rows", to, longest_bytes=10, seconds=60, private=True) == f"{file_server}/rows"
    assert to.read_bytes() == b"0123456789"


@pytest.mark.parametrize(
    ("path", "longest", "private"), [("/rows", 9, True), ("/none", 10, True), ("/rows", 10, False)]
)
def test_otherwise_nothing_is_left(file_server: str, tmp_path: Path, path: str, longest: int, private: bool) -> None:
    with pytest.raises(InputError):
        download(file_server + path, tmp_path / "rows", longest_bytes=longest, seconds=60, private=private)
    assert list(tmp_path.iterdir()) == []
