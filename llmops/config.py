"""How the files users write become models: all faults at once, each with its line and the nearest known name.

Knows YAML, environment references, `--set` and pydantic; knows no particular kind of file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from llmops.errors import Fault, FileFaults, InputError, nearest

Where = tuple[str | int, ...]


class Settings(BaseModel):
    """What a user writes: frozen, no unknown keys, each field documented by the string under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


Model = TypeVar("Model", bound=Settings)

_REFERENCE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def load(path: Path, model: type[Model], *, what: str, overrides: Sequence[str] = ()) -> Model:
    """The file at `path` as a `model`, after `overrides` (`a.b=value`, values in YAML).

    Args:
        what: the kind of file in the user's words; also what `llmops explain` calls it.

    Raises:
        FileFaults: anything in the file is wrong; all faults are named together.
        InputError: there is no such file, or an override is no `key=value`.
    """
    document = _Document(path, what)
    for override in overrides:
        document.set(override)
    document.resolve_environment(dict(os.environ))
    try:
        value = model.model_validate(document.data)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=True):
            document.faults.append(_fault(detail, model, document))
        value = None
    if document.faults or value is None:
        raise FileFaults(
            str(path),
            document.faults,
            what=what,
            fix=f"mend the keys above; `llmops explain {what}` lists all of them",
        )
    return value


