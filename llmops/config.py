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
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from llmops.errors import Fault, FileFaults, InputError, nearest

Where = tuple[str | int, ...]


class Settings(BaseModel):
    """What a user writes: frozen, no unknown keys, each field documented by the string under it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


Model = TypeVar("Model", bound=Settings)

# `${NAME}`, `${NAME:-default}`, `$${…}`; also what looks like one and is none, so that it can be named.
_REFERENCE = re.compile(r"(?P<escape>\$?)\$\{(?P<inside>[^{}]*)(?P<end>\}?)")
_INSIDE = re.compile(r"(?P<name>[A-Za-z_]\w*)(?::-(?P<default>.*))?", re.DOTALL)


class _Yaml(yaml.SafeLoader):
    """YAML 1.2's core types: `off` and `no` are texts, 1e-4 is a number, 2026-01-01 and 12:30 are texts."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML fills it; an empty one leaves out its YAML 1.1 types)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def load(path: Path, model: type[Model], *, what: str, overrides: Sequence[str] = ()) -> Model:
    """The file at `path` as a `model`, after `overrides` (`a.b=value`, values in YAML).

    Texts may read the environment: `${NAME}`, or `${NAME:-default}` where NAME may be unset or empty;
    `$${NAME}` stands for the characters `${NAME}`.

    Args:
        what: the kind of file in the user's words; also what `llmops explain` calls it.

    Raises:
        FileFaults: anything in the file is wrong; all faults are named together.
        InputError: there is no such file, or an override is no `key=value`.
    """
    document = _Document(path, what)
    for override in overrides:
        document.set(override)
    document.resolve_environment(os.environ)
    try:
        value = model.model_validate(document.data)
    except ValidationError as error:
        document.faults += _faults(error.errors(include_url=False, include_input=True), model, document)
        value = None
    if document.faults or value is None:
        raise FileFaults(
            str(path),
            document.faults,
            what=what,
            fix=f"mend the keys above; `llmops explain {what}` lists all of them",
        )
    return value


def refuse(problems: Mapping[str, str] | Mapping[Where, str]) -> None:
    """For a model's validator: raise where rules over several keys are broken, each problem at a dotted key.

    Args:
        problems: by dotted key, or by its parts where a name that the user chose, with a dot perhaps, is among them.

    Raises:
        ValidationError: there are problems; `load` names all of them with the lines of their keys.
    """
    if problems:
        raise ValidationError.from_exception_data(
            "rules",
            [
                InitErrorDetails(
                    type=PydanticCustomError("rule", "{problem}", {"problem": problem}),
                    loc=tuple(key.split(".")) if isinstance(key, str) else key,
                    input=None,
                )
                for key, problem in problems.items()
            ],
        )


class _Document:
    """A YAML file as plain data, with the line of every key."""

    def __init__(self, path: Path, what: str) -> None:
        self.lines: dict[Where, int] = {}
        self.faults: list[Fault] = []
        self.overridden: list[Where] = []
        self.unresolved: set[Where] = set()
        try:
            node = yaml.compose(_text(path, what), Loader=_Yaml)
            self.data: Any = self._plain(node, ()) if node is not None else None
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else None
            hint = "; indent with spaces" if "'\\t'" in (error.problem or "") else ""
            fault = Fault("", f"not YAML: {error.problem or error.context}{hint}", line)
            raise FileFaults(str(path), [fault], what=what, fix="mend the line above") from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            fault = Fault("", f"not readable as YAML: {error}")
            raise FileFaults(str(path), [fault], what=what, fix="save the file as UTF-8 text") from error
        except RecursionError as error:
            fault = Fault("", "nested too deeply, or an alias stands inside what it names")
            raise FileFaults(str(path), [fault], what=what, fix="write the values out") from error
        if self.data is None:  # an empty file lacks what is required, no more
            self.data = {}
        if not isinstance(self.data, dict):
            fault = Fault("", "the file must hold `key: value` lines", 1)
            raise FileFaults(str(path), [fault], what=what, fix=f"see `llmops explain {what}`")

    def fault(self, where: Where, problem: str) -> Fault:
        """A fault at a key, with its line, or saying that the value came from the command line."""
        if any(where[: len(over)] == over for over in self.overridden):
            return Fault(_dotted(where), f"{problem} (given by --set)")
        return Fault(_dotted(where), problem, self.line(where))

    def line(self, where: Where) -> int | None:
        """The line of a key, or of the nearest key around it."""
        while where not in self.lines and where:
            where = where[:-1]
        return self.lines.get(where) if where else None

    def _plain(self, node: yaml.Node, where: Where) -> Any:
        self.lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                line = key_node.start_mark.line + 1
                if not isinstance(key_node, yaml.ScalarNode):
                    self.faults.append(Fault(_dotted(where), "a key must be one word, not a list or a map", line))
                    continue
                here = (*where, key_node.value)
                if key_node.value in mapping:
                    first = self.lines[here]
                    self.faults.append(Fault(_dotted(here), f"written twice, first on line {first}", line))
                    continue
                self.lines[here] = line
                mapping[key_node.value] = self._plain(value_node, here)
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*where, index)) for index, item in enumerate(node.value)]
        try:
            return _Yaml("").construct_document(node)
        except ValueError as error:  # a tag the value does not bear, such as `!!int x`
            self.faults.append(Fault(_dotted(where), str(error), node.start_mark.line + 1))
            return node.value

    def set(self, override: str) -> None:
        """Give one key another value; keys on the way to it are made, entries of lists are not."""
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise InputError(
                f"--set {override!r} is no key=value", fix="write for example --set optimizer.learning_rate=1e-4"
            )
        # Both `train.0.take` and `train[0].take`, as faults are printed, name an entry of a list.
        dotted = re.sub(r"\[(\d+)\]", r".\1", key)
        *parents, last = [int(part) if part.isdecimal() else part for part in dotted.split(".")]
        current = self.data
        where: Where = ()
        for part in parents:
            if isinstance(current, dict):
                if not isinstance(current.get(str(part)), dict | list):
                    current[str(part)] = {}
                current = current[str(part)]
                where = (*where, str(part))
            elif isinstance(part, int) and part < len(current) and isinstance(current[part], dict | list):
                current = current[part]
                where = (*where, part)
            else:
                raise InputError(
                    f"--set {override!r}: there is no {_dotted((*where, part))}",
                    fix="name a key of the file; lists take a number from 0",
                )
        try:
            value = yaml.load(text, Loader=_Yaml)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InputError(
                f"--set {override!r}: the value is not YAML", fix="quote the value, as in --set 'name=\"a: b\"'"
            ) from error
        if isinstance(current, list):
            if not isinstance(last, int) or last >= len(current):
                raise InputError(
                    f"--set {override!r}: the list has no entry {last}",
                    fix=f"give a number below {len(current)}, or the whole list in [ ]",
                )
            current[last] = value
            self.overridden.append((*where, last))
        else:
            current[str(last)] = value
            self.overridden.append((*where, str(last)))

    def resolve_environment(self, environment: Mapping[str, str]) -> None:
        self.data = self._resolve(self.data, (), environment)

    def _resolve(self, value: Any, where: Where, environment: Mapping[str, str]) -> Any:
        if isinstance(value, dict):
            return {key: self._resolve(item, (*where, key), environment) for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolve(item, (*where, index), environment) for index, item in enumerate(value)]
        if not isinstance(value, str):
            return value

        def fill(match: re.Match[str]) -> str:
            if match["escape"]:
                return match[0][1:]
            inside = _INSIDE.fullmatch(match["inside"])
            if inside is None or not match["end"]:
                self.unresolved.add(where)
                self.faults.append(
                    self.fault(where, f"{match[0]!r} is no reference; write ${{NAME}} or ${{NAME:-default}}")
                )
                return match[0]
            name, default = inside["name"], inside["default"]
            given = environment.get(name)
            if default is not None:
                return given or default  # as in a shell, `:-` stands in for an empty value too
            if given is None:
                self.unresolved.add(where)
                problem = f"the environment has no {name}; set it, or write ${{{name}:-a default}}"
                self.faults.append(self.fault(where, f"{problem}, or $${{{name}}} for these very characters"))
                return match[0]
            return given

        return _REFERENCE.sub(fill, value)


