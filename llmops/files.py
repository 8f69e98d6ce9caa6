"""Writing so that a kill at any instant leaves the old state or the new, never half; digests of content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def canonical_json(value: Any) -> bytes:
    """The one JSON form digests are taken of: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def ordered_json(value: Any) -> bytes:
    """The JSON form rows are kept in: keys in their own order, which a model reads, else as `canonical_json`."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


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


_MODEL_FILES = (".safetensors", ".json", ".jinja", ".model")


def is_model_file(path: Path, suffixes: tuple[str, ...] = _MODEL_FILES) -> bool:
    """Whether a file is part of a model: `manifest.json`, the card and the bill of materials only describe it."""
    describes = path.name == "manifest.json" or path.name.endswith(".cdx.json")
    return path.is_file() and path.suffix in suffixes and not describes


def folder_digest(folder: Path, *, suffixes: tuple[str, ...] = _MODEL_FILES) -> str:
    """sha256 over the sorted `(relative name, file digest)` of a folder's model files."""
    parts = [
        [path.relative_to(folder).as_posix(), file_digest(path)]
        for path in sorted(folder.rglob("*"))
        if is_model_file(path, suffixes)
    ]
    return digest_of(parts)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace the file at `path` atomically; its folder is made when missing.

    A file that was there keeps its permissions and, where this process may give files away, its owner; a new one
    gets `mode`, by which all can read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            if path.exists():
                was = path.stat()
                mode = was.st_mode & 0o777
                if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()):
                    with suppress(PermissionError):
                        os.fchown(file.fileno(), was.st_uid, was.st_gid)
            os.fchmod(file.fileno(), mode)
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
    """Flush every file below `folder`, and the names in it, to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as opened:
                os.fsync(opened.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def put_in_place(fresh: Path, path: Path) -> None:
    """Give the finished folder `fresh`, on the same disk, the name `path`; what had the name is removed.

    A kill at any instant leaves the old folder or the new one at `path`: the two swap names in one call.
    Where the system or its file system has no such call (it is Linux's), the old one is moved aside first;
    a kill between the two moves then leaves it for `recover`.
    """
    fresh.chmod(0o755)
    while True:
        try:
            os.rename(fresh, path)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if _swap(fresh, path):
            _remove(fresh)
            break
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
        with suppress(FileNotFoundError):  # another process moved it aside just now
            os.rename(path, aside / "was")
    sync_folder(path.parent)
    for left in _aside(path):
        _remove(left)


def recover(path: Path) -> None:
    """Bring back a folder that a kill in the middle of `put_in_place` left aside; else do nothing."""
    for left in _aside(path):
        if not path.exists():
            with suppress(OSError):  # another process was faster
                os.rename(left / "was", path)


def _aside(path: Path) -> list[Path]:
    """Where folders that had the name `path` were moved to and not yet removed."""
    name = re.compile(rf"\.{re.escape(path.name)}\.old\.\w{{8}}")
    return sorted(one for one in path.parent.iterdir() if name.fullmatch(one.name)) if path.parent.is_dir() else []


def _swap(one: Path, other: Path) -> bool:
    """Let two paths swap names in one step; False where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library without it
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE in Linux's headers
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


_ABANDONED_S = 86_400.0


def _remove_abandoned(path: Path) -> None:
    """What killed processes left half filled a day ago or earlier; a younger folder may be another's at work."""
    for left in path.parent.glob(f".{path.name}.new.*"):
        # Another process may put its folder in place, or remove this one, at the same moment.
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` whole or not at all.

    Yields a temporary folder beside it to fill; on leaving without an error it is flushed and put in place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    _remove_abandoned(path)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new."))
    try:
        yield fresh
        sync_tree(fresh)
        put_in_place(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
