"""An answer is valid JSON of a schema or not, and holds so much of its reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import InputError
from llmops.eval.scorers.structure import JsonSchema
from tests.eval.measurements import answered

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array"}},
    "required": ["name"],
    "additionalProperties": False,
}

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["a", "b/c", "~"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["name", "age", "tags", "a/b"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def valid(answer: str, schema: str | dict[str, Any] = PERSON) -> float:
    (metric,) = JsonSchema(against=schema).measure(answered([answer], [["r"]]))
    return metric.value()


def fields(answer: str, *references: str) -> float:
    return JsonSchema(against={}, fields=True).measure(answered([answer], [list(references)]))[1].value()


@given(json_values)
def test_validity_is_jsonschemas(value: Any) -> None:
    expected = float(jsonschema.Draft202012Validator(PERSON).is_valid(value))
    assert valid(json.dumps(value)) == expected
    assert valid(f"Here it is:\n```json\n{json.dumps(value, indent=1)}\n```\nDone.") == expected


@pytest.mark.parametrize(
    ("answer", "hit"),
    [
        pytest.param(' {"name": "x"}\n', 1.0, id="the whole answer"),
        pytest.param('```\n{"name": "x"}\n```', 1.0, id="a fence without a language"),
        pytest.param('```json\n{"name": 1}\n```\n```json\n{"name": "x"}\n```', 0.0, id="the first fence counts"),
        pytest.param('Sure: {"name": "x"}', 0.0, id="words around it without a fence"),
        pytest.param('{"name": "x", "name": "y"}', 0.0, id="a key twice"),
        pytest.param('{"name": "x", "age": NaN}', 0.0, id="NaN"),
        pytest.param("[" * 100_000, 0.0, id="nested without end"),
        pytest.param("", 0.0, id="nothing"),
    ],
)
def test_what_counts_as_json(answer: str, hit: float) -> None:
    assert valid(answer) == hit


def test_the_schema_may_stand_in_a_file_and_its_content_is_in_the_signature(tmp_path: Path) -> None:
    file = tmp_path / "person.json"
    file.write_text(json.dumps(PERSON))
    (by_file,) = JsonSchema(against=str(file)).measure(answered(['{"name": "x"}'], [["r"]]))
    (inline,) = JsonSchema(against=PERSON).measure(answered(['{"name": "x"}'], [["r"]]))
    assert (by_file.value(), by_file.signature) == (1.0, inline.signature)
    file.write_text(json.dumps({**PERSON, "required": []}))
    (changed,) = JsonSchema(against=str(file)).measure(answered(['{"name": "x"}'], [["r"]]))
    assert changed.signature != inline.signature


@pytest.mark.parametrize(
    ("answer", "reference", "share"),
    [
        pytest.param('{"a": 1, "b": {"c": "x", "d": null}}', '{"a": 1.0, "b": {"c": "x", "d": null}}', 1.0, id="all"),
        pytest.param('{"a": 1, "b": {"c": "y"}}', '{"a": 1, "b": {"c": "x", "d": null}}', 1 / 3, id="one of three"),
        pytest.param('{"a": true}', '{"a": 1}', 0.0, id="true is not 1"),
        pytest.param('{"a": [2, 1]}', '{"a": [1, 1]}', 0.5, id="a list is compared place by place"),
        pytest.param('{"a": 1, "z": 2}', '{"a": 1}', 1.0, id="more than was asked costs nothing"),
        pytest.param('{"a": []}', '{"a": []}', 1.0, id="an empty list is a value"),
        pytest.param("{}", "{}", 1.0, id="nothing, where nothing is wanted"),
        pytest.param('{"a": {"b": 1}}', '{"a/b": 1}', 0.0, id="a slash in a key is no path"),
        pytest.param("no", '{"a": 1}', 0.0, id="no JSON has no fields"),
    ],
)
def test_the_share_of_the_references_fields(answer: str, reference: str, share: float) -> None:
    assert fields(answer, reference) == pytest.approx(share)
    assert fields(answer, '{"something": "else"}', reference) == pytest.approx(share)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "objct"}, "is no schema"),
        ({"$ref": "https://example.org/other.json"}, "refers to https://example.org/other.json"),
        ("nowhere.json", "cannot be read"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        valid("{}", schema)


@pytest.mark.parametrize(("reference", "says"), [("{", "is no JSON"), ("3", "no fields")])
def test_a_reference_without_fields_is_refused(reference: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        fields("{}", reference)
