"""OpenAI's own client, in the version installed, gets from the gateway what it gets from an engine itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from llmops.serve.targets import Replica, Target
from tests.patience import once_in_three, wait_until
from tests.real_vllm import WITH_VLLM
from tests.serve.clients import WORDS, entry_of, stream
from tests.serve.fake_engine import plain, saying, speaking
from tests.serve.gateways import Running, running, settings
from tests.serve.vllm_server import NAME, vllm_server

HI: Any = [{"role": "user", "content": "hello there"}]
ROUTES = {"m": {"policy": "direct", "engine": "small"}}


def client(url: str, **others: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", **{"max_retries": 0, **others})


@pytest.fixture(scope="module")
def fake() -> Iterator[Running]:
    with running({"small": [speaking()]}) as gateway:
        yield gateway


def test_sync_and_async_whole_and_streamed_say_the_same(fake: Running) -> None:
    async def later() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{fake.url}/v1", api_key="none", max_retries=0) as asking:
            whole = await asking.chat.completions.create(model="m", messages=HI)
            parts = [
                part.choices[0].delta.content or ""
                async for part in await asking.chat.completions.create(model="m", messages=HI, stream=True)
            ]
            return whole.choices[0].message.content or "", "".join(parts)

    with client(fake.url) as asking:
        whole = asking.chat.completions.create(model="m", messages=HI)
        streamed = asking.chat.completions.create(model="m", messages=HI, stream=True)
        parts = "".join(part.choices[0].delta.content or "" for part in streamed)
        said = whole.choices[0].message.content
    assert said == parts == "hello wörld!"
    assert asyncio.run(later()) == (said, parts)


@pytest.mark.parametrize(
    ("answered", "error"),
    [
        (plain(400, {"error": {"message": "no"}}), openai.BadRequestError),
        (plain(429, {"error": "slow"}), openai.RateLimitError),
        (plain(500, {}), openai.InternalServerError),
    ],
)
def test_errors_are_the_clients_own(answered: bytes, error: type[openai.APIStatusError]) -> None:
    with running({"small": [saying(answered)]}) as gateway, client(gateway.url) as asking:
        for streamed in (False, True):
            with pytest.raises(error) as raised:
                asking.chat.completions.create(model="m", messages=HI, stream=streamed)
            assert raised.value.request_id
            assert "message" in (raised.value.body or {})  # type: ignore[operator]


def test_an_unknown_model_and_an_unreadable_request_are_told_apart(fake: Running) -> None:
    with client(fake.url) as asking:
        with pytest.raises(openai.NotFoundError) as unknown:
            asking.chat.completions.create(model="other", messages=HI)
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError):
            asking.chat.completions.create(model="m", messages=[])
        assert [one.id for one in asking.models.list()] == ["m"]
        assert asking.models.retrieve("m").id == "m"


def test_a_cut_in_mid_stream_is_raised() -> None:
    with (
        running({"small": [saying(stream(*WORDS[:2], done=False), then="close")]}) as gateway,
        client(gateway.url) as asking,
        pytest.raises(openai.APIError, match="in the middle"),
    ):
        list(asking.chat.completions.create(model="m", messages=HI, stream=True))


def test_its_own_retries_are_each_one_row_of_the_ledger() -> None:
    with running({"small": [saying(plain(503, {}))]}, settings(limits={"retry_share": 0})) as gateway:
        with client(gateway.url, max_retries=1) as asking, pytest.raises(openai.InternalServerError):
            asking.chat.completions.create(model="m", messages=HI)
        wait_until(lambda: len(gateway.notes.entries) >= 2)
        assert [(one.status, one.retries) for one in gateway.notes.entries] == [(503, 0)] * 2


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, openai.OpenAI, openai.OpenAI]]:
    with vllm_server(tmp_path_factory.mktemp("vllm")) as engine:
        target = Target(Replica("small", 0, engine, state="ready"), NAME, "small/1", max_length=128)
        with (
            running({}, settings(ROUTES), addresses={"small": [target]}) as gateway,
            client(gateway.url, timeout=60) as through,
            client(engine, timeout=60) as itself,
        ):
            yield gateway, through, itself


class TestAgainstVllm:
    """The same request through the gateway and to the engine itself."""

    pytestmark = WITH_VLLM

    @pytest.mark.parametrize(
        "ask",
        [
            {},
            {"logprobs": True, "top_logprobs": 3},
            {"n": 2, "temperature": 1.0, "seed": 7},
            {"stop": ["e"]},
            {"seed": 3, "temperature": 0.9},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "boolean"}},
                }
            },
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
        ],
        ids=["plain", "logprobs", "n", "stop", "seed", "schema", "tools"],
    )
    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
    def test_chat_is_the_engines(self, both: Any, ask: dict[str, Any], streamed: bool) -> None:
        _, through, itself = both
        made = {"messages": HI, "max_tokens": 12, "temperature": 0, **ask}
        assert said(through, "m", made, streamed=streamed) == said(itself, NAME, made, streamed=streamed)

    def test_a_schema_is_kept_to(self, both: Any) -> None:
        _, through, _ = both
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "boolean"}}}
        answer = through.chat.completions.create(model="m", messages=HI, response_format=form, max_tokens=8)
        assert json.loads(answer.choices[0].message.content) in (True, False)

    @pytest.mark.parametrize("options", [None, {"include_usage": True}], ids=["not asked", "asked"])
    def test_usage_of_a_stream_is_written_down_and_shown_as_asked(self, both: Any, options: Any) -> None:
        gateway, through, _ = both
        extra = {"stream_options": options} if options else {}
        got = through.chat.completions.create(model="m", messages=HI, stream=True, max_tokens=9, **extra)
        parts = list(got)
        shown = [part.usage for part in parts if part.usage is not None]
        assert len(shown) == (1 if options else 0)
        assert all(part.choices for part in parts if part.usage is None)
        entry = entry_of(gateway, got.response.headers)
        assert entry.completion_tokens <= 9
        if options:
            assert (entry.prompt_tokens, entry.completion_tokens) == (
                shown[0].prompt_tokens,
                shown[0].completion_tokens,
            )

    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
    def test_completions_are_the_engines(self, both: Any, streamed: bool) -> None:
        _, through, itself = both

        def text(asking: openai.OpenAI, model: str) -> Any:
            got: Any = asking.completions.create(
                model=model, prompt=["hello", "there"], max_tokens=8, temperature=0, logprobs=2, stream=streamed
            )
            words: dict[int, str] = {}
            for part in got if streamed else [got]:
                for choice in part.choices:
                    words[choice.index] = words.get(choice.index, "") + choice.text
            return words

        assert text(through, "m") == text(itself, NAME)
        assert len(text(through, "m")) == 2

    def test_responses_are_passed_through(self, both: Any) -> None:
        _, through, itself = both
        got = through.responses.create(model="m", input="hello", max_output_tokens=8, temperature=0)
        own = itself.responses.create(model=NAME, input="hello", max_output_tokens=8, temperature=0)
        assert (got.model, got.output_text) == ("m", own.output_text)
        events = list(
            through.responses.create(model="m", input="hello", max_output_tokens=8, temperature=0, stream=True)
        )
        assert events[-1].type in ("response.completed", "response.incomplete")
        assert events[-1].response.output_text == own.output_text

    @pytest.mark.parametrize(
        ("ask", "status"),
        [
            ({"messages": [{"role": "user", "content": "hello " * 300}]}, 400),
            ({"messages": HI, "max_tokens": 100_000}, 400),
            ({"messages": HI, "temperature": -3}, 400),
            ({"messages": HI, "response_format": {"type": "json_schema"}}, 400),
            ({"messages": HI, "max_tokens": "many"}, 400),
            ({"messages": HI, "tools": "none"}, 400),
        ],
    )
    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
    def test_what_the_engine_refuses_is_refused(
        self, both: Any, ask: dict[str, Any], status: int, streamed: bool
    ) -> None:
        _, through, _ = both
        with pytest.raises(openai.APIStatusError) as raised:
            through.chat.completions.create(model="m", stream=streamed, **ask)
        assert raised.value.status_code == status
        too_long = "messages" in ask and (ask["messages"] != HI or ask.get("max_tokens") == 100_000)
        assert raised.value.code == ("context_length_exceeded" if too_long else None)
        assert set(raised.value.body or ()) == {"message", "type", "param", "code"}  # type: ignore[call-overload]
        assert NAME not in raised.value.message

    def test_an_endpoint_the_engine_has_not_is_not_found(self, both: Any) -> None:
        _, through, _ = both
        with pytest.raises(openai.APIStatusError) as raised:
            through.embeddings.create(model="m", input="hello")
        assert raised.value.status_code in (400, 404)

    def test_leaving_frees_the_engine(self, both: Any) -> None:
        gateway, through, _ = both

        @once_in_three
        def leave() -> None:
            got = through.chat.completions.create(
                model="m", messages=HI, stream=True, max_tokens=100, extra_body={"ignore_eos": True}
            )
            next(iter(got))
            got.close()
            # Not because it had said all; how soon is held in test_leaving.py.
            assert entry_of(gateway, got.response.headers).error == "client_left"

        leave()
        (target,) = gateway.targets.of("small")
        assert target.replica.in_flight == 0


def said(asking: openai.OpenAI, model: str, ask: dict[str, Any], *, streamed: bool) -> list[Any]:
    """Of each choice: text, end, number of tokens with probabilities."""
    got: Any = asking.chat.completions.create(model=model, stream=streamed, **ask)
    choices: dict[int, list[Any]] = {}
    for part in got if streamed else [got]:
        assert part.model == model
        for choice in part.choices:
            whole = choices.setdefault(choice.index, ["", None, 0])
            whole[0] += (choice.delta if streamed else choice.message).content or ""
            assert not (whole[1] and choice.finish_reason), "a choice ended twice"
            whole[1] = whole[1] or choice.finish_reason
            whole[2] += len(choice.logprobs.content or ()) if choice.logprobs else 0
    assert all(one[1] for one in choices.values())
    return [choices[index] for index in sorted(choices)]
