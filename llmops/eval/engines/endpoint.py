"""Answers of a model that someone serves: any OpenAI-compatible endpoint, our gateway among them.

The server renders the chat template and holds the bytes of the model; neither is seen here. What stands for the model
is where it is served and what the server says of it.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from llmops.errors import EnvironmentFault, InputError, nearest
from llmops.eval.cache import AnswerCache, answer_new, prompt_digest
from llmops.eval.engines.engine import Answer, Finish, Generated
from llmops.eval.items import Item
from llmops.eval.loading import plain_text
from llmops.eval.suite import Generation
from llmops.events import Listener
from llmops.files import digest_of

Found = TypeVar("Found")
Done = TypeVar("Done")

SEEN = "served, bytes not seen"
"""What a report says where a revision would stand."""
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
class Endpoint:
    """One model of one server.

    Attributes:
        url: up to `/v1`, without a slash at its end.
        said: what the server says of the model and of itself, without what changes from one call to the next.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    concurrency: int = 16
    patience: Patience = Patience()
    said: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Stands for the model's bytes, which are not seen."""
        return digest_of({"url": self.url, "model": self.model, "said": dict(self.said)})

    def __call__(
        self, items: Sequence[Item], generation: Generation, *, listener: Listener, cache: AnswerCache | None = None
    ) -> Generated:
        """Ask every item, `concurrency` at a time.

        Args:
            cache: of this model; what it has is not asked again, and it keeps each answer as it comes.

        Raises:
            InputError: the server refuses what it is asked.
            EnvironmentFault: it cannot be reached or fails too often; the answers it gave before are kept.
        """
        engine = {"name": "endpoint", "url": self.url, **self.said, "template": "the server's own"}
        prompts = {item.id: prompt_digest(item, [dict(turn) for turn in item.messages], generation) for item in items}

        def ask(rest: Sequence[Item], keep: Callable[[Sequence[Answer]], None]) -> float:
            done = 0

            def one(answer: Answer) -> None:
                nonlocal done
                keep([answer])
                done += 1
                listener.advance("answers", done, len(rest))

            started = time.monotonic()
            try:
                _to_its_end(_ask_all(self, rest, generation, one))
            except EnvironmentFault as fault:
                there = len(items) - len(rest) + done
                saved = f"; {there} of {len(items)} answers are kept" if cache else ""
                raise EnvironmentFault(
                    f"{fault.problem}{saved}", fix=f"{fault.fix}, then run the same command again to go on"
                ) from fault
            return time.monotonic() - started

        made = answer_new(items, generation, engine, prompts=prompts, ask=ask, cache=cache, listener=listener)
        if made.kept:
            listener.say("--no-cache asks again, should the server hold another model under the same name")
        return made


def endpoint(
    url: str, model: str, *, key: str | None = None, concurrency: int = 16, patience: Patience | None = None
) -> Endpoint:
    """The model called `model` at an address such as `http://host:8000/v1`, which the server must know.

    Raises:
        InputError: the address is none, or the server does not have the model.
        EnvironmentFault: the server cannot be reached.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{url!r} is no address of an endpoint", fix="write it as http://host:8000/v1")
    if parts.username or parts.password:
        raise InputError(
            f"the address of {parts.hostname} holds a password, which reports would show",
            fix="name an environment variable with --api-key-env instead",
        )
    plain = url.rstrip("/").removesuffix("/chat/completions")
    found = Endpoint(plain, model, key, concurrency, patience or Patience())
    return replace(found, said=_to_its_end(_said_by(found)))


def _to_its_end(work: Coroutine[Any, Any, Done]) -> Done:
    """What the work returns; where a loop runs already (in a notebook) the work gets a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def key_in(variable: str) -> str:
    """The key in an environment variable; raises InputError where there is none."""
    key = os.environ.get(variable, "")
    if not key.strip():
        raise InputError(f"the variable {variable} is empty or not set", fix=f"put the key there: export {variable}=…")
    return key.strip()


async def _said_by(endpoint: Endpoint) -> dict[str, str]:
    """What the server says of the model and of its own version."""
    async with _session(endpoint) as session:
        try:
            listed, _ = await _tried(endpoint, session, "GET", f"{endpoint.url}/models", None, _models)
        except _Refused as refused:
            if refused.status not in (404, 405):
                raise refused.explained(endpoint) from refused
            listed = {endpoint.model: {}}  # a server that lists nothing may have it all the same
        if endpoint.model not in listed:
            known = ", ".join(sorted(listed)[:5]) or "none"
            raise InputError(
                f"{endpoint.url} has no model {endpoint.model!r}{nearest(endpoint.model, listed)}",
                fix=f"give one that it has as MODEL: {known}",
            )
        of_model = listed[endpoint.model]
        said = {name: str(of_model[name]) for name in ("root", "parent") if of_model.get(name)}
        try:
            async with session.get(f"{endpoint.url.removesuffix('/v1')}/version") as reply:
                version = (await reply.json(content_type=None)).get("version") if reply.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ValueError, AttributeError):
            version = None  # vLLM tells it, most others do not
        return {"model": endpoint.model, **said, "version": str(version or "not known")}


