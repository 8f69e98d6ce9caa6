"""Every key of a user's file is explained with its type, its default as YAML, and what it means."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from llmops.config import Settings, load, models_in
from llmops.errors import InputError
from llmops.eval.gates import Gate
from llmops.eval.suite import Suite
from llmops.explain import explain, keys
from llmops.finetune.recipe import Recipe
from llmops.rubric import Rubric

FILES = [Recipe, Suite, Gate, Rubric]


class Tea(Settings):
    kind: Literal["tea"] = "tea"
    minutes: int | None = None
    """How long it
    draws."""


class Coffee(Settings):
    kind: Literal["coffee"]
    beans: list[str]
    """Which beans."""


class Cup(Settings):
    millilitres: float = 250.0


class Order(Settings):
    drink: Annotated[Tea | Coffee, Field(discriminator="kind")] = Tea()
    cups: dict[str, Cup] = Field(default_factory=dict)
    name: str = "you"
    extras: tuple[str, ...] = ("milk",)
    cold: bool = False


def test_keys_come_in_the_order_of_the_file_with_those_of_each_alternative() -> None:
    assert [(key.path, key.type, key.default) for key in keys(Order)] == [
        ("drink", "{kind: tea} | {kind: coffee}", "{kind: tea}"),
        ("drink(tea).kind", "tea", "tea"),
        ("drink(tea).minutes", "whole number | null", "null"),
        ("drink(coffee).kind", "coffee", None),
        ("drink(coffee).beans", "list of text", None),
        ("cups", "map to keys", "{}"),
        ("cups.<name>.millilitres", "number", "250.0"),
        ("name", "text", "you"),
        ("extras", "list of text", '["milk"]'),
        ("cold", "true | false", "false"),
    ]


def test_the_meaning_is_the_text_under_the_field_on_one_line() -> None:
    assert {key.path: key.meaning for key in keys(Order)}["drink(tea).minutes"] == "How long it draws."


@pytest.mark.parametrize(
    ("key", "paths"),
    [
        pytest.param("name", ["name"], id="one key"),
        pytest.param("drink.minutes", ["drink(tea).minutes"], id="a key of one alternative"),
        pytest.param("drink.kind", ["drink(tea).kind", "drink(coffee).kind"], id="a key of both"),
        pytest.param("cups", ["cups", "cups.<name>.millilitres"], id="a section with what is in it"),
        pytest.param("extras[0]", ["extras"], id="an entry of a list, as faults write it"),
        pytest.param("extras.0", ["extras"], id="an entry of a list, as --set takes it"),
    ],
)
def test_a_key_is_explained_with_those_below_it(key: str, paths: list[str]) -> None:
    assert [one.path for one in explain(Order, key)] == paths


@pytest.mark.parametrize(("key", "hint"), [("drink.minuts", "; did you mean `drink.minutes`?"), ("zzz", ""), ("", "")])
def test_an_unknown_key_is_an_error_with_the_nearest(key: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        explain(Order, key)
    assert caught.value.problem == f"there is no key {key!r}{hint}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.__name__)
def test_every_key_has_a_meaning(file: type[BaseModel]) -> None:
    assert [key.path for key in keys(file) if not key.meaning and not key.path.endswith(".kind")] == []


class Anything(Settings):
    value: Any


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.__name__)
def test_every_default_is_written_as_the_file_would_have_it(file: type[BaseModel], tmp_path: Path) -> None:
    for key, field in zip(keys(file), fields_of(file), strict=True):
        if field.is_required():
            assert key.default is None
            continue
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            kind = getattr(default, "kind", None)
            assert key.default == (f"{{kind: {kind}}}" if kind else "defaults below")
            continue
        (tmp_path / "x.yaml").write_text(f"value: {key.default}")
        assert load(tmp_path / "x.yaml", Anything, what="recipe").value == to_jsonable_python(default), key.path


def fields_of(model: type[BaseModel]) -> Iterator[FieldInfo]:
    """Every field of a model and of the models inside it, in the order of `keys`."""
    for field in model.model_fields.values():
        yield field
        for inner in dict.fromkeys(models_in(field.annotation)):
            yield from fields_of(inner)
