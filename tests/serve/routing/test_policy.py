"""The engine of a request is what its route says of it: by size, in a cascade, in a rollout, with a shadow."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import InputError
from llmops.serve.hooks import Ask, Choice, Policy
from llmops.serve.refusal import Refusal
from llmops.serve.routing.policy import Routing, routers_of
from llmops.serve.routing.router import Confidence, Router
from llmops.serve.settings import Gateway
from llmops.serve.targets import Replica, Target, Targets
from tests.serve.routing.test_choose import router

ENGINES = {name: {"url": f"http://{name}/v1", "model": name} for name in ("small", "large", "next")}
BY_SIZE = {"policy": "size", "small": "small", "large": "large"}
CASCADE = {"policy": "cascade", "small": "small", "large": "large"}
LONG = "word " * 2000


class Served:
    """A gateway's policy, its clock in hand."""

    def __init__(
        self, route: dict[str, Any], *, learned: Router | None = None, small_context: int | None = None
    ) -> None:
        self.settings = Gateway.model_validate({"engines": ENGINES, "routes": {"auto": route}}).routes["auto"]
        self.now = 0.0
        self.endpoint = "/v1/chat/completions"
        targets = Targets()
        targets.set("small", [Target(Replica("small", 0, "http://small"), "small", "small", max_length=small_context)])
        self.policy: Policy = Routing({"auto": learned} if learned else {}, targets, clock=lambda: self.now)

    def ask(self, content: Any = "hello", *, caller: str | None = None, headers: Any = None, **body: Any) -> Ask:
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        body = {"model": "auto", "messages": messages, **body}
        return Ask("auto", self.settings, self.endpoint, body, headers or {}, caller)

    def choose(self, *content: Any, **others: Any) -> Choice:
        return self.policy.choose(self.ask(*content, **others))


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def test_one_engine_answers_everything() -> None:
    served = Served({"policy": "direct", "engine": "small"})
    found = served.choose(LONG)
    assert (found.engine, found.larger, found.side, found.shadow) == ("small", None, None, None)
    assert found.reason.startswith("direct: ")


def test_routine_requests_go_to_the_small_model_and_long_ones_to_the_large() -> None:
    served = Served({**BY_SIZE, "small_tokens": 300})
    assert served.choose("hello").engine == "small"
    assert served.choose("hello").reason.startswith("routine: ")
    assert served.choose(LONG).engine == "large"
    assert served.choose(LONG).reason.startswith("length: ")


def test_a_router_decides_where_there_is_one() -> None:
    assert Served(BY_SIZE, learned=router(0.2, gap=0.3)).choose("What is the capital?").engine == "large"
    assert Served(BY_SIZE, learned=router(0.4, gap=0.3)).choose("What is the capital?").engine == "small"


def test_the_small_models_context_counts_prompt_and_answer() -> None:
    served = Served(BY_SIZE, small_context=100)
    assert served.choose("hello").engine == "small"
    found = served.choose("hello", max_tokens=95)
    assert (found.engine, found.reason.split(":")[0]) == ("large", "context")
    assert Served(BY_SIZE).choose("hello", max_tokens=95).engine == "small"


def test_a_header_overrides() -> None:
    served = Served(BY_SIZE)
    assert served.choose("hello", headers={"x-llmops-size": "large"}).reason == "asked: by header"
    assert served.choose("hello", headers={"x-llmops-size": "Large"}).engine == "large"
    assert served.choose(LONG, headers={"x-llmops-size": "small"}).engine == "small"
    with pytest.raises(Refusal) as refused:
        served.choose("hello", headers={"x-llmops-size": "medium"})
    assert refused.value.status == 400


def test_a_conversation_moves_up_and_never_down() -> None:
    served = Served(BY_SIZE)
    assert served.choose(talk("hello")).engine == "small"
    assert served.choose(talk("hello", "hi", LONG)).engine == "large"
    found = served.choose(talk("hello", "hi", "thanks"))
    assert (found.engine, found.reason.split(":")[0]) == ("large", "session")
    assert served.choose(talk("hey", "hi", "thanks")).engine == "small", "another conversation"
    assert served.choose(talk("hello", "hi", "thanks"), caller="other").engine == "small"


def test_a_conversation_that_only_begins_alike_is_another() -> None:
    served = Served(BY_SIZE)
    served.choose("hello", headers={"x-llmops-size": "large"})
    assert served.choose("hello").engine == "small"


def test_a_session_by_id_moves_up_from_its_first_message() -> None:
    served = Served(BY_SIZE)
    session = {"x-session-id": "s"}
    assert served.choose(LONG, headers=session).engine == "large"
    assert served.choose("something else", headers=session).engine == "large"
    assert served.choose("something else", headers={"x-session-id": "t"}).engine == "small"


def test_after_its_hours_a_conversation_begins_anew() -> None:
    served = Served({**BY_SIZE, "session_hours": 2})
    session = {"x-session-id": "s"}
    served.choose(LONG, headers=session)
    served.now = 7199.0
    assert served.choose("hello", headers=session).engine == "large"
    served.now = 7199.0 + 7200.0
    assert served.choose("hello", headers=session).engine == "small"


def test_sessions_outlive_a_reload() -> None:
    served = Served(BY_SIZE)
    session = {"x-session-id": "s"}
    served.choose(LONG, headers=session)
    assert isinstance(served.policy, Routing)
    served.policy = Routing({}, Targets(), sessions=served.policy.sessions, clock=lambda: 1.0)
    assert served.choose("hello", headers=session).engine == "large"


def probabilities(*values: float) -> list[list[float]]:
    return [[math.log(value) for value in values]]


