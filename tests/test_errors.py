"""An error a user can cause says the problem and the next thing to do, and ends with its exit code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import (
    EnvironmentFault,
    Fault,
    FileFaults,
    InputError,
    Interrupted,
    LlmopsError,
    TrainingStopped,
    nearest,
)


@pytest.mark.parametrize("kind", [LlmopsError, InputError, EnvironmentFault, TrainingStopped])
def test_an_error_prints_its_problem_and_its_fix_and_exits_2(kind: type[LlmopsError]) -> None:
    error = kind("the disk is full", fix="free 3 GB")
    assert str(error) == "the disk is full\n  → free 3 GB"
    assert (error.problem, error.fix, error.exit_code) == ("the disk is full", "free 3 GB", 2)
    assert isinstance(error, LlmopsError)


@pytest.mark.parametrize("code", [130, 143])
def test_an_interruption_carries_the_exit_code_of_its_signal(code: int) -> None:
    assert Interrupted("stopped", fix="run it again", exit_code=code).exit_code == code
    assert LlmopsError.exit_code == 2, "other errors keep theirs"


def test_the_faults_of_a_file_are_listed_by_line_those_without_a_line_last() -> None:
    faults = [Fault("z", "missing"), Fault("b", "bad", 7), Fault("a", "bad", 7), Fault("", "not YAML", 2)]
    error = FileFaults("r.yaml", faults, what="recipe", fix="mend them")
    assert str(error).splitlines() == [
        "r.yaml is not a valid recipe:",
        "  line 2: not YAML",
        "  line 7: a: bad",
        "  line 7: b: bad",
        "  z: missing",
        "  → mend them",
    ]
    assert [fault.key for fault in error.faults] == ["", "a", "b", "z"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("learning_rat", "; did you mean `learning_rate`?", id="a letter left out"),
        pytest.param("rnak", "; did you mean `rank`?", id="letters swapped"),
        pytest.param("flavour", "", id="nothing like it"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_the_nearest_known_name_is_offered(name: str, hint: str) -> None:
    assert nearest(name, iter(["rank", "alpha", "learning_rate"])) == hint


@given(st.text(max_size=10), st.lists(st.text(min_size=1, max_size=10), max_size=5))
def test_only_a_known_name_is_ever_offered(name: str, known: list[str]) -> None:
    hint = nearest(name, known)
    assert hint in {"", *(f"; did you mean `{one}`?" for one in known)}
    if name in known:
        assert hint == f"; did you mean `{name}`?"
