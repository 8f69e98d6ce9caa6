"""The file encoded rows are kept in: safetensors with flat arrays, written in a stream, mapped into memory.

offsets  int64    (sequences + 1,)  where each sequence begins in `ids` and `trained`
ids      int32    (tokens,)
weights  float32  (sequences,)
trained  uint8    (tokens,)         1 where a token is a label
values   float32  (sequences,)      what its row says of a sequence, as a label; only where rows say something
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from llmops.errors import InputError
from llmops.files import sync_folder

_BLOCK = 1 << 22
_DTYPES = {"offsets": ("I64", "<i8"), "ids": ("I32", "<i4"), "weights": ("F32", "<f4"), "trained": ("U8", "|u1")}
_VALUES = {"values": ("F32", "<f4")}


def read_arrays(path: Path) -> tuple[str, dict[str, NDArray[Any]]]:
    """The digest of the file's arrays and the arrays, mapped and not yet read.

    Raises:
        InputError: there is no such file, or it is torn.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if 0 < size < 1 << 20 else {}
        there = _DTYPES | {name: kind for name, kind in _VALUES.items() if name in header}
        maps = {name: _mapped(path, 8 + size, header[name], dtype) for name, (_, dtype) in there.items()}
        return str(header["__metadata__"]["digest"]), maps
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no encoded rows", fix="delete its folder; it is made again") from error


def _mapped(path: Path, start: int, entry: dict[str, Any], dtype: str) -> NDArray[Any]:
    begin, end = entry["data_offsets"]
    count = entry["shape"][0]
    if end - begin != count * np.dtype(dtype).itemsize or start + end > path.stat().st_size:
        raise ValueError("the file is shorter than its header says")
    return np.memmap(path, dtype=dtype, mode="r", offset=start + begin, shape=(count,))


class Writer:
    """Arrays of unknown length on their way into one safetensors file; leaving without `finish` leaves nothing.

    Args:
        values: whether the file has a number for each sequence beside its weight.
    """

    def __init__(self, path: Path, *, values: bool = False) -> None:
        self.path = path
        self._values = array("f") if values else None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._offsets = array("q", [0])
        self._weights = array("f")
        self._work: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        self._work = tempfile.TemporaryDirectory(dir=self.path.parent, prefix=f".{self.path.name}.")
        self._files: dict[str, IO[bytes]] = {
            name: (Path(self._work.name) / name).open("w+b") for name in ("ids", "trained")
        }
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        assert self._work is not None
        self._work.cleanup()

    def add(self, ids: NDArray[np.int32], trained: NDArray[np.bool_], weight: float, value: float = 0.0) -> None:
        self._files["ids"].write(ids.astype("<i4").tobytes())
        self._files["trained"].write(trained.astype("|u1").tobytes())
        self._offsets.append(self._offsets[-1] + len(ids))
        self._weights.append(weight)
        if self._values is not None:
            self._values.append(value)

    def finish(self) -> None:
        """Put the arrays together under a header that has their digest, and give the file its name."""
        assert self._work is not None
        sources: dict[str, Callable[[], Iterator[bytes]]] = {
            "offsets": lambda: iter([np.asarray(self._offsets, dtype="<i8").tobytes()]),
            "ids": lambda: _blocks(self._files["ids"]),
            "weights": lambda: iter([np.asarray(self._weights, dtype="<f4").tobytes()]),
            "trained": lambda: _blocks(self._files["trained"]),
        }
        tokens, sequences = self._offsets[-1], len(self._weights)
        counts = {"offsets": sequences + 1, "ids": tokens, "weights": sequences, "trained": tokens}
        arrays = _DTYPES
        if (values := self._values) is not None:
            arrays = _DTYPES | _VALUES
            counts["values"] = sequences
            sources["values"] = lambda: iter([np.asarray(values, dtype="<f4").tobytes()])
        header: dict[str, Any] = {}
        at = 0
        sha = hashlib.sha256()
        for name, (kind, dtype) in arrays.items():
            size = counts[name] * np.dtype(dtype).itemsize
            header[name] = {"dtype": kind, "shape": [counts[name]], "data_offsets": [at, at + size]}
            at += size
            sha.update(f"{name} {kind} {counts[name]}\n".encode())
            for block in sources[name]():
                sha.update(block)
        text = json.dumps({"__metadata__": {"digest": sha.hexdigest()}, **header}).encode()
        text += b" " * (-len(text) % 8)  # arrays begin at multiples of their item size
        whole = Path(self._work.name) / "whole"
        with whole.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in arrays:
                for block in sources[name]():
                    file.write(block)
            file.flush()
            os.fsync(file.fileno())
        os.replace(whole, self.path)
        sync_folder(self.path.parent)


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(_BLOCK):
        yield block
