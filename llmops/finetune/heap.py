"""The C library's heap while training on a CPU: kept between passes, given back at the end.

A backward pass frees what its forward pass took. glibc gives the free end of its heap back to the system and asks
for it again in the next pass, page by page: with 8,000 tokens a pass that took an eighth of the time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_LARGEST_BLOCK = 32 << 20
"""Larger ones are always the system's own (HEAP_MAX_SIZE / 2, mallopt(3)); glibc moves towards it by itself."""
_NEVER = 2**31 - 1
_USUAL = 2 * _LARGEST_BLOCK
"""Where glibc's own adjustment ends."""


@contextmanager
def kept_heap(*, on_cpu: bool) -> Iterator[None]:
    """Keep what is freed within; does nothing on a GPU, or with another C library than glibc."""
    library = _glibc() if on_cpu else None
    if library is None:
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_TRIM_THRESHOLD, _USUAL)
        library.malloc_trim(0)


def _glibc() -> Any:
    library = ctypes.CDLL(None)
    return (
        library if all(hasattr(library, name) for name in ("mallopt", "malloc_trim", "gnu_get_libc_version")) else None
    )
