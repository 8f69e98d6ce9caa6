"""A request is one line of JSON with its id, without bodies and secrets; a log nobody reads holds up nobody."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import struct
import termios
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from llmops.serve.following import MOST, Following
from llmops.serve.request_log import JsonLines, RequestLog
from tests.patience import HANG_S, wait_until
from tests.serve.entries import an_entry


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]


def test_a_request_is_a_line_with_what_is_known_of_it(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "logs" / "gateway.log")
    entry = an_entry(at=1e9 + 0.5, error=None, session="digest")
    log.record(entry)
    log.record(an_entry(id="second", status=503, route="line\nend\u2028\ud800"))
    log.close()
    first, second = lines(tmp_path / "logs" / "gateway.log")
    assert first == {
        "time": "2001-09-09T01:46:40.500+00:00", "level": "info", "message": "request", "request_id": entry.id,
        "endpoint": "/v1/chat/completions", "status": 200, "key": "k1", "route": "auto", "engine": "small",
        "version": "models:/m/3", "reason": "short", "prompt_tokens": 12, "completion_tokens": 5, "cached_tokens": 4,
        "first_token": 0.02, "total": 0.1, "usd": 0.001, "retries": 0, "tags": ["team=x"],
    }  # fmt: skip
    assert (second["level"], second["request_id"], second["route"]) == ("error", "second", "line\nend\u2028\ud800")


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "gateway.log"
    log = RequestLog(file)
    log.say("before")
    wait_until(lambda: file.exists() and file.stat().st_size)
    file.rename(tmp_path / "gateway.log.1")
    log.say("after", level="warning", why="rotated")
    log.close()
    assert [one["message"] for one in lines(tmp_path / "gateway.log.1")] == ["before"]
    assert [(one["message"], one["level"], one["why"]) for one in lines(file)] == [("after", "warning", "rotated")]


def test_what_the_program_logs_is_a_line_too(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log")
    logger = logging.Logger("llmops.gateway")
    logger.addHandler(JsonLines(log))
    try:
        raise OSError("gone")
    except OSError:
        logger.exception("request %s failed", "r1")
    log.close()
    (line,) = lines(tmp_path / "log")
    assert (line["message"], line["level"], line["logger"]) == ("request r1 failed", "error", "llmops.gateway")
    assert "OSError: gone" in str(line["traceback"])


def test_without_a_file_lines_go_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    log = RequestLog()
    log.say("hello")
    log.close()
    assert json.loads(capfd.readouterr().err)["message"] == "hello"


def test_a_disk_that_is_full_loses_lines_and_counts_them() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    log = RequestLog(Path("/dev/full"))
    log.record(an_entry())
    log.close()
    assert log.dropped == 1


def test_a_reader_that_stands_still_holds_up_nobody(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log = RequestLog(pipe)
    entry = an_entry(reason="r" * 500)
    for number in range(500):  # more than a pipe holds
        log.record(replace(entry, id=str(number)))
    wait_until(lambda: held_by(reader) > 60_000)  # the pipe is full and the writer stands
    log.say("and more")
    log.close()
    assert log._following._thread.is_alive(), "nobody waited for the reader"
    os.close(reader)
    log._following._thread.join(HANG_S)
    assert not log._following._thread.is_alive()


def held_by(pipe: int) -> int:
    """Bytes that wait to be read."""
    (number,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"))
    return int(number)


def test_of_more_than_may_wait_the_oldest_are_lost_and_counted() -> None:
    go = threading.Event()
    following: Following[int] = Following(lambda some: wait_until(go.is_set), name="slow", most=10)
    for number in range(50):
        following.put(str(number), number)
    assert following.dropped == 40
    go.set()
    assert following.close(wait_s=HANG_S)
    assert MOST >= 10_000
