"""What a request may look like before anything reads it: its host, where it comes from, its body."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from llmops.feedback.refused import Refused
from llmops.feedback.settings import FeedbackService

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_JSON_DEPTH = 32
_JSON_OPENINGS = 10_000
_FIELDS = 200
# Also one that does not end: were that no match, each quote in it would be tried as a beginning.
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)', re.DOTALL)
_BRACKETS = re.compile(rb"[][{}]")


def origins(service: FeedbackService, port: int) -> frozenset[str]:
    """By which addresses browsers may call this service; a name that an attacker lets point here is none of them."""
    found = set()
    if service.public_url is not None:
        url = urlsplit(service.public_url)
        found.add(f"{url.scheme}://{url.netloc.lower()}".removesuffix(":443" if service.https else ":80"))
    if service.loopback:
        names = {"127.0.0.1", "localhost", "[::1]", f"[{service.host}]" if ":" in service.host else service.host}
        found |= {f"http://{name}:{port}" for name in names}
    return frozenset(found)


def check_host(host: str, known: Collection[str]) -> None:
    """
    Raises:
        Refused: 421, the Host header names none of the origins `known`.
    """
    plain = host.lower()
    if plain not in {urlsplit(one).netloc for one in known} and not any(
        plain == f"{urlsplit(one).netloc}{port}" for one in known for port in (":80", ":443") if one.count(":") == 1
    ):
        raise Refused(421, "this service is not called so", fix="open it by its own address (`public_url`)")


def check_origin(headers: Mapping[str, str], known: Collection[str]) -> None:
    """A change comes from a page of this service, as far as the browser says.

    Raises:
        Refused: 403.
    """
    refused = Refused(403, "another site asked for this", fix="open the page of this service and do it there")
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise refused
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in known:
        raise refused


def client_address(peer: str, forwarded: str, proxies: Collection[str]) -> str:
    """Who asks: the last address that a proxy of ours did not add itself.

    Args:
        peer: the address the connection comes from.
        forwarded: X-Forwarded-For, which anybody may write; only what trusted proxies appended counts.
    """
    networks = [ipaddress.ip_network(one) for one in proxies]

    def trusted(address: str) -> bool:
        try:
            known = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(known in network for network in networks)

    asked = peer
    for step in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
        if not trusted(asked):
            break
        asked = step
    return asked


async def body_of(receive: Receive, headers: Mapping[str, str], *, longest: int, seconds: float) -> bytes:
    """The whole body.

    Raises:
        Refused: 413 as soon as it is longer than `longest` bytes, 408 where it does not come in time, 415 for what no
            page of ours sends.
    """
    too_large = Refused(413, f"this is more than {longest / 1000:g} kB", fix="send less at a time")
    said = headers.get("content-length")
    if said is not None and (not said.isdecimal() or int(said) > longest):
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "the request ended early", fix="send it again")
                part = message.get("body", b"")
                size += len(part)
                if size > longest:
                    raise too_large
                parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise Refused(408, f"the request did not come within {seconds:g} s", fix="send it again") from error
    body = b"".join(parts)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and kind not in ("application/json", "application/x-www-form-urlencoded"):
        raise Refused(415, "this kind of content is not taken", fix="send JSON, or the page's own form")
    if kind == "application/json":
        _check_json(body)
    return body


def _check_json(body: bytes) -> None:
    """Refuse what takes a parser long or deep, before one sees it."""
    refused = Refused(400, "this is nested too deeply or in too many parts", fix="send what the page sends")
    bare = _STRINGS.sub(b"", body)
    if bare.count(b"[") + bare.count(b"{") > _JSON_OPENINGS:
        raise refused
    depth = 0
    for bracket in _BRACKETS.finditer(bare):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > _JSON_DEPTH:
            raise refused


def form_of(body: bytes) -> dict[str, list[str]]:
    """The fields of a form, each with its values in order.

    Raises:
        Refused: 400, it is none.
    """
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS, errors="strict")
    except ValueError as error:
        raise Refused(400, "this is no form of this service", fix="open the page again") from error
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found