class _Document:
    """A YAML file as plain data, with the line of every key."""

    def __init__(self, path: Path, what: str) -> None:
        self.lines: dict[Where, int] = {}
        self.faults: list[Fault] = []
        if not path.is_file():
            beside = [other.name for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
            hint = nearest(path.name, beside)
            raise InputError(f"there is no file {path}{hint}", fix=f"give the path of a {what}, a .yaml file")
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else None
            fault = Fault("", f"not YAML: {error.problem or error.context}", line)
            raise FileFaults(str(path), [fault], what=what, fix="mend the line above") from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            fault = Fault("", f"not readable as YAML: {error}")
            raise FileFaults(str(path), [fault], what=what, fix="save the file as UTF-8 text") from error
        self.data: Any = self._plain(node, ()) if node is not None else {}
        if not isinstance(self.data, dict):
            fault = Fault("", "the file must hold `key: value` lines", 1)
            raise FileFaults(str(path), [fault], what=what, fix=f"see `llmops explain {what}`")

    def _plain(self, node: yaml.Node, where: Where) -> Any:
        self.lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = str(key_node.value)
                here = (*where, key)
                line = key_node.start_mark.line + 1
                if key in mapping:
                    first = self.lines[here]
                    self.faults.append(Fault(_dotted(here), f"written twice, first on line {first}", line))
                    continue
                self.lines[here] = line
                mapping[key] = self._plain(value_node, here)
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*where, index)) for index, item in enumerate(node.value)]
        # Scalars take YAML's own types through the constructor of the safe loader.
        return yaml.safe_load(yaml.serialize(node)) if node.tag != "tag:yaml.org,2002:str" else node.value

    def set(self, override: str) -> None:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise InputError(
                f"--set {override!r} is no key=value", fix="write for example --set optimizer.learning_rate=1e-4"
            )
        *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        current = self.data
        for depth, part in enumerate(parents):
            if isinstance(current, dict):
                if not isinstance(current.get(str(part)), dict | list):
                    current[str(part)] = {}
                current = current[str(part)]
            elif isinstance(current, list) and isinstance(part, int) and part < len(current):
                current = current[part]
            else:
                raise InputError(
                    f"--set {override!r}: there is no {_dotted(tuple(parents[: depth + 1]))}",
                    fix="name a key of the file; lists take a number from 0",
                )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(
                f"--set {override!r}: the value is not YAML", fix="quote the value, as in --set 'name=\"a: b\"'"
            ) from error
        if isinstance(current, list):
            if not isinstance(last, int) or last >= len(current):
                raise InputError(
                    f"--set {override!r}: the list has no entry {last}", fix=f"give a number below {len(current)}"
                )
            current[last] = value
        else:
            current[str(last)] = value

    def resolve_environment(self, environment: Mapping[str, str]) -> None:
        self.data = self._resolve(self.data, (), environment)

    def _resolve(self, value: Any, where: Where, environment: Mapping[str, str]) -> Any:
        if isinstance(value, dict):
            return {key: self._resolve(item, (*where, key), environment) for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolve(item, (*where, index), environment) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value

        def fill(match: re.Match[str]) -> str:
            name, default = match.group(1), match.group(2)
            if name in environment:
                return environment[name]
            if default is not None:
                return default
            problem = f"the environment has no {name}; set it, or write ${{{name}:-a default}}"
            self.faults.append(Fault(_dotted(where), problem, self.line(where)))
            return match.group(0)

        return _REFERENCE.sub(fill, value)

    def line(self, where: Where) -> int | None:
        """The line of a key, or of the nearest key around it."""
        while where not in self.lines and where:
            where = where[:-1]
        return self.lines.get(where) if where else None


def _fault(detail: ErrorDetails, model: type[Settings], document: _Document) -> Fault:
    location = tuple(detail["loc"])
    where = _in_file(location, document.data, missing=detail["type"] == "missing")
    known = list(_keys_at(model, location[:-1]))
    match detail["type"]:
        case "extra_forbidden":
            problem = f"no such key{nearest(str(location[-1]), known)}"
            if problem == "no such key":
                problem += f"; known here: {', '.join(sorted(set(known)))}"
        case "missing":
            return Fault(_dotted(where), "missing", document.line(where[:-1]))
        case "union_tag_not_found":
            problem = f"`{detail['ctx']['discriminator'].strip(chr(39))}` is missing"
        case "union_tag_invalid":
            expected = detail["ctx"]["expected_tags"]
            problem = f"{detail['ctx']['discriminator'].strip(chr(39))} must be one of {expected} "
            problem += f"(got {detail['ctx']['tag']!r})" + nearest(
                detail["ctx"]["tag"], re.findall(r"'([^']+)'", expected)
            )
        case "value_error":
            problem = str(detail["ctx"]["error"])
        case "literal_error":
            expected = detail["ctx"]["expected"]
            problem = f"must be {expected} (got {detail['input']!r})"
            problem += nearest(str(detail["input"]), re.findall(r"'([^']+)'", expected))
        case _:
            got = detail["input"]
            shown = "" if isinstance(got, dict | list) and len(repr(got)) > 60 else f" (got {got!r})"
            problem = f"{detail['msg']}{shown}"
    return Fault(_dotted(where), problem, document.line(where))


def _in_file(location: Where, data: Any, *, missing: bool) -> Where:
    """The error's place in the file: pydantic's location less the tags of unions."""
    where: Where = ()
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(data, dict) and part in data:  # noqa: SIM114 (the two narrow to different types)
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif not (last and missing):
            continue
        where = (*where, part)
    return where


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every settings model an annotation mentions, through unions, lists, mappings and `Annotated`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for part in get_args(annotation):
        yield from models_in(part)


def _keys_at(model: type[BaseModel], location: Where) -> Iterator[str]:
    """Keys that may stand at `location`; where a union leaves it open, those of all its members."""
    candidates: list[type[BaseModel]] = [model]
    for part in location:
        inner = [
            found
            for candidate in candidates
            if part in candidate.model_fields
            for found in models_in(candidate.model_fields[str(part)].annotation)
        ]
        if inner:
            candidates = inner
        elif isinstance(part, str):
            tagged = [candidate for candidate in candidates if _has_tag(candidate, part)]
            candidates = tagged or candidates
    for candidate in candidates:
        yield from candidate.model_fields


def _has_tag(model: type[BaseModel], tag: str) -> bool:
    return any(tag in get_args(field.annotation) for field in model.model_fields.values())


def _dotted(where: Where) -> str:
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