async def _ask_all(
    endpoint: Endpoint, items: Sequence[Item], generation: Generation, keep: Callable[[Answer], None]
) -> None:
    plain = generation.prompt == "plain"
    address = f"{endpoint.url}/{'' if plain else 'chat/'}completions"

    def body_of(item: Item) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": endpoint.model,
            **(
                {"prompt": plain_text(item.messages)} if plain else {"messages": [dict(turn) for turn in item.messages]}
            ),
            "max_tokens": generation.max_tokens,
            "temperature": generation.temperature,
        }
        if generation.temperature:
            body["seed"] = generation.seed
        return body | ({"stop": list(generation.stop)} if generation.stop else {})

    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            try:
                (text, tokens, finish), seconds = await _tried(
                    endpoint, session, "POST", address, body_of(item), _completion
                )
            except _Refused as refused:
                raise refused.explained(endpoint) from refused
            keep(Answer(item.id, text, tokens, finish, seconds))

    async with _session(endpoint) as session:
        workers = [asyncio.create_task(work()) for _ in range(min(endpoint.concurrency, len(items)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


def _session(endpoint: Endpoint) -> aiohttp.ClientSession:
    patience = endpoint.patience
    return aiohttp.ClientSession(
        headers={"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {},
        timeout=aiohttp.ClientTimeout(total=patience.timeout_s, sock_connect=patience.connect_s),
        connector=aiohttp.TCPConnector(limit=endpoint.concurrency),
        trust_env=True,
    )


class _Refused(Exception):
    """The server answered that it will not, and would again."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.said = said

    def explained(self, endpoint: Endpoint) -> InputError:
        fix = "change what it names, or ask another endpoint"
        if self.status in (401, 403):
            fix = "name the environment variable that holds its key: --api-key-env, or `api_key_env` of a judge"
        return InputError(f"{endpoint.url} refuses the request with status {self.status}: {self.said}", fix=fix)


class _Useless(Exception):
    """A reply that is not what was asked for."""


async def _tried(
    endpoint: Endpoint,
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    body: Any,
    read: Callable[[Any], Found],
) -> tuple[Found, float]:
    """What `read` finds in the reply, and the seconds from sending to its last byte; tried until patience ends.

    Raises:
        _Refused: the request itself is at fault.
        EnvironmentFault: every attempt failed.
    """
    patience = endpoint.patience
    why = ""
    for attempt in range(patience.attempts):
        wait = patience.first_wait_s * 2**attempt * random.uniform(0.5, 1.0)
        started = time.monotonic()
        try:
            async with session.request(method, url, json=body) as reply:
                raw = await reply.read()
                seconds = time.monotonic() - started
                if reply.status < 400:
                    return read(await reply.json(content_type=None)), seconds
                why = f"status {reply.status}: {_message(raw)}"
                if reply.status < 500 and reply.status not in _AGAIN:
                    raise _Refused(reply.status, _message(raw))
                wait = max(wait, _retry_after(reply.headers.get("retry-after")))
        except TimeoutError:
            why = f"no answer within {patience.timeout_s:g} s"
        except aiohttp.ClientError as error:
            why = str(error) or type(error).__name__
        except (ValueError, _Useless) as error:
            why = f"its reply is no {'list of models' if body is None else 'chat completion'} ({error})"
        if attempt + 1 < patience.attempts:
            await asyncio.sleep(min(wait, patience.longest_wait_s))
    raise EnvironmentFault(
        f"the endpoint {endpoint.url} failed {patience.attempts} times in a row: {why}",
        fix="see that it is up and has the capacity (--concurrency, or `concurrency` of a judge)",
    )


def _models(body: Any) -> dict[str, dict[str, Any]]:
    try:
        return {str(one["id"]): dict(one) for one in body["data"]}
    except (TypeError, KeyError, ValueError) as error:
        raise _Useless("no `data` with ids") from error


def _completion(body: Any) -> tuple[str, int | None, Finish | None]:
    """Text, tokens and end of the first choice."""
    try:
        choice = body["choices"][0]
        # A chat's content is null where it only thought, or called a tool.
        text = choice["text"] if "text" in choice else choice["message"]["content"] or ""
        finish = choice.get("finish_reason")
        tokens = (body.get("usage") or {}).get("completion_tokens")
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise _Useless("no `choices` with a message") from error
    if not isinstance(text, str):
        raise _Useless("the message's content is no text")
    ended: Finish | None = None if finish is None else "length" if finish == "length" else "stop"
    return text, tokens if isinstance(tokens, int) else None, ended


def _message(raw: bytes) -> str:
    """What the server says, in one line."""
    return " ".join(raw.decode(errors="replace").split())[:_SAID] or "without a word"


def _retry_after(header: str | None) -> float:
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
