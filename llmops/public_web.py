"""Requests to addresses that somebody else wrote: only to the public internet, however the address is disguised.

What a name resolves to is checked, and what was checked is what is connected to, so a name that answers otherwise the
second time gains nothing. Redirects are followed here, each checked anew. Answers are bounded in bytes and seconds.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from llmops.errors import EnvironmentFault, InputError

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from yarl import URL

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""A name and a port → addresses."""

_REDIRECTS = 5
_MOVED = frozenset({301, 302, 303, 307, 308})
_PIECE = 1 << 16
_WITHIN = tuple(
    map(
        ipaddress.ip_network,
        # Addresses that carry an IPv4 address which a translator or a tunnel would reach: compatible, NAT64 (well-known
        # and local), 6to4, Teredo; and what older registries than today's call global.
        (
            "::/96",
            "64:ff9b::/96",
            "64:ff9b:1::/48",
            "2002::/16",
            "2001::/32",
            "fec0::/10",
            "100::/64",
            "192.88.99.0/24",
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        url: where it came from in the end.
        headers: names in lower case.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet: not this machine, not this network, nothing that leads there."""
    known = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(known, ipaddress.IPv6Address) and known.ipv4_mapped is not None:
        known = known.ipv4_mapped
    if any(known in network for network in _WITHIN if network.version == known.version):
        return False
    return known.is_global and not known.is_multicast and not known.is_reserved and not known.is_unspecified


async def system_resolve(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says; it knows odd notations of addresses (0x7f.1, 2130706433, 0177.0.0.1) too."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(place[0]) for *_, place in found]


async def fetch(
    url: str,
    *,
    longest_bytes: int,
    seconds: float,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    private: bool = False,
    resolve: Resolve = system_resolve,
) -> Answer:
    """Ask an address, following redirects where nothing is sent.

    Args:
        form: fields to send; nothing that is sent is ever sent on to where a redirect points.
        private: take addresses of this machine and network too, where whoever runs the service wrote the address.
        resolve: turns names into addresses.

    Raises:
        InputError: the address, or one it redirects to, is none that may be asked; or the answer is too large.
        EnvironmentFault: nobody answers there, or not in time.
    """
    body = bytearray()

    def keep(piece: bytes) -> None:
        body.extend(piece)

    found, status, told = await _asked(
        url,
        keep,
        longest_bytes=longest_bytes,
        seconds=seconds,
        method=method,
        headers=headers,
        form=form,
        private=private,
        resolve=resolve,
    )
    return Answer(found, status, told, bytes(body))


def download(
    url: str,
    to: Path,
    *,
    longest_bytes: int,
    seconds: float,
    private: bool = False,
    resolve: Resolve = system_resolve,
) -> str:
    """Fetch a file; where it came from in the end. `to` is there only once it is whole.

    Raises:
        InputError: as `fetch`, or the answer is no 200.
        EnvironmentFault: as `fetch`.
    """
    part = to.with_name(f".{to.name}.part")
    try:
        with part.open("wb") as file:
            found, status, _ = asyncio.run(
                _asked(
                    url,
                    file.write,
                    longest_bytes=longest_bytes,
                    seconds=seconds,
                    method="GET",
                    headers=None,
                    form=None,
                    private=private,
                    resolve=resolve,
                )
            )
        if status != 200:
            raise InputError(f"{_shown(url)} answers with status {status}", fix="check the address")
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)
    return found


async def _asked(
    url: str,
    keep: Callable[[bytes], Any],
    *,
    longest_bytes: int,
    seconds: float,
    method: str,
    headers: Mapping[str, str] | None,
    form: Mapping[str, str] | None,
    private: bool,
    resolve: Resolve,
) -> tuple[str, int, Mapping[str, str]]:
    from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

    checked = _checking(resolve, private=private)
    try:
        async with (
            asyncio.timeout(seconds),
            ClientSession(
                connector=TCPConnector(resolver=checked, use_dns_cache=False, force_close=True),
                timeout=ClientTimeout(total=None),
                cookie_jar=DummyCookieJar(),
                trust_env=False,
            ) as session,
        ):
            for _ in range(_REDIRECTS + 1):
                parts = _address(url, private=private)
                async with session.request(
                    method, parts, headers=headers, data=form, allow_redirects=False
                ) as response:
                    where = response.headers.get("location")
                    if response.status in _MOVED and where is not None and form is None:
                        further = urljoin(url, where)
                        if parts.scheme == "https" and urlsplit(further).scheme != "https":
                            raise InputError(f"{_shown(url)} redirects away from https", fix="give the last address")
                        url, headers = further, None
                        continue
                    await _read(response, keep, longest_bytes, url)
                    told = {name.lower(): value for name, value in response.headers.items()}
                    return url, response.status, told
            raise InputError(f"more than {_REDIRECTS} redirects follow each other", fix="give the last address")
    except TimeoutError as error:
        raise EnvironmentFault(f"{_shown(url)} took longer than {seconds:g} s", fix="try it again later") from error
    except (ClientError, OSError) as error:
        refused = _refused_within(error)
        if refused is not None:
            raise refused from error
        raise EnvironmentFault(f"{_shown(url)} does not answer", fix="check the address, or try it later") from error


async def _read(response: ClientResponse, keep: Callable[[bytes], Any], longest_bytes: int, url: str) -> None:
    """The body as it comes, unpacked; what unpacks to more than it may stops there."""
    size = 0
    async for piece in response.content.iter_chunked(_PIECE):
        size += len(piece)
        if size > longest_bytes:
            raise InputError(f"{_shown(url)} is larger than {longest_bytes / 1e6:g} MB", fix="fetch it by hand")
        keep(piece)


def _address(url: str, *, private: bool) -> URL:
    """The address as aiohttp reads it: `127。0。0。1` and `①27.0.0.1` are 127.0.0.1 to it, so that form is checked.

    Raises:
        InputError: it is no http address, holds a login, or is of an address that may not be asked.
    """
    from yarl import URL

    try:
        parts = URL(url)
        host, port = parts.raw_host or "", parts.port
    except ValueError as error:
        raise InputError("this is no address", fix="write it as https://host/path") from error
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise InputError(f"{_shown(url)} is no http address", fix="write it as https://host/path")
    if parts.user is not None or parts.password is not None:
        raise InputError("the address holds a login", fix="leave it out")
    try:
        literal = str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return parts  # a name, or a number in an odd notation: the resolver's answer is checked
    if not private and not is_public(literal):
        raise _not_public(host)
    return parts


def _checking(resolve: Resolve, *, private: bool) -> Any:
    """A resolver for aiohttp, which connects to what it answers and to nothing else."""
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Checking(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            found = await resolve(host, port)
            if not private and not all(map(is_public, found)):
                raise _Refused(_not_public(host))
            return [
                ResolveResult(
                    hostname=host,
                    host=address,
                    port=port,
                    family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                    proto=0,
                    flags=socket.AI_NUMERICHOST,
                )
                for address in found
            ]

        async def close(self) -> None:
            pass

    return Checking()


class _Refused(OSError):
    """Carries a refusal through aiohttp, which wraps what a resolver raises."""

    def __init__(self, refusal: InputError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def _refused_within(error: BaseException | None) -> InputError | None:
    while error is not None:
        if isinstance(error, _Refused):
            return error.refusal
        error = error.__cause__ or error.__context__
    return None


def _not_public(host: str) -> InputError:
    return InputError(f"{host[:100]} is not on the public internet", fix="give an address that is")


def _shown(url: str) -> str:
    """An address for a message, without what may be secret in it."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname}"[:120]
    except ValueError:
        return "the address"
