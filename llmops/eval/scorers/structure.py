"""Answers that must be JSON: whether they fit a schema, and whether their fields hold what a reference holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.errors import InputError
from llmops.eval.scorers.catalog import Scorer, scorers
from llmops.files import digest_of

if TYPE_CHECKING:
    from llmops.eval.items import Item
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric

_FENCE = re.compile(r"^[ \t]*```[ \t]*(?:json)?[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE | re.IGNORECASE)
_NO_JSON = object()


@scorers.add("json_schema")
class JsonSchema(Scorer):
    """Share (0 to 1) of answers that are JSON of a schema, metric `json_valid`; and with `fields` how much of the
    reference they hold, metric `json_fields`.

    An answer is JSON as a whole, or in its first fence of three backticks (with `json` behind them or nothing).
    `NaN` and `Infinity` are no JSON, and no object may have a key twice. `json_fields` is the mean over items of the
    share of the reference's fields that the answer has with an equal value: fields are named by their path, entries of
    a list by their place, so that nested objects count by what is in them; whatever the answer has beside them costs
    nothing here. An answer that is no JSON has none. The best reference counts.
    """

    against: str | dict[str, Any]
    """The schema (JSON Schema, draft 2020-12 unless its `$schema` says otherwise): written here, or the file of one.
    It may not refer to other files or addresses."""
    fields: bool = False
    """Compare fields with the references too, which then must be JSON objects or lists."""

    def names(self) -> tuple[str, ...]:
        return ("json_valid", "json_fields") if self.fields else ("json_valid",)

    def check_items(self, items: Sequence[Item]) -> None:
        _validator(self._schema())
        for item in items if self.fields else ():
            for reference in item.references:
                _reference_fields(reference)

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        from llmops.eval.metric import mean_of, share_of

        schema = self._schema()
        validator = _validator(schema)
        how = f"schema:{digest_of(schema)[:12]}|fence:first"
        given = [_answered_json(item.answer) for item in items]
        found = [share_of("json_valid", how, [one is not _NO_JSON and _fits(validator, one) for one in given])]
        if self.fields:
            shares = []
            for item, one in zip(items, given, strict=True):
                wanted = [_reference_fields(reference) for reference in item.references]
                fields = {} if one is _NO_JSON else dict(_fields(one))
                shares.append(max(_share(fields, of_reference) for of_reference in wanted))
            found.append(mean_of("json_fields", "fence:first|refs:best|lists:by-place", shares, span=1.0))
        return found

    def _schema(self) -> Any:
        if not isinstance(self.against, str):
            return self.against
        try:
            return json.loads(Path(self.against).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"the schema {self.against} cannot be read: {error.strerror}",
                fix="give the scorer `json_schema` a file that exists, or write the schema under `against`",
            ) from error
        except ValueError as error:
            raise InputError(f"the schema {self.against} is no JSON: {error}", fix="mend the file") from error


def _validator(schema: Any) -> Any:
    from jsonschema import SchemaError, validators
    from referencing import Registry

    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise InputError(
            f"the schema of the scorer `json_schema` is no schema: {error.message}", fix="mend it at " + error.json_path
        ) from error
    # Without a registry of its own jsonschema would fetch what a `$ref` names.
    return kind(schema, registry=Registry())


def _fits(validator: Any, value: Any) -> bool:
    from referencing.exceptions import Unresolvable

    try:
        return bool(validator.is_valid(value))
    except RecursionError:
        return False
    except Unresolvable as error:
        raise InputError(
            f"the schema of the scorer `json_schema` refers to {error.ref}, which is not in it",
            fix="put it under `$defs` of the schema",
        ) from error


def _answered_json(answer: str) -> Any:
    """The value an answer holds, `_NO_JSON` where it holds none."""
    fence = _FENCE.search(answer)
    try:
        return _strict(fence.group(1) if fence else answer)
    except (ValueError, RecursionError):
        return _NO_JSON


def _strict(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice in one object")
        return found

    def refused(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refused)


def _reference_fields(reference: str) -> Mapping[str, Any]:
    try:
        value = _strict(reference)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the reference {reference[:60]!r} is no JSON: {error}",
            fix="give JSON references, or set `fields: false` of the scorer `json_schema`",
        ) from error
    if not isinstance(value, dict | list):
        raise InputError(
            f"the reference {reference[:60]!r} has no fields",
            fix="give JSON objects or lists, or set `fields: false` of the scorer `json_schema`",
        )
    return dict(_fields(value))


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no object or list, and every empty one of these, by its path (RFC 6901)."""
    match value:
        case dict() if value:
            for key, inner in value.items():
                yield from _fields(inner, f"{path}/{key.replace('~', '~0').replace('/', '~1')}")
        case list() if value:
            for place, inner in enumerate(value):
                yield from _fields(inner, f"{path}/{place}")
        case _:
            yield path, value


def _share(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> float:
    return sum(path in given and _equal(given[path], value) for path, value in wanted.items()) / len(wanted)


def _equal(one: Any, other: Any) -> bool:
    """As JSON has it: 1 is 1.0, but true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
