"""What a batch has answered so far, in a file beside its output that only grows, so that a kill loses nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmops.errors import EnvironmentFault, InputError
from llmops.files import sync_folder

_SYNC_EVERY_S = 1.0  # what a power cut may lose; a kill loses nothing that was written


class Journal:
    """Results by row. In memory it holds 9 bytes a row.

    Attributes:
        done: rows with a result; `failed` of them have an error as theirs.
        seconds: that all earlier processes worked on it.
    """

    def __init__(self, file: Path, identity: Mapping[str, Any], rows: int) -> None:
        """Open or begin the journal of a batch.

        Args:
            identity: all that a result depends on; a journal of another batch is refused.

        Raises:
            InputError: it is another batch's.
            EnvironmentFault: another process is at work on it.
        """
        self.file = file
        self.rows = rows
        self.done = 0
        self.failed = 0
        self.seconds = 0.0
        self._at = array("q", bytes(8 * rows)) if rows else array("q")
        self._failed = bytearray(rows)
        self._lock = threading.Lock()
        self._started = self._synced = time.monotonic()
        file.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise EnvironmentFault(
                    f"another process is at work on {file.name.removesuffix('.journal')}",
                    fix="wait for it, or give another OUT",
                ) from None
            self._end = self._read(dict(identity))
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            os.fsync(self._handle)
            os.close(self._handle)

    def __contains__(self, row: int) -> bool:
        return self._at[row] > 0

    def add(self, row: int, result: Mapping[str, Any], *, failed: bool) -> None:
        """Keep the result of a row; one it had before is forgotten."""
        seconds = round(time.monotonic() - self._started, 3)
        with self._lock:
            at = self._append({"row": row, "seconds": seconds, "failed": failed, "result": result})
            self._take(row, at, failed)
            if time.monotonic() - self._synced > _SYNC_EVERY_S:
                os.fsync(self._handle)
                self._synced = time.monotonic()

    def forget_failed(self) -> int:
        """Have rows whose result is an error count as not answered; says how many. The file keeps them until then."""
        forgotten = [row for row in range(self.rows) if self._failed[row]]
        for row in forgotten:
            self._at[row] = 0
            self._failed[row] = 0
        self.done -= len(forgotten)
        self.failed = 0
        return len(forgotten)

    def results(self) -> Iterator[dict[str, Any]]:
        """The results in the order of the rows; all of them must have one."""
        with open(self.file, "rb") as opened:
            for at in self._at:
                if not at:
                    raise ValueError("a row has no result yet")
                opened.seek(at)
                yield json.loads(opened.readline())["result"]

    def remove(self) -> None:
        """Delete the file, whose results stand elsewhere now."""
        self.file.unlink(missing_ok=True)
        sync_folder(self.file.parent)

    def _take(self, row: int, at: int, failed: bool) -> None:
        self.done += not self._at[row]
        self.failed += failed - self._failed[row]
        self._at[row] = at
        self._failed[row] = failed

    def _append(self, entry: Mapping[str, Any]) -> int:
        """Write a line; returns where it begins. Half a line, on a full disk, is cut off again."""
        line, at, written = encoded(entry) + b"\n", self._end, 0
        try:
            while written < len(line):
                wrote = os.write(self._handle, line[written:])
                if not wrote:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file))
                written += wrote
        except OSError:
            os.ftruncate(self._handle, at)
            raise
        self._end += len(line)
        return at

    def _read(self, identity: dict[str, Any]) -> int:
        """Take in what is there and begin this process's part; returns where the file ends."""
        at, in_last = 0, 0.0
        with open(self.file, "rb") as opened:
            for line in opened:
                if not line.endswith(b"\n"):
                    break  # a kill or a power cut tore it
                entry = _parsed(line)
                if at == 0:
                    _same(self.file, (entry or {}).get("batch"), identity)
                elif entry is None:
                    pass  # a power cut may leave zeros where a line should be
                elif "row" in entry:
                    self._take(entry["row"], at, entry["failed"])
                    in_last = entry["seconds"]
                else:
                    self.seconds, in_last = self.seconds + in_last, 0.0
                at += len(line)
        self.seconds += in_last
        os.ftruncate(self._handle, at)
        self._end = at
        self._append({"batch": identity} if at == 0 else {"again": True})
        os.fsync(self._handle)
        sync_folder(self.file.parent)
        return self._end


def encoded(value: Any) -> bytes:
    """JSON in one line; halves of surrogate pairs, which UTF-8 cannot hold, are written as \\uXXXX."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs between the identities of two batches, in words."""
    names = [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]
    return [
        "the input file" if name == "input" else f"{name} ({one.get(name)!r} then, {other.get(name)!r} now)"
        for name in names
    ]


def _same(file: Path, begun: Any, identity: Mapping[str, Any]) -> None:
    if not isinstance(begun, dict):
        raise InputError(f"{file} is no journal of a batch", fix="move it away, or give another OUT")
    changed = difference(begun, identity)
    if changed:
        raise InputError(
            f"{file} was begun for another batch; what differs: {'; '.join(changed)}",
            fix="run it as it was begun, delete this file to begin anew, or give another OUT",
        )


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
