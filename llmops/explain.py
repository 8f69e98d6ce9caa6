"""What every key of a user's file means, read off its model: `llmops explain`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from llmops.config import models_in
from llmops.errors import InputError, nearest


@dataclass(frozen=True, slots=True)
class Key:
    """One key: `default` as YAML would write it, None where a value is required."""

    path: str
    type: str
    default: str | None
    meaning: str


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """Every key of `model`, depth first, in the order of the file.

    Alternatives of a union follow each other, each under the value of its `kind`.
    """
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        yield Key(path, _type(field.annotation), _default(field), _one_line(field.description))
        inner = list(dict.fromkeys(models_in(field.annotation)))
        below = f"{path}.<name>" if _is_map(field.annotation) else path
        for found in inner:
            yield from keys(found, f"{below}{_alternative(found) if len(inner) > 1 else ''}.")


def explain(model: type[BaseModel], key: str | None = None) -> list[Key]:
    """All keys, or those at and below `key` (dotted, as in the file; numbers of list entries may stand in it).

    Raises:
        InputError: no key has that name; the nearest one is named.
    """
    every = list(keys(model))
    if key is None:
        return every
    wanted = re.sub(r"\[\d+\]|\.\d+(?=\.|$)", "", key)
    plain = [_without_alternatives(one.path) for one in every]
    chosen = [one for one, path in zip(every, plain, strict=True) if f"{path}.".startswith(f"{wanted}.")]
    if not chosen:
        raise InputError(f"there is no key {key!r}{nearest(wanted, plain)}", fix="leave the key out to see all of them")
    return chosen


def _without_alternatives(path: str) -> str:
    return re.sub(r"\([^)]*\)", "", path)


def _alternative(model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind") or model.model_fields.get("from_")
    values = get_args(kind.annotation) if kind is not None else ()
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", model.__name__).lower()
    return f"({values[0]})" if values else f"({words})"


def _is_map(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(map(_is_map, get_args(annotation)))


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Literal:
        return " | ".join(str(value) for value in arguments)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields.get("kind")
        return f"{{kind: {_type(kind.annotation)}}}" if kind else "keys"
    if origin is list or origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"map to {_type(arguments[1])}"
    if annotation is type(None):
        return "null"
    if arguments:
        parts = [_type(part) for part in arguments if isinstance(part, type) or get_args(part)]
        return " | ".join(dict.fromkeys(parts)) if parts else str(annotation)
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true | false", "Any": "anything"}.get(
        getattr(annotation, "__name__", ""), getattr(annotation, "__name__", str(annotation))
    )


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json")
        return "{kind: " + str(given["kind"]) + "}" if "kind" in given else "defaults below"
    return value if isinstance(value, str) and value else json.dumps(value)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