def test_a_cascade_asks_the_small_model_first_and_goes_on_where_it_is_not_sure() -> None:
    served = Served({**CASCADE, "confidence": 0.8})
    ask = served.ask("hello")
    found = served.policy.choose(ask)
    assert (found.engine, found.larger) == ("small", "large")
    assert served.policy.sure(ask, probabilities(0.9, 0.7))
    assert not served.policy.sure(ask, probabilities(0.9, 0.6))
    assert not served.policy.sure(ask, [])


BOUND: dict[str, Any] = {"scores": (0.5, 1.0), "values": (0.0, 1.0), "at_least": 0.7}


def test_a_cascade_by_a_router_uses_its_calibrated_bound() -> None:
    learned = router(0.2).model_copy(update={"confidence": Confidence.model_construct(**BOUND)})
    served = Served({**CASCADE, "confidence": 0.1}, learned=learned)
    ask = served.ask("hello")
    assert served.policy.sure(ask, probabilities(0.9))
    assert not served.policy.sure(ask, probabilities(0.8))


def test_an_answer_that_went_on_moves_its_conversation_up() -> None:
    served = Served(CASCADE)
    ask = served.ask(talk("hello"))
    served.policy.choose(ask)
    assert not served.policy.sure(ask, probabilities(0.1))
    found = served.choose(talk("hello", "hi", "thanks"))
    assert (found.engine, found.larger, found.reason.split(":")[0]) == ("large", None, "session")


def test_an_answer_that_stood_leaves_its_conversation_where_it_is() -> None:
    served = Served(CASCADE)
    ask = served.ask(talk(LONG))
    served.policy.choose(ask)
    assert served.policy.sure(ask, probabilities(0.9))
    assert served.choose(talk(LONG, "hi", "thanks")).larger == "large"


def test_a_stream_in_a_cascade_is_routed_by_size() -> None:
    served = Served(CASCADE)
    assert served.choose("hello", stream=True).larger is None
    assert served.choose("hello", stream=True).engine == "small"
    assert served.choose(LONG, stream=True).engine == "large"
    assert served.choose(LONG).engine == "small", "an answer in one piece can be taken back"


def test_a_cascades_streams_are_routed_by_its_own_numbers() -> None:
    served = Served({**CASCADE, "small_tokens": 50, "session_hours": 1})
    session = {"x-session-id": "s"}
    assert served.choose("word " * 5, headers=session, stream=True).engine == "small"
    assert served.choose("word " * 100, headers=session, stream=True).engine == "large"
    served.now = 3599.0
    assert served.choose("hello", headers=session, stream=True).engine == "large"
    served.now = 3599.0 + 3600.0
    assert served.choose("hello", headers=session, stream=True).engine == "small"


@pytest.mark.parametrize("endpoint", ["/v1/responses", "/v1/messages"])
def test_where_answers_say_no_probabilities_a_cascade_is_by_size(endpoint: str) -> None:
    served = Served(CASCADE)
    served.endpoint = endpoint
    assert (served.choose("hello").engine, served.choose("hello").larger) == ("small", None)
    assert served.choose(LONG).engine == "large"


def test_what_cannot_fit_the_small_model_is_not_asked_of_it_first() -> None:
    found = Served(CASCADE, small_context=50).choose(LONG)
    assert (found.engine, found.larger) == ("large", None)


ROLLOUT = {"engine": "large", "to": "next", "share": 0.5}


def test_a_rollout_takes_its_share_of_the_engine_it_names_and_no_other() -> None:
    served = Served({**BY_SIZE, "rollout": ROLLOUT})
    found = [served.choose(LONG, headers={"x-session-id": str(n)}) for n in range(60)]
    assert {(one.engine, one.side) for one in found} == {("large", "a"), ("next", "b")}
    small = served.choose("hello", headers={"x-session-id": "new"})
    assert (small.engine, small.side) == ("small", None)


def test_a_rollout_of_either_engine_of_a_cascade() -> None:
    up = Served({**CASCADE, "rollout": {**ROLLOUT, "share": 1}}).choose("hello")
    assert (up.engine, up.larger, up.side) == ("small", "next", "b")
    first = Served({**CASCADE, "rollout": {**ROLLOUT, "engine": "small", "share": 1}}).choose("hello")
    assert (first.engine, first.larger, first.side) == ("next", "large", "b")


def test_a_session_stays_on_its_side() -> None:
    served = Served({"policy": "direct", "engine": "large", "rollout": ROLLOUT})
    first = served.choose(talk("hello"))
    assert served.choose(talk("hello", "hi", "and?")).side == first.side


def test_a_shadow_gets_copies_of_its_share() -> None:
    served = Served({"policy": "direct", "engine": "small", "shadow": {"to": "next", "share": 0.3}})
    copied = [served.choose("hello", headers={"x-request-id": str(n)}).shadow for n in range(300)]
    assert set(copied) == {None, "next"}
    assert 50 < copied.count("next") < 140
    turns = [served.choose(talk(*["x"] * (2 * n + 1))).shadow for n in range(60)]
    assert set(turns) == {None, "next"}, "turns of one conversation are chosen each for itself"


def test_each_route_names_its_router(tmp_path: Path) -> None:
    settings = {"engines": ENGINES, "routes": {"auto": {**BY_SIZE, "router": str(tmp_path / "router.json")}}}
    with pytest.raises(InputError, match="llmops route calibrate"):
        routers_of(Gateway.model_validate(settings))
    assert routers_of(Gateway.model_validate({"engines": ENGINES, "routes": {"auto": BY_SIZE}})) == {}
