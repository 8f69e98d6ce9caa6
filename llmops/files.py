"""Writing so that a kill at any instant leaves the old state or the new, never half; digests of content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def canonical_json(value: Any) -> bytes:
    """The one JSON form digests are taken of: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """sha256 (hex) over the canonical JSON form of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) over a file's bytes, read in blocks."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            sha.update(block)
    return sha.hexdigest()


def folder_digest(folder: Path, *, suffixes: tuple[str, ...] = (".safetensors", ".json", ".jinja", ".model")) -> str:
    """sha256 over the sorted `(relative name, file digest)` of a folder's model files.

    `manifest.json` and the card are left out: they describe the bytes, they are not part of them.
    """
    parts = [
        [str(path.relative_to(folder)), file_digest(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in suffixes and path.name != "manifest.json"
    ]
    return digest_of(parts)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path` atomically; its folder is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """Replace the text file at `path` atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace the JSON file at `path` atomically; readable, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sync_tree(folder: Path) -> None:
    """Flush every file below `folder` to the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def put_in_place(fresh: Path, path: Path) -> None:
    """Give the finished folder `fresh`, on the same disk, the name `path`.

    A folder that was there is moved aside first and then removed, so that a kill leaves one of the two.
    """
    fresh.chmod(0o755)
    old = None
    if path.exists():
        old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
        os.replace(path, old / "was")
    os.replace(fresh, path)
    sync_folder(path.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` whole or not at all.

    Yields a temporary folder beside it to fill; on leaving without an error it is flushed and put in place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new."))
    try:
        yield fresh
        sync_tree(fresh)
        put_in_place(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
