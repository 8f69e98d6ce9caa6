"""Exports as folders: rows by split, the ratings that made none, and what is to be known of all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Protocol

from llmops.errors import InputError
from llmops.feedback.export import Exporting, Row
from llmops.feedback.settled import Excluded
from llmops.files import canonical_json, new_folder, write_json
from llmops.stats import wilson

FileFormat = Literal["jsonl", "parquet"]
FORMAT = 1
"""Of export.json; a change that an older reader would misread adds one."""
_AT_ONCE = 2_000
"""Rows of one group of a parquet file."""


class _Out(Protocol):
    def add(self, columns: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


def write(
    out: Path,
    made: Exporting,
    rows: Iterator[Row | Excluded],
    *,
    campaign: Mapping[str, Any],
    file_format: FileFormat = "jsonl",
    record: Callable[[Path, dict[str, Any]], None] = lambda folder, about: None,
) -> dict[str, Any]:
    """Write `train` and, where something is held out, `validation`, `excluded.jsonl` and `export.json` into a new
    folder, all or nothing; what export.json says.

    Args:
        campaign: what the export is of, as it stands in export.json.
        record: is told what export.json says and where all files are before they get to `out`: no rows get out that
            nobody knows of.

    Raises:
        InputError: no rating makes a row; why is said.
    """
    if out.exists() and not (out / "export.json").is_file():
        raise InputError(f"{out} is there already, and is no export", fix="name another folder with --out")
    digest = hashlib.sha256()
    with new_folder(out) as folder, ExitStack() as open_files:
        files: dict[str, _Out] = {}
        excluded = _Lines(folder / "excluded.jsonl")
        open_files.callback(excluded.close)
        for one in rows:
            if isinstance(one, Excluded):
                excluded.add({"rating": one.rating, "item": one.item, "reason": one.reason})
                continue
            if one.split not in files:
                kind = _Lines if file_format == "jsonl" else _Parquet
                files[one.split] = kind(folder / f"{one.split}.{file_format}")
                open_files.callback(files[one.split].close)
            files[one.split].add(one.columns)
            digest.update(one.split.encode() + b"\0" + canonical_json(one.columns) + b"\n")
        if not made.rows:
            raise InputError(
                f"no rating of {campaign['name']} makes a row for {made.purpose}: {_most(made)}",
                fix="look at `llmops feedback report`, export for another purpose, or collect more ratings",
            )
        open_files.close()
        about = {
            "format": FORMAT,
            "digest": digest.hexdigest(),
            "for": made.purpose,
            "campaign": dict(campaign),
            "rows": dict(made.rows),
            "ratings_excluded": dict(made.reasons.most_common()),
            "raters": sorted(made.raters),
            "settled_by": made.settled.method,
            "sure": made.sure,
            "length_bias": length_bias(made),
        }
        write_json(folder / "export.json", about)
        record(folder, about)
    return about


def length_bias(made: Exporting) -> dict[str, Any] | None:
    """Of pairs whose sides differ in length, the share in which the longer is chosen, with its 95 % interval (Wilson);
    half is no bias. None where there are no such pairs."""
    longer, shorter = made.longer["chosen"], made.longer["rejected"]
    if not longer + shorter:
        return None
    pairs = longer + shorter
    low, high = wilson(longer, pairs, 0.95)
    return {"longer_chosen": longer / pairs, "low": low, "high": high, "pairs": pairs}


def _most(made: Exporting) -> str:
    told = [f"{reason} ({number})" for reason, number in made.reasons.most_common(3)]
    return "; ".join(told) or "there are no ratings"


class _Lines:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def add(self, columns: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(columns, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[Mapping[str, Any]] = []
        self._writer: Any = None

    def add(self, columns: Mapping[str, Any]) -> None:
        self._waiting.append(columns)
        if len(self._waiting) == _AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        from pyarrow import Table
        from pyarrow.parquet import ParquetWriter

        if not self._waiting:
            return
        table = Table.from_pylist(self._waiting, schema=_schema(self._waiting[0]))
        if self._writer is None:
            self._writer = ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)
        self._waiting = []


def _schema(columns: Mapping[str, Any]) -> Any:
    """Said, not guessed: a group whose values are all missing must have the types of the others."""
    import pyarrow as pa

    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    kinds: dict[str, Any] = dict.fromkeys(("prompt", "chosen", "rejected", "completion", "messages"), turns)
    kinds |= dict.fromkeys(("ratings", "rubrics"), pa.list_(pa.string()))
    kinds |= dict.fromkeys(("margin", "agreement", "confidence", "probability"), pa.float64())
    kinds |= {"raters": pa.int64(), "label": pa.bool_()}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in columns])
