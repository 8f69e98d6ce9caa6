"""Long work is one live view on a terminal, and plain lines a few a minute elsewhere."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from llmops.cli.progress import _Live, _Plain, describe, duration, watching
from llmops.records import Step
from tests.patience import HANG_S

REPOSITORY = Path(__file__).parents[2]

STEP = Step(
    index=3,
    epoch=0.5,
    loss=2.34567,
    grad_norm=1.5,
    learning_rate=1e-3,
    tokens=1000,
    trained_tokens=400,
    seconds=0.5,
    peak_bytes=3 << 29,
)


def plain_lines(*steps: Step, total: int) -> list[str]:
    text = io.StringIO()
    listener = _Plain(Console(file=text, width=40))
    for step in steps:
        listener.step(step, total)
    return text.getvalue().splitlines()


def test_an_update_is_one_line() -> None:
    said = describe(STEP, 10, 2000.0)
    assert said == "update 3/10  epoch 0.50  loss 2.3457  grad 1.50  2,000 tokens/s  1.50 GiB"
    assert describe(replace(STEP, validation_loss=2.1), 10, 2000.0) == f"{said}  validation 2.1000"


def test_what_a_method_tells_stands_behind_its_loss() -> None:
    step = replace(STEP, measures={"accuracy": 0.8125, "chosen_reward": -0.5}, validation_loss=0.6)
    told = "accuracy 0.812, chosen reward -0.500"
    assert describe(step, 10, 2000.0).endswith(f"1.50 GiB  {told}  validation 0.6000")
    step = replace(step, validation_measures={"accuracy": 0.75})
    assert describe(step, 10, 2000.0).endswith(f"{told}  validation 0.6000  (accuracy 0.750)")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (12, "12 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3600, "1 h 00 min"), (3720, "1 h 02 min")],
)
def test_a_duration_is_read_at_a_glance(seconds: float, said: str) -> None:
    assert duration(seconds) == said


class TestPlainLines:
    def test_are_few_the_first_the_last_and_every_scoring(self) -> None:
        steps = [replace(STEP, index=number) for number in range(1, 101)]
        steps[49] = replace(steps[49], validation_loss=1.9)
        lines = plain_lines(*steps, total=100)
        # The second and third update come at once, far less than ten seconds after the first.
        assert [line.split()[1] for line in lines] == ["1/100", "2/100", "50/100", "100/100"]

    def test_say_how_long_it_takes_and_are_never_broken(self) -> None:
        """At half a second an update, 99 more take 49.5 s; the console is 40 wide, a log has no width."""
        (first,) = plain_lines(replace(STEP, index=1), total=100)
        assert first.endswith("  2,000 tokens/s  1.50 GiB  50 s left")
        (last,) = plain_lines(replace(STEP, index=100), total=100)
        assert "left" not in last

    def test_print_what_looks_like_markup_as_it_is(self) -> None:
        text = io.StringIO()
        _Plain(Console(file=text)).say("data: a [bold]row[/bold] of /path/[x].csv :smile:")
        assert text.getvalue() == "data: a [bold]row[/bold] of /path/[x].csv :smile:\n"

    def test_tell_the_end_of_a_phase_always(self) -> None:
        text = io.StringIO()
        listener = _Plain(Console(file=text))
        for done in range(0, 5001, 100):
            listener.advance("reading rows", done, None)
        for done in range(0, 5001, 100):
            listener.advance("encoding train rows", done, 5000)
        lines = text.getvalue().splitlines()
        assert lines[0] == "reading rows: 0"
        assert lines[-1] == "encoding train rows: 5,000 of 5,000"
        assert len(lines) == 2

    def test_say_in_between_how_fast_a_phase_goes_and_how_long_it_takes(self) -> None:
        """Twenty answers in the eleven seconds after the first four: 1.8 a second, and 22 s for the other 40."""
        text, now = io.StringIO(), 100.0
        listener = _Plain(Console(file=text), clock=lambda: now)
        listener.advance("answers", 4, 64)
        now += 11.0
        listener.advance("answers", 24, 64)
        assert text.getvalue().splitlines() == ["answers: 4 of 64", "answers: 24 of 64  1.8/s  22 s left"]


class TestTheLiveView:
    def test_shows_training_with_loss_speed_memory_and_time_left(self) -> None:
        text = io.StringIO()
        console = Console(file=text, force_terminal=True, width=120, color_system=None)
        live = _Live(console)
        with live.bars:
            live.advance("reading rows", 40, None)
            live.advance("encoding train rows", 40, 40)
            live.say("attention: sdpa: no mask needed")
            live.step(STEP, 10)
            live.bars.refresh()
            shown = text.getvalue().splitlines()
        said = "\n".join(shown)
        assert "attention: sdpa: no mask needed" in said
        last = next(line for line in reversed(shown) if "training" in line)
        assert re.search(r"training +━.* 3/10 +30% .*loss 2\.346  2,000 tokens/s  1\.5 GiB", last), last

    def test_names_every_scoring_for_good(self) -> None:
        text = io.StringIO()
        live = _Live(Console(file=text, force_terminal=True, width=120, color_system=None))
        with live.bars:
            live.step(replace(STEP, validation_loss=2.25), 10)
        assert "validation 2.2500" in text.getvalue()

    def test_shows_the_phase_at_work_alone(self) -> None:
        live = _Live(Console(file=io.StringIO(), force_terminal=True))

        def shown() -> list[str]:
            return [task.description for task in live.bars.tasks]

        # Nobody knows how many rows there are, so only the next phase says that reading is over.
        live.advance("reading rows", 10, None)
        assert shown() == ["reading rows"]
        live.advance("encoding train rows", 10, 20)
        assert shown() == ["encoding train rows"]
        live.advance("encoding train rows", 20, 20)
        assert shown() == []
        live.step(replace(STEP, index=9), 10)
        assert shown() == ["training"]
        # Training that stopped early never reaches its total.
        live.advance("answers", 1, 20)
        assert shown() == ["answers"]
        # A phase of the same name may come again: a suite is answered by two models.
        live.advance("answers", 20, 20)
        live.advance("answers", 1, 20)
        assert shown() == ["answers"]

    def test_leaves_the_last_update_as_a_line(self) -> None:
        text = io.StringIO()
        live = _Live(Console(file=text, force_terminal=True, width=120, color_system=None))
        with live.bars:
            live.step(replace(STEP, index=9), 10)
            live.step(replace(STEP, index=10), 10)
        assert "update 9/10" not in text.getvalue()
        assert "update 10/10" in text.getvalue()


class TestWatching:
    def test_standard_output_stays_the_results(self, capsys: pytest.CaptureFixture[str]) -> None:
        with watching() as listener:
            listener.say("to standard error")
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err == "to standard error\n"

    def test_quiet_says_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        with watching(quiet=True) as listener:
            listener.say("a line")
            listener.advance("rows", 1, 1)
            listener.step(STEP, 10)
        assert capsys.readouterr() == ("", "")

    def test_a_real_terminal_gets_the_live_view_and_is_left_clean(self) -> None:
        """The bars are gone at the end, what was said stays, and the cursor is shown again."""
        seen = on_a_terminal(
            "from tests.cli.test_progress import STEP\n"
            "from llmops.cli.progress import watching\n"
            "with watching() as listener:\n"
            "    listener.say('device: CPU')\n"
            "    listener.step(STEP, 10)\n"
            "    listener.bars.refresh()\n"
        )
        assert "device: CPU" in seen
        assert "3/10" in seen
        assert "loss 2.346" in seen
        assert seen.index("\x1b[?25l") < seen.index("\x1b[?25h")
        # After the last picture of the bars their line is erased.
        assert "\x1b[2K" in seen[seen.rindex("3/10") :]


def on_a_terminal(script: str) -> str:
    """All that a process writes to its standard error, which is a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"}
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stderr=theirs,
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=environment,
        cwd=REPOSITORY,
    )
    os.close(theirs)
    seen = b""
    try:
        while select.select([ours], [], [], HANG_S)[0]:
            try:
                part = os.read(ours, 4096)
            except OSError:  # Linux answers so once the other end is closed
                break
            if not part:
                break
            seen += part
    finally:
        os.close(ours)
        assert child.wait(HANG_S) == 0
    return seen.decode()
