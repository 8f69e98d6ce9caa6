"""A batch through a server: patience with each request, error lines for what fails, and -9 at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmops.client import Patience, Server
from llmops.errors import EnvironmentFault, InputError
from llmops.events import Silent
from llmops.lifecycle.batch import Batched, batch
from llmops.lifecycle.batch_endpoint import Through
from llmops.lifecycle.batch_input import Form
from tests.eval.chat_server import Reply, Served, chat, echo, serving
from tests.lifecycle.test_batch import lines, openai_row, written
from tests.patience import HANG_S

ROOT = Path(__file__).parents[2]
SOON = Patience(timeout_s=HANG_S, attempts=2, first_wait_s=0.001)


def run(served: Served, source: Path, output: Path, *, concurrency: int = 4, **options: Any) -> Batched:
    ask = Through(Server(served.url, concurrency=concurrency, patience=SOON))
    return batch(source, output, Form("m"), ask, listener=Silent(), **options)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return written(tmp_path / "in.jsonl", [openai_row(f"id-{number}", f"q{number}", seed=1) for number in range(30)])


def test_each_row_gets_the_answer_to_its_own_request_at_its_own_path(source: Path, tmp_path: Path) -> None:
    def says(number: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.01 * (number % 3))
        return echo(number, body)

    with serving(says) as served:
        run(served, source, tmp_path / "out.jsonl")
    out = lines(tmp_path / "out.jsonl")
    assert [line["response"]["body"]["choices"][0]["message"]["content"] for line in out] == [
        f"to q{number}" for number in range(30)
    ]
    assert set(served.paths) == {"/v1/chat/completions"}
    assert {(body["model"], body["seed"]) for body in served.asked} == {("m", 1)}
    assert 1 < served.most_at_once <= 4


def test_a_refusal_is_the_servers_own_words_and_a_lasting_fault_says_what_was_seen(
    source: Path, tmp_path: Path
) -> None:
    refusal = json.dumps({"error": {"message": "too long", "type": "invalid", "code": "context_length_exceeded"}})

    def says(_: int, body: dict[str, Any]) -> Reply:
        match body["messages"][-1]["content"]:
            case "q3":
                return 400, {"x-request-id": "req-3"}, refusal.encode()
            case "q5":
                return 500, {}, b"out of memory"
            case "q6":
                return 200, {}, b'{"choices": [{"message": {"content": "x"}, "logprobs": NaN}]}'
        return chat("fine")

    with serving(says) as served:
        done = run(served, source, tmp_path / "out.jsonl")
    out = lines(tmp_path / "out.jsonl")
    assert done.failed == 3
    assert out[3]["response"] == {"status_code": 400, "request_id": "req-3", "body": json.loads(refusal)}
    assert out[3]["error"] == {"code": "context_length_exceeded", "message": "too long"}
    assert out[5]["error"] == {"code": "server_error", "message": "status 500: out of memory"}
    assert out[6]["error"]["code"] == "server_error"
    assert [number for number, line in enumerate(out) if line["error"]] == [3, 5, 6]


@pytest.mark.parametrize("usage", [[], {"prompt_tokens": "many"}, None])
def test_a_count_of_tokens_that_is_none_does_not_end_a_batch(tmp_path: Path, usage: Any) -> None:
    reply = {"choices": [{"message": {"content": "x"}}], "usage": usage}
    source = written(tmp_path / "in.jsonl", [openai_row("a", "q")])
    with serving(lambda *_: (200, {}, json.dumps(reply).encode())) as served:
        done = run(served, source, tmp_path / "out.jsonl")
    assert (done.failed, done.prompt_tokens, done.completion_tokens) == (0, 0, 0)


def test_a_server_that_is_down_for_good_ends_the_work_and_marks_no_row(source: Path, tmp_path: Path) -> None:
    def says(number: int, body: dict[str, Any]) -> Reply:
        return (503, {}, b"loading") if number > 12 else echo(number, body)

    with serving(says) as served, pytest.raises(EnvironmentFault, match="run the same command again"):
        run(served, source, tmp_path / "out.jsonl")
    with serving(echo) as served:
        assert run(served, source, tmp_path / "out.jsonl").failed == 0
    assert len(served.asked) == 30 - 12


def test_a_wrong_key_ends_the_work_at_once(source: Path, tmp_path: Path) -> None:
    with serving(lambda *_: (401, {}, b"who are you")) as served, pytest.raises(InputError, match="401"):
        run(served, source, tmp_path / "out.jsonl")
    assert len(served.asked) <= 8


def started(served: Served, source: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llmops.cli.main", "batch", "m", str(source), str(output)]
    return subprocess.Popen(
        [*command, "--endpoint", served.url, "--concurrency", "8", "--attempts", "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_killed_with_9_at_random_moments_it_ends_with_each_row_once_and_in_order(tmp_path: Path) -> None:
    """Real processes; the moments lie anywhere from its start to the output's being put in place."""
    rows = 400
    source = written(tmp_path / "in.jsonl", [openai_row(f"id-{number}", f"q{number}") for number in range(rows)])
    output, draw, kills, journal = tmp_path / "out.jsonl", random.Random(5), 0, 0

    def says(number: int, body: dict[str, Any]) -> Reply:
        time.sleep(draw.uniform(0, 0.05))
        return echo(number, body)

    with serving(says) as served:
        for wait in [0.3, *(draw.uniform(0.0, 0.5) for _ in range(7))]:
            process = started(served, source, output)
            assert process.stdout is not None
            begun = len(served.asked)
            until = time.monotonic() + HANG_S
            # Importing takes longer than the work: the moment counts from its first request.
            while wait > 0.05 and len(served.asked) == begun and process.poll() is None and time.monotonic() < until:
                time.sleep(0.002)
            time.sleep(wait)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
            process.communicate()
            if output.exists():
                break
            journal = max(journal, (tmp_path / "out.jsonl.journal").stat().st_size)
        while True:
            process = started(served, source, output)
            said, _ = process.communicate(timeout=2 * HANG_S)
            if process.returncode == 0:
                break
    assert kills >= 2
    assert journal > 1000
    out = lines(output)
    assert [line["custom_id"] for line in out] == [f"id-{number}" for number in range(rows)]
    assert all(
        line["response"]["body"]["choices"][0]["message"]["content"] == f"to q{number}"
        for number, line in enumerate(out)
    )
    assert b"400 of 400 answered" in said
    # What was under way at a kill is asked again, and no more than that.
    assert len(served.asked) <= rows + kills * 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.batch.json"]


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    """What is held is measured by Python itself, for a file and one of twice its length."""
    import tracemalloc

    from tests.lifecycle.test_batch import Echo

    peaks = []
    for rows in (10, 3000, 6000):  # the first imports what is imported once
        source = written(
            tmp_path / f"{rows}.jsonl", [openai_row(f"id-{number}", f"q{number} " * 50) for number in range(rows)]
        )
        ask = Echo()
        ask.asked = Forgetful()
        tracemalloc.start()
        batch(source, tmp_path / f"{rows}.out.jsonl", Form("m"), ask, listener=Silent())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 9 bytes a row in the journal and 8 or 16 for its id, and no more: a row itself has some hundreds.
    assert peaks[2] - peaks[1] < 3000 * 40


class Forgetful(list[str]):
    def append(self, _: str) -> None:
        pass
