"""A signal asks a run to save and stop; a second one, or a process that is stuck, ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from llmops.finetune.signals import asked_to_stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stuck", [False, True])
def test_the_signal_is_answered_and_nothing_is_interrupted(number: signal.Signals, stuck: bool) -> None:
    with asked_to_stop(end_when_stuck=stuck) as stop:
        assert stop() == 0
        os.kill(os.getpid(), number)
        end = time.monotonic() + 60
        while not stop() and time.monotonic() < end:  # the system may give the signal to the watching thread
            time.sleep(0.01)
        assert stop() == number


@pytest.mark.parametrize("stuck", [False, True])
def test_what_was_there_before_is_put_back(stuck: bool) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    threads = threading.active_count()
    with contextlib.suppress(KeyError), asked_to_stop(end_when_stuck=stuck):
        assert signal.getsignal(signal.SIGTERM) is not before[0]
        raise KeyError
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert threading.active_count() == threads
    wakeup = signal.set_wakeup_fd(-1)
    assert wakeup == -1


def test_another_thread_is_never_asked() -> None:
    """Signals come to the main thread alone; who trains in another is stopped by whoever started it."""
    answers = []

    def train() -> None:
        with asked_to_stop() as stop:
            answers.append(stop())

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert answers == [0]


UNTIL_ASKED = """
    while not stop():
        time.sleep(0.01)
"""
ASKED = f"""{UNTIL_ASKED}
    print("asked", flush=True)
    time.sleep(600)
"""
STUCK = """
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
"""


def ended_by(body: str, *signals: signal.Signals, arguments: str = "", patience_s: float = 0.3) -> tuple[int, float]:
    """How a process ends that gets these signals inside the context, each after a line of its; and how long after."""
    script = (
        f"import time, threading\nfrom llmops.finetune import signals\nsignals._PATIENCE_S = {patience_s}\n"
        f"with signals.asked_to_stop({arguments}) as stop:\n    print('in', flush=True)\n{body}"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for number in signals:
            assert child.stdout.readline()
            began = time.monotonic()
            child.send_signal(number)
        return child.wait(120), time.monotonic() - began


def test_a_second_signal_ends_the_process_at_once() -> None:
    code, _ = ended_by(ASKED, signal.SIGTERM, signal.SIGINT)
    assert code == 128 + signal.SIGINT


def test_a_process_that_waits_for_one_that_died_ends_after_some_patience() -> None:
    """The main thread sits in a call that comes back to nobody, as in a collective operation."""
    code, seconds = ended_by(STUCK, signal.SIGTERM, arguments="end_when_stuck=True")
    assert code == 128 + signal.SIGTERM
    assert seconds >= 0.3


def test_a_process_that_saves_in_time_is_left_alone() -> None:
    code, _ = ended_by(UNTIL_ASKED, signal.SIGTERM, arguments="end_when_stuck=True", patience_s=60)
    assert code == 0
