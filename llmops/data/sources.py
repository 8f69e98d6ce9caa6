"""Where rows are read, whatever the place: files, folders, URLs, the hub, Delta tables, the embedded domains.

Knows places and their digests; what is inside a file is `filetypes.py`, what becomes of a row `formats.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from llmops.data.filetypes import ENDINGS, FileType, Records, filetype_of, rows_in
from llmops.data.hub import Hub, HuggingFace
from llmops.data.section import DataSection, Origin, Rows
from llmops.data.templates import missing_columns
from llmops.errors import EnvironmentFault, InputError, LlmopsError, nearest
from llmops.files import digest_of, file_digest, write_json

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LOOKED_AT = 100  # rows whose keys are a jsonl source's columns; its rows need not all have the same
_SETTLED_S = 2.0  # a file changed less long ago may change again without its time of change moving
_BESIDE_ROWS = {"dataset_info.json", "state.json", "dataset_dict.json"}  # what `datasets` writes beside rows


@dataclass(frozen=True, slots=True)
class _File:
    """One file to read: `name` as faults call it, `open` from its start."""

    name: str
    filetype: FileType
    open: Callable[[], BinaryIO]


def read(origin: Origin, *, hub: Hub | None = None) -> Records:
    """The rows of a source, streamed: `(line, columns)`.

    `line` counts from 1: the line a row starts on where the source is one csv, tsv or jsonl
    file; otherwise the number of the row in the source, through all files of a folder.
    Stops after `origin.take` rows.

    Raises:
        InputError: the source is not there, cannot be read as its format, or has no rows.
        EnvironmentFault: a package or the network is missing.
    """
    empty = True
    for record in islice(_records(origin, hub or HuggingFace()), origin.take):
        empty = False
        yield record
    if empty:
        raise InputError(f"{origin.source} has no rows", fix="give a source with at least one row below its header")


def pin(origin: Origin, *, hub: Hub | None = None) -> Origin:
    """The same origin with the revision it means at this moment written out, where it can move (hub, Delta)."""
    if _is_delta(origin):
        return origin.model_copy(update={"revision": str(_delta_table(origin).version())})
    if origin.source.startswith("hub:"):
        name, _ = _hub_name(origin)
        return origin.model_copy(update={"revision": (hub or HuggingFace()).commit(name, origin.revision)})
    return origin


def source_digest(origin: Origin, cache: Path, *, hub: Hub | None = None) -> str:
    """What the source holds at this moment, as text that changes when it does.

    sha256 of the bytes for files (of all names and bytes for a folder); `commit …` for the
    hub; `<table id>@<version>` for Delta; the store's own tag and size for other URLs. A
    file whose path, size, times and inode are those of last time is not read again.

    Args:
        cache: a folder where digests of files are remembered.
    """
    source = origin.source
    if source.startswith("builtin:"):
        return digest_of([columns for _, columns in _builtin(origin)])
    if _is_delta(origin):
        table = _delta_table(origin)
        return f"{table.metadata().id}@{table.version()}"
    if source.startswith("hub:"):
        _, config = _hub_name(origin)
        commit = pin(origin, hub=hub).revision
        return f"commit {commit} {config or ''} {origin.split}".replace("  ", " ")
    if _is_url(source):
        return _url_digest(origin)
    path = _local(source)
    files = _local_files(origin)
    if path.is_file():
        return _remembered_digest(path, cache)
    inside = [Path(file.name) for file in files]
    return digest_of([[one.relative_to(path).as_posix(), _remembered_digest(one, cache)] for one in inside])


def folder_digests(origin: Origin, cache: Path) -> tuple[str, ...]:
    """Digests of the bytes of each file of a local folder; none for other sources. `cache` as in `source_digest`."""
    if _is_delta(origin) or not is_local(origin) or not _local(origin.source).is_dir():
        return ()
    return tuple(_remembered_digest(Path(file.name), cache) for file in _local_files(origin))


def is_local(origin: Origin) -> bool:
    """Whether reading the source needs nothing but this machine's disk."""
    if _is_delta(origin):
        return not _is_url(_delta_address(origin))
    return not origin.source.startswith("hub:") and not _is_url(origin.source)


def with_columns_checked(spec: Rows, records: Records) -> Records:
    """`records` themselves, after a look at the first of them.

    Raises:
        InputError: the source lacks a column that `spec` names; those it has are listed.
    """
    first = list(islice(records, 1))
    known = dict.fromkeys(name for _, columns in first for name in columns)
    problem = missing_columns(spec, list(known))
    if problem is not None:
        first += islice(records, _LOOKED_AT - 1)
        known = dict.fromkeys(name for _, columns in first for name in columns)
        problem = missing_columns(spec, list(known))
    if problem is not None:
        raise InputError(problem, fix="name one of these columns in the recipe's data section")
    return chain(first, records)


