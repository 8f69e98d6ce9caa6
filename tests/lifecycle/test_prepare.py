"""What a stage needs from the files of another is read before it starts, so that their faults show first."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.data.section import DataSection
from llmops.errors import FileFaults, InputError
from llmops.finetune.recipe import Evaluate
from llmops.lifecycle.prepare import gate_of, held_out, suites_of
from tests.lifecycle.small_recipes import ROWS, write_rows, write_suite


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Four of the rows are its items."""
    write_rows(tmp_path / "rows.jsonl")
    return write_suite(tmp_path)


def section(*contamination: Path) -> DataSection:
    return DataSection.model_validate(
        {
            "train": [{"source": "x.jsonl", "text": "x"}],
            "checks": {"contamination": [str(one) for one in contamination]},
        }
    )


class TestPromptsToKeepOut:
    def test_are_all_of_a_suites_whatever_its_limit(self, suite: Path) -> None:
        assert held_out(section(suite)) == {"small": [row["question"] for row in ROWS]}

    def test_of_suites_with_one_name_are_joined(self, suite: Path, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        write_rows(tmp_path / "other" / "rows.jsonl", [{"question": "another?", "answer": "yes"}])
        found = held_out(section(suite, write_suite(tmp_path / "other")))
        assert found == {"small": [*(row["question"] for row in ROWS), "another?"]}

    def test_are_none_without_a_suite(self) -> None:
        assert held_out(section()) == {}

    def test_need_the_suite_to_be_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no file"):
            held_out(section(tmp_path / "none.yaml"))


class TestSuitesOfARecipe:
    def test_come_with_their_items(self, suite: Path) -> None:
        ((loaded, items),) = suites_of(Evaluate(suites=[str(suite)]))
        assert loaded.name == "small"
        assert len(items) == 4

    def test_are_none_where_nothing_is_measured(self) -> None:
        assert suites_of(None) == []

    def test_are_refused_for_a_fault_of_the_gate(self, suite: Path, tmp_path: Path) -> None:
        gate = tmp_path / "gate.yaml"
        gate.write_text("rules:\n  - {suite: small, metric: bleu, at_least: much}\n")
        with pytest.raises(FileFaults, match="at_least"):
            gate_of(evaluate := Evaluate(suites=[str(suite)], gate=str(gate)), suites_of(evaluate))
        gate.write_text("rules:\n  - {suite: small, metric: bleu, at_least: 1}\n")
        assert gate_of(evaluate, suites_of(evaluate)) is not None
        assert gate_of(None, []) is None

    def test_a_gate_that_asks_for_what_is_not_measured_is_refused(self, suite: Path, tmp_path: Path) -> None:
        gate = tmp_path / "gate.yaml"
        evaluate = Evaluate(suites=[str(suite)], gate=str(gate))
        gate.write_text("rules:\n  - {suite: smal, metric: bleu, at_least: 1}\n")
        with pytest.raises(InputError, match=r"asks for the suite smal, .* did you mean `small`"):
            gate_of(evaluate, suites_of(evaluate))
        gate.write_text("rules:\n  - {suite: small, metric: blue, at_least: 1}\n")
        with pytest.raises(InputError, match="did you mean `bleu`"):
            gate_of(evaluate, suites_of(evaluate))
