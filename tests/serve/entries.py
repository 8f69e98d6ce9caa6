"""Entries and ledgers for the tests of what is recorded."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from llmops.serve.entry import Entry


def an_entry(**said: Any) -> Entry:
    """An answered request, with what is `said` of it."""
    usual: dict[str, Any] = {
        "id": uuid4().hex,
        "at": time.time(),
        "endpoint": "/v1/chat/completions",
        "key": "k1",
        "route": "auto",
        "engine": "small",
        "version": "models:/m/3",
        "reason": "short",
        "prompt_tokens": 12,
        "completion_tokens": 5,
        "cached_tokens": 4,
        "first_token": 0.02,
        "total": 0.1,
        "status": 200,
        "usd": 0.001,
        "tags": ("team=x",),
    }
    return Entry(**{**usual, **said})
