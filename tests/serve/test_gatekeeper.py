"""Who has a valid key is let in, to its routes and within its limits; a change of the file counts within a second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmops.errors import EnvironmentFault
from llmops.serve.gatekeeper import LOOK_EVERY_S, KeyFile
from llmops.serve.hooks import Gatekeeper
from llmops.serve.keys import create, revoke
from llmops.serve.limits import SLOT_S, WINDOW_S, Spending
from llmops.serve.refusal import Refusal

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)


class Clocks:
    """Wall and monotonic time, moved by hand."""

    def __init__(self) -> None:
        self.wall = NOW.timestamp()
        self.seconds = 1000.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def opened(file: Path, clocks: Clocks, told: list[str] | None = None, spending: Spending | None = None) -> KeyFile:
    return KeyFile(
        file,
        spending or Spending(),
        tell=(told if told is not None else []).append,
        clock=lambda: clocks.wall,
        monotonic=lambda: clocks.seconds,
    )


def refused(status: int, code: str, gate: Gatekeeper, secret: str | None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        gate.who(secret)
    assert (caught.value.status, caught.value.code) == (status, code)
    return caught.value


def test_a_key_names_its_caller_and_its_tags(file: Path, clocks: Clocks) -> None:
    made, secret = create(file, "ann", now=NOW, tags={"team": "x", "app": "y"})
    caller = opened(file, clocks).who(secret)
    assert (caller.id, caller.tags) == (made.id, ("app=y", "team=x"))


def test_what_is_no_valid_key_gets_401(file: Path, clocks: Clocks) -> None:
    made, secret = create(file, "ann", now=NOW)
    _, short = create(file, "bob", now=NOW, expires=NOW + timedelta(hours=1))
    _, gone = create(file, "eve", now=NOW)
    revoke(file, "eve", now=NOW)
    gate = opened(file, clocks)
    for wrong in (None, "", "x", "sk-llmops-", secret[:-1], secret + "x", secret.upper(), made.sha256, "\ud800é"):
        said = refused(401, "invalid_api_key", gate, wrong)
        assert made.id not in said.message
    assert gate.who(short)
    clocks.wall += 3600
    assert "expired" in refused(401, "invalid_api_key", gate, short).message
    assert "revoked" in refused(401, "invalid_api_key", gate, gone).message
    assert secret not in repr(gate.who(secret))


def test_routes_that_are_named_are_the_only_ones(file: Path, clocks: Clocks) -> None:
    _, some = create(file, "ann", now=NOW, routes=["a", "b"])
    _, every = create(file, "bob", now=NOW)
    gate = opened(file, clocks)
    assert [gate.may(gate.who(some), route) for route in ("a", "b", "c")] == [True, True, False]
    assert gate.may(gate.who(every), "c")


def test_beyond_its_requests_a_key_waits_exactly_as_long_as_it_is_told(file: Path, clocks: Clocks) -> None:
    _, secret = create(file, "ann", now=NOW, rpm=3)
    gate = opened(file, clocks)
    caller = gate.who(secret)
    for _ in range(3):
        gate.reserve(caller, 1)
    clocks.seconds += 10
    with pytest.raises(Refusal) as caught:
        gate.reserve(caller, 1)
    assert (caught.value.status, caught.value.code, caught.value.kind) == (429, "rate_limit_exceeded", "requests")
    assert caught.value.retry_after == WINDOW_S + SLOT_S - 10
    clocks.seconds += caught.value.retry_after
    assert gate.reserve(caller, 1)


def test_tokens_are_reserved_and_settled_by_what_was_used(file: Path, clocks: Clocks) -> None:
    _, secret = create(file, "ann", now=NOW, tpm=100)
    gate = opened(file, clocks)
    caller = gate.who(secret)
    first = gate.reserve(caller, 90)
    with pytest.raises(Refusal) as caught:
        gate.reserve(caller, 20)
    assert (caught.value.status, caught.value.kind) == (429, "tokens")
    first.settle(30, None)
    first.settle(0, None)  # a second time counts for nothing
    second = gate.reserve(caller, 70)
    second.settle(None, None)  # nobody knows what it used: what was reserved stays taken
    with pytest.raises(Refusal):
        gate.reserve(caller, 1)


def test_a_request_that_is_refused_takes_nothing(file: Path, clocks: Clocks) -> None:
    _, secret = create(file, "ann", now=NOW, rpm=2, tpm=100)
    gate = opened(file, clocks)
    caller = gate.who(secret)
    gate.reserve(caller, 100)
    for _ in range(5):
        with pytest.raises(Refusal) as caught:
            gate.reserve(caller, 50)
        assert caught.value.kind == "tokens"
    assert gate.reserve(caller, 0)


def test_what_never_fits_is_413_so_that_no_client_tries_again(file: Path, clocks: Clocks) -> None:
    _, secret = create(file, "ann", now=NOW, tpm=100)
    gate = opened(file, clocks)
    with pytest.raises(Refusal) as caught:
        gate.reserve(gate.who(secret), 101)
    assert (caught.value.status, caught.value.retry_after) == (413, None)


def test_a_budget_that_is_spent_is_insufficient_quota_until_the_month_ends(file: Path, clocks: Clocks) -> None:
    made, secret = create(file, "ann", now=NOW, budget_usd=2.0)
    spending = Spending()
    spending.begin(clocks.wall, {made.id: 1.5})
    gate = opened(file, clocks, spending=spending)
    caller = gate.who(secret)
    gate.reserve(caller, 10).settle(10, 0.5)
    with pytest.raises(Refusal) as caught:
        gate.reserve(caller, 10)
    assert (caught.value.status, caught.value.code, caught.value.kind) == (
        429,
        "insufficient_quota",
        "insufficient_quota",
    )
    december = datetime(2026, 12, 1, tzinfo=UTC)
    assert caught.value.retry_after == (december - NOW).total_seconds()
    clocks.wall = december.timestamp()
    assert gate.reserve(caller, 10)


def test_a_wall_clock_that_jumps_changes_no_rate(file: Path, clocks: Clocks) -> None:
    _, secret = create(file, "ann", now=NOW, rpm=1)
    gate = opened(file, clocks)
    caller = gate.who(secret)
    gate.reserve(caller, 1)
    for jump in (1e6, -2e6):
        clocks.wall += jump
        with pytest.raises(Refusal) as caught:
            gate.reserve(caller, 1)
        assert caught.value.retry_after == WINDOW_S + SLOT_S


def test_a_changed_file_counts_within_a_second(file: Path, clocks: Clocks) -> None:
    _, first = create(file, "ann", now=NOW)
    told: list[str] = []
    gate = opened(file, clocks, told)
    assert gate.who(first)
    _, second = create(file, "bob", now=NOW)
    revoke(file, "ann", now=NOW)
    clocks.seconds += 0.999
    assert gate.who(second)
    refused(401, "invalid_api_key", gate, first)
    assert told == [f"keys read again from {file}: 2"]


def test_a_bad_file_keeps_the_keys_tells_it_once_and_is_over_when_it_is_mended(file: Path, clocks: Clocks) -> None:
    _, secret = create(file, "ann", now=NOW, rpm=2)
    good = file.read_bytes()
    told: list[str] = []
    gate = opened(file, clocks, told)
    gate.reserve(gate.who(secret), 1)
    for bad in ("{", None):
        if bad is None:
            file.unlink()
        else:
            file.write_text(bad)
        for _ in range(3):
            clocks.seconds += LOOK_EVERY_S
            assert gate.who(secret)
        assert gate.problem is not None
    assert len(told) == 2
    assert all(line.startswith("the keys stay as they were: ") for line in told)
    file.write_bytes(good)
    clocks.seconds += LOOK_EVERY_S
    caller = gate.who(secret)
    assert gate.problem is None
    gate.reserve(caller, 1)
    with pytest.raises(Refusal):  # what it took before the file changed still counts
        gate.reserve(caller, 1)


def test_without_a_file_nothing_starts(file: Path, clocks: Clocks) -> None:
    with pytest.raises(EnvironmentFault, match="there is no file of keys"):
        opened(file, clocks)
