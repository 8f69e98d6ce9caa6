"""What libraries say aloud that nobody who uses llmops can act on."""

from __future__ import annotations

import logging

_NEEDLESS = {
    # On import, which peft does: it found none of a hub's kernels, which are for answering and never fetched here.
    "bitsandbytes.backends.cpu.ops",
    # For every layer and pass in 8 bits: it multiplies in float16, by design.
    "bitsandbytes.autograd._functions",
}


def quieten() -> None:
    """Have this process hear only errors of them; called where a process begins, before they are imported."""
    for name in _NEEDLESS:
        logging.getLogger(name).setLevel(logging.ERROR)
