"""Rows of sources that somebody else may have named: what is at an http address is fetched from the public internet
alone, and no address is hidden in another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from llmops.data.filetypes import ENDINGS, filetype_of
from llmops.data.section import Origin
from llmops.data.sources import read
from llmops.errors import InputError
from llmops.public_web import Resolve, download, system_resolve

LONGEST_BYTES = 2_000_000_000
SECONDS = 900.0


def read_fetched(
    origin: Origin, *, private: bool = False, resolve: Resolve = system_resolve
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with their line numbers, as `read` gives them.

    Args:
        private: take addresses of this machine and network too.

    Raises:
        InputError: as `read`; or the address is none of the public internet, or one within another (`zip://a::b`).
    """
    source = origin.source
    if "::" in source:
        raise InputError(f"{source} holds one address within another", fix="fetch and unpack it, and name the file")
    url = urlsplit(source)
    if url.scheme.lower() not in ("http", "https"):
        yield from read(origin)
        return
    if filetype_of(source) is None and origin.format is None:
        known = ", ".join(sorted(ENDINGS))
        raise InputError(f"the ending of {url.path or source} says nothing known", fix=f"use one of: {known}")
    with TemporaryDirectory() as folder:
        place = Path(folder) / f"rows{PurePosixPath(url.path).suffix}"
        download(source, place, longest_bytes=LONGEST_BYTES, seconds=SECONDS, private=private, resolve=resolve)
        yield from read(origin.model_copy(update={"source": str(place)}))
