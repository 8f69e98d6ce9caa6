"""Stylesheet, scripts and icon of `ui/`, at addresses of their version: kept for good by whoever has them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.resources import files

from llmops.feedback.request_limits import App, Message, Receive, Scope, Send

_IMPORT = re.compile(r'^import .* from "\./([\w-]+\.js)";$', re.MULTILINE)
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@lru_cache(maxsize=1)
def static_files() -> Mapping[str, tuple[bytes, str]]:
    """What `/static/` serves: content and type by name. No other name reaches a file."""
    found = {}
    for file in files("llmops.feedback.ui").iterdir():
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind:
            found[file.name] = (file.read_bytes(), kind)
    return found


@lru_cache(maxsize=1)
def static_version() -> str:
    """A digest of all those files. It is a part of their addresses, and so of those they import from each other: a
    browser keeps them for good, and never has those of two versions in one page."""
    all_of_it = hashlib.sha256()
    for name, (content, _) in sorted(static_files().items()):
        all_of_it.update(f"{name} {len(content)} ".encode() + content)
    return all_of_it.hexdigest()[:16]


def static_path(name: str) -> str:
    """Where a file is served."""
    return f"/static/{static_version()}/{name}"


@cache
def imported(script: str) -> tuple[str, ...]:
    """What a script imports, and what that imports: a browser told of all at once need not find out one by one."""
    found: list[str] = []
    ahead = [script]
    while ahead:
        for name in _IMPORT.findall(static_files()[ahead.pop()][0].decode()):
            if name not in found:
                found.append(name)
                ahead.append(name)
    return tuple(found)


class Static:
    """ASGI middleware in front of everything: a page asks for twenty files at once, and there is nothing to check.

    Another version's address gets nothing, rather than this one's file.
    """

    def __init__(self, app: App, *, headers: Mapping[str, str]) -> None:
        """
        Args:
            headers: of every answer, besides those that say what it is and that it may be kept.
        """
        self._app = app
        kept = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
        self._answers = {
            static_path(name): (_start(content, {**headers, **kept, "content-type": f"{kind}; charset=utf-8"}), content)
            for name, (content, kind) in static_files().items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._answers.get(scope["path"]) if scope["type"] == "http" else None
        if found is None or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        start, content = found
        await send({**start})  # what passes it on may change it
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})


def _start(content: bytes, headers: Mapping[str, str]) -> Message:
    every = {**headers, "content-length": str(len(content))}
    encoded = [(name.encode(), value.encode()) for name, value in every.items()]
    return {"type": "http.response.start", "status": 200, "headers": encoded}
