"""Asks engines over HTTP, and says in one way what goes wrong there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import aiohttp
import orjson

from llmops.serve.refusal import Refusal
from llmops.serve.targets import Target

CONNECT_S = 5.0
KEEP_ALIVE_S = 2.5
"""Less than the 5 s after which vLLM closes a quiet connection, so that none is used that is just being closed."""
LARGEST = 64 * 2**20
"""Bytes of an answer in one piece."""

_PASSED_ON = ("accept", "traceparent", "tracestate", "anthropic-version", "anthropic-beta")
_SAID = 2000
TOO_LONG = "context_length_exceeded"
"""The code OpenAI gives to a prompt, or a prompt with its answer, that does not fit into the model."""
_SAYS_TOO_LONG = re.compile(
    # vLLM 0.32 (renderers/params.py, v1/engine/input_processor.py, entrypoints/serve/utils/api_utils.py), which gives
    # no code of its own but the status; SGLang and llama.cpp.
    r"maximum context length|maximum model length|cannot be greater than max_model_len=|model's context length"
    r"|available context size"
)


class Failure(Exception):
    """An attempt that came to nothing before the first byte.

    Attributes:
        refusal: what the client gets if nobody else answers.
        blame: it counts against the replica.
        again: another replica may do better.
        sent: the engine may have begun to work on it.
    """

    def __init__(self, refusal: Refusal, *, blame: bool = True, again: bool = True, sent: bool = True) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.blame = blame
        self.again = again
        self.sent = sent


class Upstream:
    """Connections to all engines; opened on first use, in the event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self, target: Target, endpoint: str, raw: bytes, headers: Mapping[str, str], request: str
    ) -> aiohttp.ClientResponse:
        """The engine's answer, of which status and headers have come.

        Raises:
            Failure: it could not be reached, or what it says is no HTTP.
        """
        own = {"content-type": "application/json", "x-request-id": request}
        for name in _PASSED_ON:
            if name in headers:
                own[name] = headers[name]
        if target.replica.key is not None:
            own["authorization"] = f"Bearer {target.replica.key}"
        try:
            return await self._open().post(target.replica.url + endpoint, data=raw, headers=own, allow_redirects=False)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise broken(error) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
                # Deadlines are those of routes, kept around the whole attempt.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
                trust_env=False,
            )
        return self._session


async def whole(response: aiohttp.ClientResponse) -> bytes:
    """The answer's body.

    Raises:
        Failure: it broke off, or is larger than `LARGEST`.
    """
    parts: list[bytes] = []
    size = 0
    try:
        while part := await response.content.readany():
            parts.append(part)
            size += len(part)
            if size > LARGEST:
                raise Failure(Refusal(502, f"the engine's answer is larger than {LARGEST >> 20} MiB"), again=False)
    except (aiohttp.ClientError, OSError) as error:
        raise broken(error) from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def broken(error: Exception) -> Failure:
    """The failure that an error of the connection is."""
    unsent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL)
    problem = "the engine cannot be reached" if unsent else "the engine broke the connection off"
    return Failure(Refusal(502, problem, code="engine_unreachable" if unsent else "engine_broke_off"), sent=not unsent)


def late(seconds: float) -> Failure:
    """The failure of an engine that does not begin to answer."""
    return Failure(Refusal(504, f"the engine did not begin to answer within {seconds:g} s", code="engine_timeout"))


def read(raw: bytes) -> dict[str, Any]:
    """An answer in one piece.

    Raises:
        Failure: it is not a JSON object.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            # NaN and Infinity are no JSON, but Python's servers write them.
            value = json.loads(raw)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise Failure(Refusal(502, "the engine's answer is not a JSON object", code="engine_answer"))
    return value


def refuse(status: int, raw: bytes, headers: Mapping[str, str], target: Target, route: str) -> NoReturn:
    """Raises the Failure that an answer of another status than 200 is."""
    said = said_by(raw)
    message = str(said.get("message") or "").replace(target.model, route)[:_SAID]
    code = said.get("code") if isinstance(said.get("code"), str) else None
    param = said.get("param") if isinstance(said.get("param"), str) else None
    wait = _seconds(headers.get("retry-after"))
    if status == 429:
        raise Failure(
            Refusal(429, message or "the engine has too much to do", code=code, retry_after=wait or 1), blame=False
        )
    if status == 404 and ("does not exist" in message or code == "model_not_found" or param == "model"):
        # An adapter that is just being swapped, or a model that somebody else took away.
        raise Failure(
            Refusal(503, f"the engine has no {route!r} at this moment", code="model_not_loaded", retry_after=wait or 1),
            blame=False,
        )
    if status in (404, 405):
        raise Failure(
            Refusal(404, f"{route!r} has no such endpoint", code="endpoint_not_found"), blame=False, again=False
        )
    if status in (401, 403):
        raise Failure(Refusal(502, "the engine does not accept the gateway's key", code="engine_key"))
    if status in (400, 409, 413, 415, 422):
        own = 413 if status == 413 else 400
        raise Failure(
            Refusal(own, message or "the engine refuses it", code=code or _code_of(message), param=param),
            blame=False,
            again=False,
        )
    if status in (408, 504):
        raise Failure(Refusal(504, message or "the engine took too long", code=code or "engine_timeout"))
    if status == 503:
        raise Failure(Refusal(503, message or "the engine is not available", code=code, retry_after=wait or 1))
    raise Failure(
        Refusal(502, f"the engine failed with status {status}: {message or 'without a word'}", code="engine_error")
    )


def refusal_in_stream(said: Any, target: Target, route: str) -> Refusal:
    """What an error that an engine put into its stream means: its status where it says one, else 502."""
    error = said if isinstance(said, Mapping) else {"message": said}
    status = error.get("code")
    message = str(error.get("message") or "the engine failed").replace(target.model, route)[:_SAID]
    if type(status) is int and 400 <= status < 500:
        return Refusal(status, message, code=_code_of(message))
    return Refusal(502, message, code=status if isinstance(status, str) else "engine_error")


def _code_of(message: str) -> str | None:
    """A word for programs where the engine gives none."""
    return TOO_LONG if _SAYS_TOO_LONG.search(message) else None


def said_by(raw: bytes) -> dict[str, Any]:
    """The error in a body, in whichever of the usual ways it is written: `error`, `detail`, bare fields, or text."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {"message": " ".join(raw[:_SAID].decode(errors="replace").split())}
    if not isinstance(value, dict):
        return {"message": str(value)}
    error = value.get("error", value)
    if isinstance(error, dict):
        return error if "message" in error else {"message": error.get("detail") and _text(error["detail"])}
    return {"message": _text(error)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def _seconds(value: str | None) -> float | None:
    """Of a `Retry-After` that says seconds; a date is not read."""
    return float(value) if value is not None and re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value.strip()) else None