def _text(path: Path, what: str) -> str:
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
        is_folder = path.is_dir()
        beside = [other.name for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", fix=f"give the path of a {what}") from error
    problem = f"{path} is a folder" if is_folder else f"there is no file {path}{nearest(path.name, beside)}"
    raise InputError(problem, fix=f"give the path of a {what}, a .yaml file")


def _faults(details: Sequence[ErrorDetails], model: type[Settings], document: _Document) -> Iterator[Fault]:
    """The faults behind pydantic's errors: one per place in the file.

    Where a key may hold this or that (a share, or a list), pydantic reports each
    alternative. Faults inside the alternative that was meant hide the others;
    where none was meant, they are named in one sentence.
    """
    located = [
        (_in_file(tuple(detail["loc"]), document.data, missing=detail["type"] == "missing"), detail)
        for detail in details
    ]
    alternatives: dict[Where, list[ErrorDetails]] = {}
    for where, detail in located:
        alternatives.setdefault(where, []).append(detail)
    for where, group in alternatives.items():
        shapes = [detail for detail in group if _wrong_shape(detail)]
        others = [detail for detail in group if not _wrong_shape(detail)]
        if where in document.unresolved:
            continue  # that its reference is unset is said already
        deeper = any(len(other) > len(where) and other[: len(where)] == where for other in alternatives)
        for detail in others:
            yield _fault(detail, where, model, document)
        if others or deeper or not shapes:
            continue
        if len(shapes) == 1:
            yield _fault(shapes[0], where, model, document)
        else:
            expected = " or ".join(dict.fromkeys(map(_expected, shapes)))
            yield document.fault(where, f"must be {expected}{_got(shapes[0]['input'])}")


def _wrong_shape(detail: ErrorDetails) -> bool:
    return detail["type"].endswith(("_type", "_parsing")) or detail["type"] == "literal_error"


def _expected(detail: ErrorDetails) -> str:
    if detail["type"] == "literal_error":
        return str(detail["ctx"]["expected"])
    return detail["msg"].removeprefix("Input should be ")


def _got(value: Any) -> str:
    return "" if isinstance(value, dict | list) and len(repr(value)) > 60 else f" (got {value!r})"


def _fault(detail: ErrorDetails, where: Where, model: type[Settings], document: _Document) -> Fault:
    location = tuple(detail["loc"])
    known = list(_keys_at(model, location[:-1]))
    match detail["type"]:
        case "extra_forbidden" if location[-1] == "<<":
            problem = "YAML merges are not supported; write the keys out"
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
                str(detail["ctx"]["tag"]), re.findall(r"'([^']+)'", expected)
            )
        case "value_error":
            problem = str(detail["ctx"]["error"])
        case "rule":
            problem = detail["msg"]
        case "literal_error":
            expected = detail["ctx"]["expected"]
            problem = f"must be {expected} (got {detail['input']!r})"
            problem += nearest(str(detail["input"]), re.findall(r"'([^']+)'", expected))
        case "string_type" if isinstance(detail["input"], bool | int | float):
            problem = f"must be text{_got(detail['input'])}; put it in quotes"
        case _:
            problem = f"{detail['msg']}{_got(detail['input'])}"
    return document.fault(where, problem)


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
