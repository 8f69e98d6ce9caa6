"""A service that listens to this machine alone is told from one that others reach by its address, not by its looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.config import load
from llmops.errors import FileFaults
from llmops.feedback.settings import FeedbackService
from llmops.listening import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_this_machine_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.1.example.org", "127.example.org", "0.0.0.0", "::", "10.0.0.1", "", "lan"])
def test_everything_else_may_be_reached_by_others(host: str) -> None:
    assert not is_loopback(host)


def test_a_name_that_looks_like_loopback_needs_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "feedback.yaml"
    file.write_text("listen: 127.0.0.1.example.org:8400\n")
    with pytest.raises(FileFaults) as told:
        load(file, FeedbackService, what="feedback")
    (fault,) = told.value.faults
    assert fault.problem.startswith("others can reach it: give `secret`")
