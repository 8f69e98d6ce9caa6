"""Asking an OpenAI-compatible server patiently: addresses, keys, attempts, and what its refusals mean."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

from llmops.errors import EnvironmentFault, InputError

if TYPE_CHECKING:
    import aiohttp

Found = TypeVar("Found")
Done = TypeVar("Done")

_AGAIN = frozenset({408, 425, 429})  # and all from 500 on: another try may succeed
_SAID = 200  # characters of a server's message that are shown


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often a request is tried."""

    timeout_s: float = 600.0
    """For one whole answer."""
    connect_s: float = 10.0
    """To reach the server."""
    attempts: int = 6
    """In all, for one answer."""
    first_wait_s: float = 0.5
    """Before the second attempt; doubles with each, and is shortened by chance to spread the load."""
    longest_wait_s: float = 60.0
    """Also where the server asks for more with Retry-After."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where requests go.

    Attributes:
        url: up to `/v1`, without a slash at its end.
        concurrency: connections at one time.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    concurrency: int = 16
    patience: Patience = Patience()


@dataclass(frozen=True, slots=True)
class Reply(Generic[Found]):
    """What was found in a reply.

    Attributes:
        seconds: from sending to the last byte, of the attempt that succeeded.
        request_id: the server's, where it names one.
    """

    found: Found
    seconds: float
    status: int
    request_id: str | None


class Refused(Exception):
    """The server answered that it will not, and would again."""

    def __init__(self, status: int, said: str, body: bytes = b"", request_id: str | None = None) -> None:
        super().__init__(said)
        self.status = status
        self.said = said
        self.body = body
        self.request_id = request_id

    def explained(self, url: str) -> InputError:
        """As an error of the user who named the server."""
        fix = "change what it names, or ask another endpoint"
        if self.status in (401, 403):
            fix = "name the environment variable that holds its key: --api-key-env, or `api_key_env` of a judge"
        return InputError(f"{url} refuses the request with status {self.status}: {self.said}", fix=fix)


class Exhausted(EnvironmentFault):
    """Every attempt failed; `status` is the last one's, None where no answer came."""

    def __init__(self, url: str, attempts: int, why: str, status: int | None) -> None:
        super().__init__(
            f"the endpoint {url} failed {attempts} times in a row: {why}",
            fix="see that it is up and has the capacity (--concurrency, or `concurrency` of a judge)",
        )
        self.why = why
        self.status = status


class Useless(Exception):
    """A reply that is not what was asked for; another attempt may bring a better one."""


def address(url: str) -> str:
    """The address up to `/v1`, without a slash at its end.

    Raises:
        InputError: it is no address, or holds a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{url!r} is no address of an endpoint", fix="write it as http://host:8000/v1")
    if parts.username or parts.password:
        raise InputError(
            f"the address of {parts.hostname} holds a password, which reports would show",
            fix="name an environment variable with --api-key-env instead",
        )
    return url.rstrip("/").removesuffix("/chat/completions")


def key_in(variable: str) -> str:
    """The key in an environment variable; raises InputError where there is none."""
    key = os.environ.get(variable, "")
    if not key.strip():
        raise InputError(f"the variable {variable} is empty or not set", fix=f"put the key there: export {variable}=…")
    return key.strip()


def to_its_end(work: Coroutine[Any, Any, Done]) -> Done:
    """What the work returns; where a loop runs already (in a notebook) the work gets a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def session(server: Server) -> aiohttp.ClientSession:
    """Connections to the server, with its key and patience; whoever opens it closes it."""
    import aiohttp

    patience = server.patience
    return aiohttp.ClientSession(
        headers={"authorization": f"Bearer {server.key}"} if server.key else {},
        timeout=aiohttp.ClientTimeout(total=patience.timeout_s, sock_connect=patience.connect_s),
        connector=aiohttp.TCPConnector(limit=server.concurrency),
        trust_env=True,
    )


async def tried(
    server: Server,
    opened: aiohttp.ClientSession,
    method: str,
    url: str,
    body: Any,
    read: Callable[[Any], Found],
    *,
    wanted: str,
) -> Reply[Found]:
    """What `read` finds in the JSON of the reply; tried until patience ends.

    Args:
        read: raises Useless where the reply is not what was asked for.
        wanted: what the reply should be, for the message where it is not.

    Raises:
        Refused: the request itself is at fault.
        Exhausted: every attempt failed.
    """
    import aiohttp

    patience = server.patience
    why, status = "", None
    for attempt in range(patience.attempts):
        wait = patience.first_wait_s * 2**attempt * random.uniform(0.5, 1.0)
        started = time.monotonic()
        status = None
        try:
            async with opened.request(method, url, json=body) as reply:
                raw = await reply.read()
                seconds = time.monotonic() - started
                status, name = reply.status, reply.headers.get("x-request-id")
                if reply.status < 400:
                    return Reply(read(await reply.json(content_type=None)), seconds, reply.status, name)
                why = f"status {reply.status}: {message(raw)}"
                if reply.status < 500 and reply.status not in _AGAIN:
                    raise Refused(reply.status, message(raw), raw, name)
                wait = max(wait, retry_after(reply.headers.get("retry-after")))
        except TimeoutError:
            why = f"no answer within {patience.timeout_s:g} s"
        except aiohttp.ClientError as error:
            why = str(error) or type(error).__name__
        except (ValueError, Useless) as error:
            why = f"its reply is no {wanted} ({error})"
        if attempt + 1 < patience.attempts:
            await asyncio.sleep(min(wait, patience.longest_wait_s))
    raise Exhausted(server.url, patience.attempts, why, status)


def models_in(body: Any) -> dict[str, dict[str, Any]]:
    """What a server's list of models says of each, by name; raises Useless."""
    try:
        return {str(one["id"]): dict(one) for one in body["data"]}
    except (TypeError, KeyError, ValueError) as error:
        raise Useless("no `data` with ids") from error


def message(raw: bytes) -> str:
    """What the server says, in one line."""
    return " ".join(raw.decode(errors="replace").split())[:_SAID] or "without a word"


def retry_after(header: str | None) -> float:
    """Seconds that a Retry-After asks to wait, as a number or as a date."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
