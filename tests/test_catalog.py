"""A catalog gives a part by name, ours or another package's, and names the nearest where there is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmops.catalog import Catalog
from llmops.errors import InputError

Scorer = Callable[[str], int]


@pytest.fixture
def scorers() -> Catalog[Scorer]:
    catalog: Catalog[Scorer] = Catalog("test-scorer")

    @catalog.add("length")
    def length(text: str) -> int:
        return len(text)

    catalog.add("words")(lambda text: len(text.split()))
    return catalog


def test_a_part_is_found_by_its_name(scorers: Catalog[Scorer]) -> None:
    assert scorers["length"]("abc") == 3
    assert list(scorers) == ["length", "words"]


def test_the_decorator_returns_the_part_itself() -> None:
    def part() -> None: ...

    assert Catalog[Callable[[], None]]("test-part").add("one")(part) is part


def test_parts_may_be_given_at_once() -> None:
    given = {"b": 2, "a": 1}
    catalog = Catalog("test-part", given)
    catalog.add("c")(3)
    assert [catalog[name] for name in catalog] == [1, 2, 3]
    assert len(given) == 2


def test_a_name_is_given_once(scorers: Catalog[Scorer]) -> None:
    with pytest.raises(ValueError, match="test-scorer 'length' is defined twice"):
        scorers.add("length")(len)


def test_an_unknown_name_is_an_error_with_the_nearest_and_all_known(scorers: Catalog[Scorer]) -> None:
    with pytest.raises(InputError) as caught:
        scorers["lenght"]
    assert caught.value.problem == "no test-scorer is called 'lenght'; did you mean `length`?"
    assert caught.value.fix == "use one of: length, words"


def test_catalogs_of_one_kind_do_not_share_their_parts(scorers: Catalog[Scorer]) -> None:
    assert list(Catalog[Scorer]("test-scorer")) == []


def test_another_package_adds_a_part_by_entry_point_and_it_is_loaded_only_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "theirs-1.0.dist-info").mkdir()
    (tmp_path / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (tmp_path / "theirs-1.0.dist-info" / "entry_points.txt").write_text(
        "[llmops.test-scorers]\nvowels = theirs:count\n"
    )
    (tmp_path / "theirs.py").write_text("def count(text):\n    return sum(text.count(vowel) for vowel in 'aeiou')\n")
    script = """
import sys
from llmops.catalog import Catalog
catalog = Catalog("test-scorer")
catalog.add("length")(len)
print(list(catalog), "theirs" in sys.modules, catalog["vowels"]("banana"), catalog["vowels"] is catalog["vowels"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.stdout == "['length', 'vowels'] False 3 True\n", done.stderr