def check_columns(section: DataSection) -> None:
    """Open every local source and look at its first rows, before anything is loaded.

    Raises:
        InputError: a file is missing, malformed at its start or empty, or lacks a column; all sources
            at fault are named together.
    """
    faults: list[LlmopsError] = []
    held_out = section.validation if isinstance(section.validation, list) else []
    for spec in (*section.train, *held_out):
        if not is_local(spec):
            continue
        try:
            with_columns_checked(spec, read(spec))
        except InputError as fault:
            faults.append(fault)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise InputError("\n".join(fault.problem for fault in faults), fix=faults[0].fix)


def _records(origin: Origin, hub: Hub) -> Iterator[tuple[int, dict[str, Any]]]:
    source = origin.source
    if source.startswith("builtin:"):
        yield from _builtin(origin)
    elif _is_delta(origin):
        yield from _delta_rows(origin)
    elif source.startswith("hub:"):
        name, config = _hub_name(origin)
        commit = origin.revision if origin.revision is not None else hub.commit(name, None)
        rows = iter(hub.rows(name, config=config, split=origin.split, commit=commit))
        for number, columns in enumerate(rows, 1):
            yield number, dict(columns)
    else:
        files = _url_files(origin) if _is_url(source) else _local_files(origin)
        one = len(files) == 1
        number = 0
        for file in files:
            with file.open() as opened:
                for line, columns in rows_in(opened, file.filetype, name=file.name):
                    number += 1
                    yield line if one else number, columns


def _builtin(origin: Origin) -> Records:
    from llmops.builtin.domains import rows

    domain, _, split = origin.source.removeprefix("builtin:").partition("/")
    for number, columns in enumerate(rows(domain, split or origin.split), 1):
        yield number, dict(columns)


def _hub_name(origin: Origin) -> tuple[str, str | None]:
    """`org/name` and the configuration, if a third part names one."""
    parts = origin.source.removeprefix("hub:").split("/")
    if not all(parts) or len(parts) > 3:
        raise InputError(f"{origin.source} names no data set", fix="write hub:org/name, or hub:org/name/configuration")
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None


# ── files of this machine ──────────────────────────────────────────────────────────────────────────────────────────


def _is_url(source: str) -> bool:
    return bool(_URL.match(source)) and not source.lower().startswith("file://")


def _local(source: str) -> Path:
    return Path(re.sub("^file://", "", source, flags=re.IGNORECASE)).expanduser()


def _file_type(origin: Origin, name: str) -> FileType:
    filetype = origin.format if origin.format not in (None, "delta") else filetype_of(name)
    if filetype is None:
        raise InputError(
            f"{name}: the ending does not say how the file is written",
            fix=f"set `format:` to one of {', '.join(sorted(set(ENDINGS.values())))}",
        )
    return cast("FileType", filetype)


def _wanted(origin: Origin, name: str) -> bool:
    """Whether a folder's file holds rows: known by its ending, or all that are not hidden where `format` is given."""
    last = name.rsplit("/", 1)[-1]
    if last.startswith((".", "_")) or last in _BESIDE_ROWS:
        return False
    return origin.format is not None or filetype_of(last) is not None


def _local_files(origin: Origin) -> list[_File]:
    path = _local(origin.source)
    if path.is_dir():
        inside = sorted(found for found in path.rglob("*") if found.is_file())
        found = [one for one in inside if _wanted(origin, one.relative_to(path).as_posix())]
        return _not_empty(origin, [_local_file(origin, one) for one in found])
    if not path.is_file():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(
            f"there is no file or folder {path}{nearest(path.name, beside)}",
            fix="check `source:`; paths start at the folder llmops is run in",
        )
    return [_local_file(origin, path)]


def _local_file(origin: Origin, path: Path) -> _File:
    def opened() -> BinaryIO:
        try:
            return path.open("rb")
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror})", fix="give this user the right to read it"
            ) from error

    return _File(str(path), _file_type(origin, path.name), opened)


def _not_empty(origin: Origin, files: list[_File]) -> list[_File]:
    if not files:
        raise InputError(
            f"the folder {origin.source} holds no file with rows",
            fix=f"put files ending in {' '.join(ENDINGS)} there, or set `format:`",
        )
    return files


def _remembered_digest(path: Path, cache: Path) -> str:
    """A file's digest, from memory where nothing about the file has changed since it was read."""
    path = path.resolve()
    at = path.stat()
    seen = [str(path), at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino]
    memory = cache / "file-digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    if memory.is_file():
        known = json.loads(memory.read_bytes())
        if known["seen"] == seen:
            return str(known["digest"])
    digest = file_digest(path)
    if time.time() - at.st_mtime > _SETTLED_S:
        write_json(memory, {"seen": seen, "digest": digest})
    return digest


# ── URLs, through fsspec ───────────────────────────────────────────────────────────────────────────────────────────


