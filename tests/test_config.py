"""A file becomes its model, or all its faults are named at once, with line, key and what was meant."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator

from llmops.config import Settings, load
from llmops.errors import Fault, FileFaults, InputError
from llmops.finetune.recipe import Recipe

ROOT = Path(__file__).parents[1]


class Cat(Settings):
    kind: Literal["cat"] = "cat"
    lives: PositiveInt = 9


class Dog(Settings):
    kind: Literal["dog"]
    tricks: tuple[str, ...] = ()


class Whole(Settings):
    text: str


class Parts(Settings):
    parts: list[str]


class House(Settings):
    """Every form of key that the files users write have."""

    name: str
    rooms: PositiveInt = 3
    area: float = 100.0
    garden: bool = False
    mood: Literal["on", "off", "auto"] = "auto"
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()
    notes: tuple[str, ...] = ()
    share: Annotated[float, Field(lt=1)] | Annotated[list[Cat], Field(min_length=1)] = 0.0
    books: list[
        Annotated[
            Annotated[Whole, Tag("<whole>")] | Annotated[Parts, Tag("<parts>")],
            Discriminator(lambda given: "<parts>" if isinstance(given, dict) and "parts" in given else "<whole>"),
        ]
    ] = Field(default_factory=list)
    keys: dict[str, Cat] = Field(default_factory=dict)
    code: str | None = None

    @model_validator(mode="after")
    def _room_for_a_garden(self) -> House:
        if self.garden and self.rooms > 40:
            raise ValueError("so many rooms leave no garden")
        return self


def house(folder: Path, text: str | bytes, *overrides: str) -> House:
    file = folder / "house.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(file, House, what="recipe", overrides=overrides)


def faults(folder: Path, text: str | bytes, *overrides: str) -> list[Fault]:
    with pytest.raises(FileFaults) as caught:
        house(folder, text, *overrides)
    return list(caught.value.faults)


def the_fault(folder: Path, text: str | bytes, *overrides: str) -> Fault:
    (fault,) = faults(folder, text, *overrides)
    return fault


# All faults at once.

FAULTY = """\
nmae: x
rooms: 0
garden: perhaps
pet: {kind: dog, trick: [sit]}
share:
  - lives: 1
  - livs: 2
books:
  - parts: 7
keys:
  front: {lives: none}
