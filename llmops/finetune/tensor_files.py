"""Writing safetensors: a disk that is full is an `OSError` here as everywhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def system_errors() -> Iterator[None]:
    """Within it, what the operating system refuses safetensors is raised as the `OSError` it is.

    safetensors wraps it in an error of its own that ends in `(os error 28)`.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        code = int(number.group(1))
        raise OSError(code, os.strerror(code)) from error
