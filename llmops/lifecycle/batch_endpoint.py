"""A batch through a server: so many requests at a time, each with patience, and an end where the server is down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llmops.client import Exhausted, Refused, Server, Useless, message, session, to_its_end, tried
from llmops.errors import EnvironmentFault
from llmops.events import Listener
from llmops.lifecycle.batch import Outcome
from llmops.lifecycle.batch_input import EMBEDDINGS, RESPONSES, Request

_DOWN = frozenset({None, 429, 502, 503, 504})
"""Last states after which it is the server that fails, and not the request."""
_CODES = {None: "no_answer", 408: "timeout", 429: "rate_limit_exceeded"}
_ENOUGH = 8  # failures in a row, at least, that show a server to be down


class Through:
    """The server at an address."""

    identity: Mapping[str, Any] = {"through": "a server"}

    def __init__(self, server: Server) -> None:
        self._server = server

    def allowed(self, request: Request) -> str | None:
        return None  # what a server can do it says itself

    def __call__(self, requests: Iterator[Request], keep: Callable[[Outcome], None], listener: Listener) -> None:
        """As `Asker`; failures of the server are results where it has answered again since, or where too few are left
        at the end to show it to be down.

        Raises:
            EnvironmentFault: it failed for twice as many requests in a row as are asked at a time.
            InputError: it wants a key, or another one.
        """
        to_its_end(self._ask(requests, keep))

    async def _ask(self, requests: Iterator[Request], keep: Callable[[Outcome], None]) -> None:
        server, held = self._server, list[Outcome]()
        enough = max(_ENOUGH, 2 * server.concurrency)

        def settle() -> None:
            for outcome in held:
                keep(outcome)
            held.clear()

        async def work() -> None:
            for request in requests:
                outcome, fault = await self._one(request, opened)
                if fault is not None and fault.status in _DOWN:
                    held.append(outcome)
                    if len(held) >= enough:
                        raise EnvironmentFault(
                            f"{fault.problem}; so it did for the last {len(held)} requests",
                            fix=f"{fault.fix}, then run the same command again to go on",
                        )
                else:
                    settle()
                    keep(outcome)

        async with session(server) as opened:
            workers = [asyncio.create_task(work()) for _ in range(server.concurrency)]
            try:
                await asyncio.gather(*workers)
                settle()
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _one(self, request: Request, opened: Any) -> tuple[Outcome, Exhausted | None]:
        url = self._server.url
        try:
            reply = await tried(
                self._server,
                opened,
                "POST",
                f"{url}{request.path.removeprefix('/v1')}",
                request.body,
                lambda body: _checked(body, request.path),
                wanted=f"answer of {request.path}",
            )
        except Refused as refused:
            if refused.status in (401, 403):
                raise refused.explained(url) from refused
            return Outcome(request, refused.status, _json(refused.body), _said(refused), refused.request_id), None
        except Exhausted as fault:
            code = _CODES.get(fault.status, "server_error")
            return Outcome(request, fault.status, None, {"code": code, "message": fault.why}), fault
        return Outcome(request, reply.status, reply.found, None, reply.request_id), None


def _checked(body: Any, path: str) -> Any:
    """The body, where it is what the path answers with; raises Useless, or ValueError for NaN."""
    wanted = {EMBEDDINGS: "data", RESPONSES: "output"}.get(path, "choices")
    found = body.get(wanted) if isinstance(body, dict) else None
    if not isinstance(found, list) or not found:
        raise Useless(f"no `{wanted}`")
    if wanted == "choices" and not all(isinstance(one, dict) and ("text" in one or _spoken(one)) for one in found):
        raise Useless("`choices` without messages")
    json.dumps(body, allow_nan=False)
    return body


def _spoken(choice: Mapping[str, Any]) -> bool:
    said = choice.get("message")
    return isinstance(said, dict) and isinstance(said.get("content"), str | None)


def _said(refused: Refused) -> dict[str, str]:
    body = _json(refused.body)
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        code, text = error.get("code") or error.get("type"), error.get("message")
        return {"code": str(code or refused.status), "message": str(text or refused.said)}
    return {"code": str(refused.status), "message": message(refused.body)}


def _json(raw: bytes) -> Any:
    try:
        body = json.loads(raw)
        json.dumps(body, allow_nan=False)
    except ValueError:
        return None
    return body