def _filesystem(source: str) -> tuple[Any, str]:
    """The file system behind a URL, and the path inside it."""
    import fsspec
    from fsspec.registry import known_implementations

    protocol = source.split("://", 1)[0].split("::")[-1].lower()
    try:
        filesystem, path = fsspec.core.url_to_fs(source)
    except ImportError as error:
        module = str(known_implementations.get(protocol, {}).get("class", protocol)).split(".")[0]
        package = (error.name or "aiohttp requests") if module == "fsspec" else module.replace("_", "-")
        raise EnvironmentFault(
            f"{source}: reading {protocol}:// needs the package {package}", fix=f"run `pip install {package}`"
        ) from error
    except ValueError as error:
        known = sorted(known_implementations)
        raise InputError(
            f"{source}: no package reads {protocol}://{nearest(protocol, known)}",
            fix="use for example s3, gs, https, dvc or lakefs, or a local path",
        ) from error
    return filesystem, str(path)


def _at_url(source: str, ask: Callable[[], Any]) -> Any:
    """What the store answers; its own errors, of many kinds, become ours."""
    try:
        return ask()
    except FileNotFoundError as error:
        raise InputError(f"there is nothing at {source}", fix="check `source:`") from error
    except Exception as error:
        raise EnvironmentFault(
            f"{source} cannot be read ({type(error).__name__}: {error})",
            fix="check the network and the credentials of this store",
        ) from error


def _url_paths(origin: Origin) -> tuple[Any, list[str]]:
    filesystem, path = _filesystem(origin.source)
    if _at_url(origin.source, lambda: filesystem.isdir(path)) and filetype_of(path) is None:
        inside = _at_url(origin.source, lambda: filesystem.find(path))
        return filesystem, sorted(name for name in inside if _wanted(origin, name.removeprefix(path).lstrip("/")))
    return filesystem, [path]


def _url_files(origin: Origin) -> list[_File]:
    filesystem, paths = _url_paths(origin)

    def opener(path: str) -> Callable[[], BinaryIO]:
        return lambda: cast("BinaryIO", _at_url(origin.source, lambda: filesystem.open(path, "rb")))

    return _not_empty(origin, [_File(path, _file_type(origin, path), opener(path)) for path in paths])


def _url_digest(origin: Origin) -> str:
    filesystem, paths = _url_paths(origin)
    parts = []
    for path in paths:
        info: Mapping[str, Any] = _at_url(origin.source, partial(filesystem.info, path))
        tags = ("ETag", "etag", "e_tag", "Content-MD5", "md5Hash", "md5", "checksum", "generation", "Last-Modified")
        tag = next((str(info[name]) for name in tags if info.get(name)), None)
        if tag is None and "http" in str(filesystem.protocol):
            tag = _stream_digest(filesystem, path)  # a server that tags nothing: only the bytes tell
        parts.append([path, info.get("size"), tag if tag is not None else str(filesystem.ukey(path))])
    return digest_of(parts)


def _stream_digest(filesystem: Any, path: str) -> str:
    with filesystem.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ── Delta tables ───────────────────────────────────────────────────────────────────────────────────────────────────


def _is_delta(origin: Origin) -> bool:
    if origin.format == "delta" or origin.source.startswith("delta:"):
        return True
    return not _is_url(origin.source) and origin.format is None and (_local(origin.source) / "_delta_log").is_dir()


def _delta_address(origin: Origin) -> str:
    address = origin.source.removeprefix("delta:")
    return address if _is_url(address) else str(_local(address))


def _delta_table(origin: Origin) -> Any:
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError
    except ImportError as error:
        raise EnvironmentFault(
            f"{origin.source}: reading a Delta table needs the package deltalake", fix="run `pip install deltalake`"
        ) from error
    address, version = _delta_address(origin), origin.revision
    if version is not None and not version.isdigit():
        raise InputError(f"{origin.source}: revision {version!r} is no version of a Delta table", fix="give a number")
    try:
        return DeltaTable(address, version=int(version) if version is not None else None)
    except TableNotFoundError as error:
        raise InputError(
            f"there is no Delta table at {address}", fix="give the folder that holds `_delta_log`"
        ) from error
    except (DeltaError, OSError, ValueError) as error:
        raise InputError(
            f"the Delta table {address} cannot be read: {str(error).splitlines()[0]}",
            fix="check `revision:` and the credentials of its store",
        ) from error


def _delta_rows(origin: Origin) -> Records:
    from deltalake.exceptions import DeltaError

    table = _delta_table(origin)
    try:
        dataset = table.to_pyarrow_dataset()
    except DeltaError as error:
        raise InputError(
            f"{origin.source}: this table uses a feature that cannot be read: {error}",
            fix="rewrite the table without it, or export parquet files",
        ) from error
    number = 0
    # Fragments in the order of their names: the log lists them in no order that lasts.
    for fragment in sorted(dataset.get_fragments(), key=lambda fragment: str(fragment.path)):
        for batch in fragment.to_batches(schema=dataset.schema, batch_size=1024):
            for columns in batch.to_pylist():
                number += 1
                yield number, columns
