"""Text with `{column}` in it: which columns it names, and what it says for one row."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from llmops.data.section import LabelledRows, MessageRows, PreferenceRows, PromptRows, Rows, TextRows
from llmops.errors import InputError, nearest

_PART = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")


class UnusableCell(ValueError):
    """A cell that cannot become text; the message says which and why."""


def columns_in(template: str) -> tuple[str, ...]:
    """Columns a template names, in order, each once; `{{` and `}}` are braces.

    Raises:
        InputError: a brace is left open or stands alone.
    """
    names: dict[str, None] = {}
    for part in _PART.finditer(template):
        if part.group(1) is not None:
            names[part.group(1)] = None
        elif part.group() in "{}":
            raise InputError(
                f"the template {template!r} has a single `{part.group()}` at character {part.start() + 1}",
                fix="write `{column}` for a column's text, `{{` and `}}` for braces that are meant",
            )
    return tuple(names)


def fill(template: str, columns: Mapping[str, Any]) -> str:
    """The template with each `{column}` replaced by its text; braces inside a cell stay as they are.

    Raises:
        UnusableCell: a column is missing, None, or no text; numbers are written out.
        InputError: the template itself is malformed.
    """

    def put(part: re.Match[str]) -> str:
        name = part.group(1)
        if name is None:
            return part.group()[0]
        return cell_text(name, columns)

    columns_in(template)
    return _PART.sub(put, template)


def cell_text(name: str, columns: Mapping[str, Any]) -> str:
    """The cell as text: strings as they are, finite numbers in Python's spelling.

    Raises:
        UnusableCell: anything else; there is no text 'None', 'nan' or 'True'.
    """
    if name not in columns:
        raise UnusableCell(f"column `{name}` is missing")
    value = columns[name]
    if isinstance(value, str):
        return value
    if value is None:
        raise UnusableCell(f"column `{name}` is empty (null)")
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise UnusableCell(f"column `{name}` holds {_kind(value)}, not text")
    if not math.isfinite(value):
        raise UnusableCell(f"column `{name}` is not a number (NaN or infinite)")
    return str(value)


def needed_columns(spec: Rows) -> dict[str, str]:
    """Columns that rows of `spec` are made of, each with the key that names it first.

    Raises:
        InputError: a template is malformed, or an answer would be the same in every row.
    """
    needed: dict[str, str] = {}
    match spec:
        case MessageRows():
            needed[spec.messages] = "messages"
            if spec.tools is not None:
                needed.setdefault(spec.tools, "tools")
        case TextRows():
            needed[spec.text] = "text"
        case PromptRows() | PreferenceRows() | LabelledRows():
            answers = ("chosen", "rejected") if isinstance(spec, PreferenceRows) else ("completion",)
            for key in ("system", "prompt", *answers):
                template = getattr(spec, key, None)
                if template is None:
                    continue
                names = columns_in(template)
                if not names and key in answers:
                    raise InputError(
                        f"{key} {template!r} names no column, so every row would have the same answer",
                        fix=f"write {key}: '{{{template}}}' if {template!r} is a column",
                    )
                for name in names:
                    needed.setdefault(name, key)
            if isinstance(spec, LabelledRows):
                needed.setdefault(spec.label, "label")
            if isinstance(spec, PreferenceRows) and spec.margin is not None:
                needed.setdefault(spec.margin, "margin")
    return needed


def whole_column(template: str) -> str | None:
    """The column a template consists of, as `{column}`; None where it is more than that or names none."""
    match = _PART.fullmatch(template)
    return match.group(1) if match else None


def missing_columns(spec: Rows, known: list[str]) -> str | None:
    """What `spec` asks of a source that has only the columns `known`, in one line; None where it has them all."""
    faults = [
        f"there is no column `{name}` (in `{key}`){nearest(name, known)}"
        for name, key in needed_columns(spec).items()
        if name not in known
    ]
    if not faults:
        return None
    return f"{spec.source}: {', '.join(faults)}; its columns are: {', '.join(known) or 'none'}"


def _kind(value: Any) -> str:
    words = {bool: "true or false", list: "a list", dict: "a mapping", bytes: "bytes"}
    return words.get(type(value), f"a {type(value).__name__}")