"""


def test_every_fault_is_named_with_its_line_key_and_nearest_name(tmp_path: Path) -> None:
    found = {(fault.line, fault.key): fault.problem for fault in faults(tmp_path, FAULTY)}
    assert set(found) == {
        (None, "name"),
        (1, "nmae"),
        (2, "rooms"),
        (3, "garden"),
        (4, "pet.trick"),
        (7, "share[1].livs"),
        (9, "books[0].parts"),
        (11, "keys.front.lives"),
    }
    assert found[None, "name"] == "missing"
    assert found[1, "nmae"] == "no such key; did you mean `name`?"
    assert found[2, "rooms"] == "Input should be greater than 0 (got 0)"
    assert found[4, "pet.trick"] == "no such key; did you mean `tricks`?"
    assert found[7, "share[1].livs"] == "no such key; did you mean `lives`?"


def test_the_error_lists_faults_in_the_order_of_the_file_and_ends_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(FileFaults) as caught:
        house(tmp_path, FAULTY)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path / 'house.yaml'} is not a valid recipe:"
    numbers = [int(match[1]) for line in lines if (match := re.match(r"  line (\d+): ", line))]
    assert numbers == sorted(numbers)
    assert lines[-2] == "  name: missing"
    assert lines[-1] == "  → mend the keys above; `llmops explain recipe` lists all of them"


@pytest.mark.parametrize(
    ("line", "key", "problem"),
    [
        pytest.param("colour: red", "colour", "no such key; known here: area, books", id="a name like none lists all"),
        pytest.param("mood: of", "mood", "must be 'on', 'off' or 'auto' (got 'of'); did you mean `off`?", id="a word"),
        pytest.param("code: 12", "code", "must be text (got 12); put it in quotes", id="a number for a text"),
        pytest.param("rooms: 2.5", "rooms", "a number with a fractional part (got 2.5)", id="a fraction"),
        pytest.param("pet: {lives: 3}", "pet", "`kind` is missing", id="an alternative that is not named"),
        pytest.param("pet: {kind: dgo}", "pet", "(got 'dgo'); did you mean `dog`?", id="an alternative misspelt"),
        pytest.param("pet: {kind: [dog]}", "pet", "kind must be one of", id="an alternative that is a list"),
        pytest.param("pet: dog", "pet", "(got 'dog')", id="an alternative without its keys"),
        pytest.param("share: much", "share", "must be a valid number, unable to parse", id="neither of two forms"),
        pytest.param("share: much", "share", "or a valid list (got 'much')", id="the other of two forms"),
        pytest.param("share: 1.5", "share", "Input should be less than 1 (got 1.5)", id="the one form that was meant"),
        pytest.param("share: []", "share", "at least 1 item", id="the other form that was meant"),
        pytest.param("<<: {rooms: 1}", "<<", "YAML merges are not supported; write the keys out", id="a merge"),
        pytest.param("rooms: 7\nrooms: 8", "rooms", "written twice, first on line 2", id="a key written twice"),
        pytest.param("pet: {kind: cat, kind: dog}", "pet.kind", "written twice", id="also inside a section"),
        pytest.param("? [a, b]\n: 1", "", "a key must be one word", id="a key that is a list"),
        pytest.param("area: !!int x", "area", "invalid literal for int", id="a tag that its value does not bear"),
    ],
)
def test_a_fault_is_told_in_the_users_words(tmp_path: Path, line: str, key: str, problem: str) -> None:
    found = faults(tmp_path, f"name: x\n{line}\n")
    assert found[0].key == key
    assert problem in found[0].problem
    assert found[0].line == 1 + len(line.splitlines()) - (key == "")


def test_a_rule_over_several_keys_is_a_fault_of_the_whole_file(tmp_path: Path) -> None:
    assert the_fault(tmp_path, "name: x\nrooms: 41\ngarden: true") == Fault("", "so many rooms leave no garden")


# What YAML means.


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        pytest.param("area: 1e-4", "area", 0.0001, id="1e-4 without a dot is a number"),
        pytest.param("area: 1E3", "area", 1000.0, id="so is 1E3"),
        pytest.param("area: .5", "area", 0.5, id="and .5"),
        pytest.param("rooms: +4", "rooms", 4, id="a sign"),
        pytest.param("mood: off", "mood", "off", id="off is a word"),
        pytest.param("mood: on", "mood", "on", id="on is a word"),
        pytest.param("garden: yes", "garden", True, id="yes is true where true or false is asked"),
        pytest.param("garden: off", "garden", False, id="off is false where true or false is asked"),
        pytest.param("garden: TRUE", "garden", True, id="TRUE"),
        pytest.param("code: no", "code", "no", id="Norway is no boolean"),
        pytest.param("code: 2026-11-01", "code", "2026-11-01", id="a date is a text"),
        pytest.param("code: 12:30", "code", "12:30", id="a time is a text"),
        pytest.param("code: 007", "code", "007", id="a leading zero makes a text, not an octal number"),
        pytest.param("code: null", "code", None, id="null"),
        pytest.param("code:", "code", None, id="nothing is null"),
        pytest.param("code: 'null'", "code", "null", id="quotes make text"),
        pytest.param("code: |\n  two\n  lines", "code", "two\nlines", id="a block"),
        pytest.param("notes: [a, b]", "notes", ("a", "b"), id="a list in a line"),
        pytest.param("notes:\n- a\n- b", "notes", ("a", "b"), id="a list over lines"),
        pytest.param("notes: [&n ä, *n]", "notes", ("ä", "ä"), id="an alias stands for its anchor's value"),
        pytest.param("# only\ncode: a # comments", "code", "a", id="comments"),
    ],
)
def test_a_value_reads_as_a_person_would(tmp_path: Path, text: str, key: str, value: object) -> None:
    assert getattr(house(tmp_path, f"name: x\n{text}"), key) == value


def test_a_section_may_be_repeated_by_alias(tmp_path: Path) -> None:
    read = house(tmp_path, "name: x\nkeys:\n  front: &cat {lives: 2}\n  back: *cat\n")
    assert read.keys == {"front": Cat(lives=2), "back": Cat(lives=2)}


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    assert house(tmp_path, "\ufeffname: x".encode()).name == "x"


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        pytest.param("name: x\npet: {kind: cat", "not YAML", 2, id="an open brace"),
        pytest.param("name: x\n\trooms: 3", "indent with spaces", 2, id="a tab"),
        pytest.param("name: a: b", "mapping values are not allowed here", 1, id="a colon that wants quotes"),
        pytest.param("name: *nobody", "undefined alias 'nobody'", 1, id="an alias of nothing"),
        pytest.param("name: x\n---\nname: y", "but found another document", 2, id="two documents"),
        pytest.param("name: !!python/object:os.system {}", "", 1, id="an object of Python"),
        pytest.param("- name: x", "must hold `key: value` lines", 1, id="a list"),
        pytest.param("name", "must hold `key: value` lines", 1, id="a word"),
        pytest.param("name: &x [*x]", "an alias stands inside what it names", None, id="an alias inside itself"),
        pytest.param("name: " + "[" * 5000, "nested too deeply", None, id="brackets without end"),
        pytest.param(b"name: \xff\xfe", "not readable as YAML", None, id="bytes that are not UTF-8"),
        pytest.param(b"name: \x00", "not readable as YAML", None, id="a zero byte"),
    ],
)
def test_what_is_not_yaml_is_one_fault(tmp_path: Path, text: str | bytes, problem: str, line: int | None) -> None:
    fault = the_fault(tmp_path, text)
    assert problem in fault.problem
    assert fault.line == line


@pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n", "---\n"])
def test_an_empty_file_lacks_what_is_required(tmp_path: Path, text: str) -> None:
    assert the_fault(tmp_path, text) == Fault("name", "missing")


def test_a_file_that_is_not_there_names_the_nearest_beside_it(tmp_path: Path) -> None:
    (tmp_path / "house.yaml").write_text("name: x")
    with pytest.raises(InputError, match=r"did you mean `house\.yaml`"):
        load(tmp_path / "huose.yaml", House, what="recipe")
    with pytest.raises(InputError, match="there is no file"):
        load(tmp_path / "no" / "folder" / "x.yaml", House, what="recipe")
    with pytest.raises(InputError, match="is a folder"):
        load(tmp_path, House, what="recipe")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / ("x" * 5000), House, what="recipe")


# The environment.


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("FULL", "a b")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("NUMBER", "4")
    monkeypatch.delenv("UNSET", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("written", "read"),
    [
        pytest.param("${FULL}/x", "a b/x", id="a set name"),
        pytest.param("${FULL:-d}", "a b", id="a set name wins over its default"),
        pytest.param("${UNSET:-d e}/x", "d e/x", id="the default of an unset name"),
        pytest.param("${EMPTY:-d}", "d", id="the default of an empty name, as in a shell"),
        pytest.param("${UNSET:-}", "", id="an empty default"),
        pytest.param("[${EMPTY}]", "[]", id="an empty name"),
        pytest.param("${FULL}${NUMBER}", "a b4", id="several in one text"),
        pytest.param("$${UNSET} $5", "${UNSET} $5", id="a doubled dollar keeps the characters"),
        pytest.param("{FULL} $FULL", "{FULL} $FULL", id="only ${…} is a reference"),
        pytest.param("${UNSET:-s3://b/k:-x}", "s3://b/k:-x", id="a default with any characters but braces"),
    ],
)
def test_a_reference_reads_the_environment(
    tmp_path: Path, environment: pytest.MonkeyPatch, written: str, read: str
) -> None:
    text = f"name: '{written}'\nnotes: [a, '{written}']\nkeys: {{}}\nbooks: [{{text: '{written}'}}]"
    got = house(tmp_path, text)
    assert (got.name, got.notes, got.books) == (read, ("a", read), [Whole(text=read)])


def test_a_reference_may_give_a_number(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    assert house(tmp_path, "name: x\nrooms: ${NUMBER}\narea: ${UNSET:-1e2}") == House(name="x", rooms=4, area=100)


@pytest.mark.parametrize("given_value", ["*a", "[", "a: b", "x # y", "${FULL}", "\t"])
def test_what_the_environment_holds_is_text_and_not_yaml(
    tmp_path: Path, environment: pytest.MonkeyPatch, given_value: str
) -> None:
    environment.setenv("FULL", given_value)
    assert house(tmp_path, "name: ${FULL}").name == given_value


def test_unset_names_are_faults_with_their_lines(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    found = faults(tmp_path, "name: ${UNSET}\nrooms: ${UNSET}\nnotes:\n- a\n- ${UNSET}")
    assert [(fault.line, fault.key) for fault in found] == [(1, "name"), (2, "rooms"), (5, "notes[1]")]
    assert all("the environment has no UNSET; set it, or write ${UNSET:-a default}" in fault.problem for fault in found)


@pytest.mark.parametrize("written", ["${FULL:d}", "${}", "${1}", "${A B}", "${FULL", "${FULL:-{x}}", "${FULL-d}"])
def test_what_only_looks_like_a_reference_is_a_fault(
    tmp_path: Path, environment: pytest.MonkeyPatch, written: str
) -> None:
    assert "is no reference; write ${NAME} or ${NAME:-default}" in the_fault(tmp_path, f"name: '{written}'").problem


# --set.


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        pytest.param("rooms=5", "rooms", 5, id="a key"),
        pytest.param("area=1e-4", "area", 0.0001, id="a number without a dot"),
        pytest.param("code=a=b", "code", "a=b", id="a value with an equals sign"),
        pytest.param("code=", "code", None, id="nothing is null"),
        pytest.param("code=''", "code", "", id="the empty text"),
        pytest.param("code='a: b'", "code", "a: b", id="a quoted value"),
        pytest.param("mood=off", "mood", "off", id="a word"),
        pytest.param("pet.lives=2", "pet", Cat(lives=2), id="a nested key"),
        pytest.param("pet={kind: dog, tricks: [sit]}", "pet", Dog(kind="dog", tricks=("sit",)), id="a whole section"),
        pytest.param("notes.1=z", "notes", ("a", "z"), id="an entry of a list"),
        pytest.param("notes[1]=z", "notes", ("a", "z"), id="an entry as faults write it"),
        pytest.param("notes=[]", "notes", (), id="a whole list"),
        pytest.param("keys.back.lives=7", "keys", {"back": Cat(lives=7)}, id="a section that is not there yet"),
        pytest.param("books.0.text=n", "books", [Whole(text="n")], id="a key inside a list"),
        pytest.param("code=${NUMBER}", "code", "4", id="a reference"),
    ],
)
def test_an_override_replaces_one_value(
    tmp_path: Path, environment: pytest.MonkeyPatch, override: str, key: str, value: object
) -> None:
    text = "name: x\nnotes: [a, b]\npet: {kind: cat, lives: 1}\nbooks: [{text: old}]"
    before, after = house(tmp_path, text), house(tmp_path, text, override)
    assert getattr(after, key) == value
    assert after.model_copy(update={key: getattr(before, key)}) == before


def test_the_last_of_several_overrides_wins(tmp_path: Path) -> None:
    assert house(tmp_path, "name: x", "pet={kind: cat}", "pet.lives=2", "pet.lives=3").pet == Cat(lives=3)


def test_a_faulty_override_says_where_the_value_came_from(tmp_path: Path) -> None:
    fault = the_fault(tmp_path, "name: x\nrooms: 3", "rooms=0")
    assert fault == Fault("rooms", "Input should be greater than 0 (got 0) (given by --set)")
    assert the_fault(tmp_path, "name: x", "pet.lvies=1", "pet.kind=cat").problem == (
        "no such key; did you mean `lives`? (given by --set)"
    )


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        pytest.param("rooms", "is no key=value", id="no value"),
        pytest.param("=3", "is no key=value", id="no key"),
        pytest.param("notes.2=z", "the list has no entry 2", id="past the end of a list"),
        pytest.param("notes.-1=z", "the list has no entry -1", id="a negative entry"),
        pytest.param("notes.²=z", "the list has no entry ²", id="a digit that is no number"),
        pytest.param("notes.0.deep=z", "there is no notes[0]", id="inside a text of a list"),
        pytest.param("books.5.text=z", "there is no books[5]", id="inside an entry that is not there"),
        pytest.param("rooms=[", "the value is not YAML", id="broken YAML"),
        pytest.param("rooms=!!int x", "the value is not YAML", id="a tag the value does not bear"),
    ],
)
def test_an_impossible_override_is_refused(tmp_path: Path, override: str, problem: str) -> None:
    with pytest.raises(InputError, match=re.escape(problem)):
        house(tmp_path, "name: x\nnotes: [a, b]\nbooks: [{text: t}]", override)


# Whatever is in the file.

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*House.model_fields, "kind", "lives", "text", "parts", "1"]), inner)
    ),
    max_leaves=10,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(content=st.dictionaries(st.sampled_from(list(House.model_fields)), ANYTHING))
def test_a_fault_is_named_whatever_else_is_in_the_file(tmp_path: Path, content: dict[str, object]) -> None:
    assert "rest" in {fault.key for fault in faults(tmp_path, yaml.safe_dump({**content, "rest": 0}))}


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=st.text("ab:-[]{}&*!|>'\"#%@`,?\n\t $~1.e<", max_size=40) | st.text(max_size=20) | st.binary(max_size=20))
def test_any_characters_are_yaml_or_a_named_fault(tmp_path: Path, text: str | bytes) -> None:
    content = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    with pytest.raises(FileFaults):  # none of them happens to give a name
        house(tmp_path, content.replace(b"name", b""))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    values=st.fixed_dictionaries(
        {"name": st.text("aé \"'#:{}[]\\%", max_size=9), "rooms": st.integers(1, 40), "garden": st.booleans()},
        optional={
            "area": st.floats(allow_nan=False, allow_infinity=False),  # settings refuse both
            "notes": st.lists(st.text("ab:{}'\n", max_size=5), max_size=3),
            "mood": st.sampled_from(["on", "off", "auto"]),
        },
    )
)
def test_what_yaml_writes_is_read_back(tmp_path: Path, values: dict[str, object]) -> None:
    assert house(tmp_path, yaml.safe_dump(values)) == House.model_validate(values)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    content=st.fixed_dictionaries(
        {},
        optional={key: ANYTHING for key in Recipe.model_fields if key != "data"}
        | {
            "data": st.fixed_dictionaries(
                {}, optional={"validation": st.floats() | st.text(max_size=5), "checks": ANYTHING}
            )
        },
    )
)
def test_what_a_recipe_lacks_is_named_whatever_else_is_in_it(tmp_path: Path, content: dict[str, object]) -> None:
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(FileFaults) as caught:
        load(tmp_path / "x.yaml", Recipe, what="recipe")
    assert {fault.key for fault in caught.value.faults} & {"data", "data.train"}


# Cost.


def refused(tmp_path: Path) -> float:
    """Seconds of processor time that a process takes to find the faults of a recipe, for which it loads little."""
    (tmp_path / "bad.yaml").write_text(
        "nmae: x\nbase: builtin:tiny\ndata: {train: [{source: a}]}\nbatch: {packng: 1}\n"
    )
    script = """
import sys
from pathlib import Path
from llmops.config import load
from llmops.errors import FileFaults
from llmops.finetune.recipe import Recipe
try:
    load(Path(sys.argv[1]), Recipe, what="recipe")
except FileFaults as error:
    print(len(error.faults), sorted({"torch", "transformers", "pandas", "numpy", "pyarrow"} & set(sys.modules)))
"""
    started = os.times().children_user + os.times().children_system
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "bad.yaml")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    spent = os.times().children_user + os.times().children_system - started
    # No `name`, no `prompt`, and two keys that are none. Whether a completion is missing is told once the method can be
    # read: a teacher may give it.
    assert done.stdout == "4 []\n", done.stdout + done.stderr
    return spent


def test_a_faulty_recipe_is_refused_without_torch(tmp_path: Path) -> None:
    refused(tmp_path)


@pytest.mark.benchmark
def test_a_faulty_recipe_is_refused_in_a_second(tmp_path: Path) -> None:
    assert refused(tmp_path) < 1.0
