"""Answers of a model that someone serves: any OpenAI-compatible endpoint, our gateway among them.

The server renders the chat template and holds the bytes of the model; neither is seen here. What stands for the model
is where it is served and what the server says of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from llmops.client import Patience, Refused, Server, Useless, address, models_in, session, to_its_end, tried
from llmops.errors import EnvironmentFault, InputError, nearest
from llmops.eval.cache import AnswerCache, answer_new, prompt_digest
from llmops.eval.engines.engine import Answer, Finish, Generated
from llmops.eval.items import Item
from llmops.eval.loading import plain_text
from llmops.eval.suite import Generation
from llmops.events import Listener
from llmops.files import digest_of

SEEN = "served, bytes not seen"
"""What a report says where a revision would stand."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model of one server.

    Attributes:
        url: up to `/v1`, without a slash at its end.
        said: what the server says of the model and of itself, without what changes from one call to the next.
        spares: a request that the server declines for what it asks is an answer `refused`, where others are answered;
            otherwise it ends all.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    concurrency: int = 16
    patience: Patience = field(default_factory=Patience)
    said: Mapping[str, str] = field(default_factory=dict)
    spares: bool = False

    @property
    def server(self) -> Server:
        """Where it is asked."""
        return Server(self.url, self.key, self.concurrency, self.patience)

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
                to_its_end(_ask_all(self, rest, generation, one))
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
    url: str,
    model: str,
    *,
    key: str | None = None,
    concurrency: int = 16,
    patience: Patience | None = None,
    spares: bool = False,
) -> Endpoint:
    """The model called `model` at an address such as `http://host:8000/v1`, which the server must know.

    Raises:
        InputError: the address is none, or the server does not have the model.
        EnvironmentFault: the server cannot be reached.
    """
    found = Endpoint(address(url), model, key, concurrency, patience or Patience(), spares=spares)
    return replace(found, said=to_its_end(_said_by(found)))


async def _said_by(endpoint: Endpoint) -> dict[str, str]:
    """What the server says of the model and of its own version."""
    async with session(endpoint.server) as opened:
        try:
            asked = await tried(
                endpoint.server, opened, "GET", f"{endpoint.url}/models", None, models_in, wanted="list of models"
            )
            listed = asked.found
        except Refused as refused:
            if refused.status not in (404, 405):
                raise refused.explained(endpoint.url) from refused
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
            async with opened.get(f"{endpoint.url.removesuffix('/v1')}/version") as reply:
                version = (await reply.json(content_type=None)).get("version") if reply.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ValueError, AttributeError):
            version = None  # vLLM tells it, most others do not
        return {"model": endpoint.model, **said, "version": str(version or "not known")}


async def _ask_all(
    endpoint: Endpoint, items: Sequence[Item], generation: Generation, keep: Callable[[Answer], None]
) -> None:
    plain = generation.prompt == "plain"
    asked = f"{endpoint.url}/{'' if plain else 'chat/'}completions"

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
    answered = False
    declined: list[Answer] = []  # until one is answered they may all fail for one reason, which is not theirs

    def settle() -> None:
        while declined:
            keep(declined.pop())

    async def work() -> None:
        nonlocal answered
        for item in waiting:
            try:
                reply = await tried(
                    endpoint.server, opened, "POST", asked, body_of(item), _completion, wanted="chat completion"
                )
            except Refused as refused:
                if not endpoint.spares or refused.status not in _DECLINED:
                    raise refused.explained(endpoint.url) from refused
                declined.append(Answer(item.id, refused.said, None, "refused", None))
                if not answered and len(declined) >= _ALL_DECLINED:
                    raise refused.explained(endpoint.url) from refused
            else:
                answered = True
                text, tokens, finish, prompt_tokens = reply.found
                keep(Answer(item.id, text, tokens, finish, reply.seconds, prompt_tokens=prompt_tokens))
            if answered:
                settle()

    async with session(endpoint.server) as opened:
        workers = [asyncio.create_task(work()) for _ in range(min(endpoint.concurrency, len(items)))]
        try:
            await asyncio.gather(*workers)
            settle()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


_DECLINED = frozenset({400, 413, 422, 451})
"""States that may be about one request: too long, or against the server's rules."""
_ALL_DECLINED = 8


def _completion(body: Any) -> tuple[str, int | None, Finish | None, int | None]:
    """Text, tokens and end of the first choice, and the tokens of its prompt."""
    try:
        choice = body["choices"][0]
        # A chat's content is null where it only thought, or called a tool.
        text = choice["text"] if "text" in choice else choice["message"]["content"] or ""
        finish = choice.get("finish_reason")
        usage = body.get("usage") or {}
        tokens, prompt_tokens = (
            usage[name] if isinstance(usage.get(name), int) else None for name in ("completion_tokens", "prompt_tokens")
        )
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise Useless("no `choices` with a message") from error
    if not isinstance(text, str):
        raise Useless("the message's content is no text")
    ends: dict[str, Finish] = {"length": "length", "content_filter": "refused"}
    return text, tokens, None if finish is None else ends.get(finish, "stop"), prompt_tokens
